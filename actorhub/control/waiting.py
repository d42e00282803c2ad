"""Who waits for a place, and in which order they are tried. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

OVERTAKEN = 100  # later requests that may go first before those behind leave the resources to the one that waits


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """`shape`: two of one shape fit in the same places. `resources`: the names of those that it asks for. `number`: its place
    in the order."""

    item: T
    shape: Hashable
    resources: frozenset[str]
    number: int


class Waiting(Generic[T]):
    """Requests are tried in their order. One that finds no place holds up nobody at first, so that what is small runs beside
    what is large; but when OVERTAKEN others have been placed since it began to wait, those behind it leave to it the resources
    that it asks for. So each is served in the end, if it can ever be, and if those that are served end.
    """

    def __init__(self) -> None:
        self._shapes: dict[Hashable, OrderedDict[str, Request[T]]] = {}
        self._by_id: dict[str, Request[T]] = {}
        self._first_try: list[tuple[int, str]] = []
        self._placed = 0
        self._placed_before: dict[
            str, int
        ] = {}  # how many had been placed when it began to wait; the longest waits first
        self._tried_at: object = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._by_id

    def items(self) -> list[T]:
        """In their order."""
        return [request.item for request in sorted(self._by_id.values(), key=lambda request: request.number)]

    def add(self, id_: str, request: Request[T]) -> None:
        self._shapes.setdefault(request.shape, OrderedDict())[id_] = request
        self._by_id[id_] = request
        self._placed_before[id_] = self._placed
        self._first_try.append((request.number, id_))

    def discard(self, id_: str) -> None:
        request = self._by_id.pop(id_, None)
        if request is not None:
            of = self._shapes[request.shape]
            del of[id_], self._placed_before[id_]
            if not of:
                del self._shapes[request.shape]

    def serve(self, place: Callable[[T], bool], room: object) -> None:
        """Try them. `place` says whether it has found a place, and takes it out then. While `room` stays the same nobody has
        given anything back, and only those are tried that are new."""
        if room == self._tried_at:
            self._serve_new(place)
        else:
            self._tried_at = room
            self._serve_all(place)
        self._first_try.clear()

    def _serve_new(self, place: Callable[[T], bool]) -> None:
        if not self._first_try:
            return
        longest = next(iter(self._placed_before), None)
        if longest is not None and self._is_patient_no_more(longest):
            self._serve_all(place)
            return
        for _, id_ in sorted(self._first_try):
            request = self._by_id.get(id_)
            if request is not None and next(iter(self._shapes[request.shape])) == id_:
                self._try(id_, place)

    def _serve_all(self, place: Callable[[T], bool]) -> None:
        heads = [(of[id_].number, id_) for of in self._shapes.values() for id_ in itertools.islice(of, 1)]
        heapq.heapify(heads)
        held: set[str] = set()
        while heads:
            _, id_ = heapq.heappop(heads)
            request = self._by_id[id_]
            if not held.isdisjoint(request.resources):
                continue
            if self._try(id_, place):
                following = self._shapes.get(request.shape)
                if following:
                    head, after = next(iter(following.items()))
                    heapq.heappush(heads, (after.number, head))
            elif self._is_patient_no_more(id_):
                held |= request.resources

    def _try(self, id_: str, place: Callable[[T], bool]) -> bool:
        request = self._by_id.get(id_)
        if request is None or not place(request.item):
            return False
        self._placed += 1
        self.discard(id_)
        return True

    def _is_patient_no_more(self, id_: str) -> bool:
        return self._placed - self._placed_before[id_] >= OVERTAKEN
