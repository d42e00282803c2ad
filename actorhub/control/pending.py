"""Who waits for a place, and in which order they are tried. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")
Place = Callable[[T, Set[Hashable]], bool]
"""Whether it has found a place, which is none of those that are kept for others."""
Keep = Callable[[T, Set[Hashable]], Set[Hashable]]
"""The places to be kept for it, none of which is kept for another already; none where it could not be anywhere."""

OVERTAKEN = 100  # later requests that may go first before those behind leave the resources to the one that waits
PRIORITISED = 1 << 31  # a priority above all others


@dataclass(frozen=True, slots=True)
class PendingPlacement(Generic[T]):
    """`shape`: two of one shape fit in the same places. `number`: its place in the order of its priority; the higher priority
    comes first."""

    item: T
    shape: Hashable
    number: int
    priority: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.number


class PendingPlacements(Generic[T]):
    """Requests are tried in their order. One that finds no place holds up nobody at first, so that what is small runs beside
    what is large. When OVERTAKEN others have been placed since it began to wait, places are kept for it where it would fit if
    they were empty: nothing that comes behind it goes there. So it is served in the end, if what is there ends; what fits
    elsewhere is not held up.
    """

    def __init__(self) -> None:
        self._shapes: dict[Hashable, OrderedDict[str, PendingPlacement[T]]] = {}
        self._by_id: dict[str, PendingPlacement[T]] = {}
        self._first_try: list[tuple[tuple[int, int], str]] = []
        self._placed = 0
        self._placed_before: OrderedDict[str, int] = OrderedDict()  # when it began to wait; the most impatient is first
        self._tried_at: object = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._by_id

    def items(self) -> list[T]:
        """In their order."""
        return [request.item for request in sorted(self._by_id.values(), key=lambda request: request.order)]

    def heads(self) -> list[T]:
        """The first of each shape, in their order."""
        first = (next(iter(of.values())) for of in self._shapes.values())
        return [request.item for request in sorted(first, key=lambda request: request.order)]

    def add(self, id_: str, request: PendingPlacement[T]) -> None:
        self._shapes.setdefault(request.shape, OrderedDict())[id_] = request
        self._by_id[id_] = request
        self._placed_before[id_] = self._placed
        self._first_try.append((request.order, id_))

    def prioritise(self, id_: str) -> None:
        """Somebody makes way for it: it comes before all others, and what becomes free there is kept for it."""
        request = self._by_id[id_] = replace(self._by_id[id_], priority=PRIORITISED)
        self._shapes[request.shape][id_] = request
        self._placed_before[id_] = self._placed - OVERTAKEN
        self._placed_before.move_to_end(id_, last=False)

    def discard(self, id_: str) -> None:
        request = self._by_id.pop(id_, None)
        if request is not None:
            of = self._shapes[request.shape]
            del of[id_], self._placed_before[id_]
            if not of:
                del self._shapes[request.shape]

    def serve(self, place: Place[T], keep: Keep[T], room: object) -> None:
        """Try them. While `room` stays the same nobody has given anything back, and only those are tried that are new."""
        if room != self._tried_at or (self._first_try and self._is_anybody_impatient):
            self._tried_at = room
            self._serve_all(place, keep)
        else:
            for _, id_ in sorted(self._first_try):
                request = self._by_id.get(id_)
                if request is not None and next(iter(self._shapes[request.shape])) == id_:
                    self._try(id_, place, frozenset())
        self._first_try.clear()

    def _serve_all(self, place: Place[T], keep: Keep[T]) -> None:
        heads = [(of[id_].order, id_) for of in self._shapes.values() for id_ in itertools.islice(of, 1)]
        heapq.heapify(heads)
        kept: set[Hashable] = set()
        while heads:
            _, id_ = heapq.heappop(heads)
            request = self._by_id[id_]
            if self._try(id_, place, kept):
                following = self._shapes.get(request.shape)
                if following:
                    head, after = next(iter(following.items()))
                    heapq.heappush(heads, (after.order, head))
            elif self._is_impatient(id_):
                kept |= keep(request.item, kept)

    def _try(self, id_: str, place: Place[T], kept: Set[Hashable]) -> bool:
        request = self._by_id.get(id_)
        if request is None or not place(request.item, kept):
            return False
        self._placed += 1
        self.discard(id_)
        return True

    @property
    def _is_anybody_impatient(self) -> bool:
        longest = next(iter(self._placed_before), None)
        return longest is not None and self._is_impatient(longest)

    def _is_impatient(self, id_: str) -> bool:
        return self._placed - self._placed_before[id_] >= OVERTAKEN
