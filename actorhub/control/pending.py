"""Pending placements: the order in which actors, groups and slots that wait for resources are tried. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")
TryPlace = Callable[[T, Set[Hashable]], bool]
"""Places an item, but not where resources are held for others. Returns False if there is no room."""
Hold = Callable[[T, Set[Hashable]], Set[Hashable]]
"""Returns the nodes, or the bundle, to be held for an item, apart from those held already; none if it could not be anywhere."""

STARVATION_LIMIT = 100
"""Later requests that may be placed before an earlier one, until nodes or bundles are held for it."""
PREEMPTING_PRIORITY = 1 << 31
"""Priority above all others: of an item for which slots are being stopped."""


@dataclass(frozen=True, slots=True)
class PendingPlacement(Generic[T]):
    """One item that waits for resources."""

    item: T
    shape: Hashable
    """A key that is equal for two items that fit in the same places."""
    number: int
    """Position among items of the same priority."""
    priority: int = 0
    """A higher one is tried first."""

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.number


class PendingPlacements(Generic[T]):
    """Items that wait for resources, tried in the order of their priority and number.

    An item that finds no room holds up none behind it at first, so that small items run beside large ones. Once
    `STARVATION_LIMIT` others have been placed since it began to wait, it is starving: nodes are held for it on which it would
    fit if they were empty, and no item behind it goes there. So it is placed in the end, if what runs there ends; items that
    fit elsewhere are not held up.
    """

    def __init__(self) -> None:
        self._by_shape: dict[Hashable, OrderedDict[str, PendingPlacement[T]]] = {}
        self._by_key: dict[str, PendingPlacement[T]] = {}
        self._untried: list[tuple[tuple[int, int], str]] = []
        self._placed = 0
        # The value of `_placed` when an item began to wait; the one that has waited for longest is first.
        self._placed_before: OrderedDict[str, int] = OrderedDict()
        self._tried_at: object = None

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def items(self) -> list[T]:
        """All items in their order."""
        return [entry.item for entry in sorted(self._by_key.values(), key=lambda entry: entry.order)]

    def first_of_each_shape(self) -> list[T]:
        """The first item of each shape, in their order."""
        first = (next(iter(entries.values())) for entries in self._by_shape.values())
        return [entry.item for entry in sorted(first, key=lambda entry: entry.order)]

    def add(self, key: str, entry: PendingPlacement[T]) -> None:
        self._by_shape.setdefault(entry.shape, OrderedDict())[key] = entry
        self._by_key[key] = entry
        self._placed_before[key] = self._placed
        self._untried.append((entry.order, key))

    def prioritise(self, key: str) -> None:
        """Put an item before all others, and hold for it what becomes free: slots are being stopped for it."""
        entry = self._by_key[key] = replace(self._by_key[key], priority=PREEMPTING_PRIORITY)
        self._by_shape[entry.shape][key] = entry
        self._placed_before[key] = self._placed - STARVATION_LIMIT
        self._placed_before.move_to_end(key, last=False)

    def discard(self, key: str) -> None:
        """Remove an item, if it is there."""
        entry = self._by_key.pop(key, None)
        if entry is not None:
            entries = self._by_shape[entry.shape]
            del entries[key], self._placed_before[key]
            if not entries:
                del self._by_shape[entry.shape]

    def place_all(self, try_place: TryPlace[T], hold: Hold[T], room_version: object) -> None:
        """Place every item for which there is room.

        Args:
            try_place: places one item.
            hold: chooses what to hold for a starving item.
            room_version: changes whenever resources become free; while it stays the same, only new items are tried.
        """
        if room_version != self._tried_at or (self._untried and self._is_any_starving):
            self._tried_at = room_version
            self._try_all(try_place, hold)
        else:
            for _, key in sorted(self._untried):
                entry = self._by_key.get(key)
                if entry is not None and next(iter(self._by_shape[entry.shape])) == key:
                    self._try(key, try_place, frozenset())
        self._untried.clear()

    def _try_all(self, try_place: TryPlace[T], hold: Hold[T]) -> None:
        heads = [
            (entries[key].order, key) for entries in self._by_shape.values() for key in itertools.islice(entries, 1)
        ]
        heapq.heapify(heads)
        held: set[Hashable] = set()
        while heads:
            _, key = heapq.heappop(heads)
            entry = self._by_key[key]
            if self._try(key, try_place, held):
                following = self._by_shape.get(entry.shape)
                if following:
                    next_key, next_entry = next(iter(following.items()))
                    heapq.heappush(heads, (next_entry.order, next_key))
            elif self._is_starving(key):
                held |= hold(entry.item, held)

    def _try(self, key: str, try_place: TryPlace[T], held: Set[Hashable]) -> bool:
        entry = self._by_key.get(key)
        if entry is None or not try_place(entry.item, held):
            return False
        self._placed += 1
        self.discard(key)
        return True

    @property
    def _is_any_starving(self) -> bool:
        longest = next(iter(self._placed_before), None)
        return longest is not None and self._is_starving(longest)

    def _is_starving(self, key: str) -> bool:
        return self._placed - self._placed_before[key] >= STARVATION_LIMIT
