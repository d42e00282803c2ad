"""Vector bin packing of bundles on as few nodes as possible, or as many: a bounded search. Pure.

Bundles are needs, and nodes are rooms: vectors with one number for each resource that the bundles name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from operator import add, ge, le, sub

from actorhub.core.resources import plus

MAX_ROOM_CHECKS = 25_000
"""Rooms that one search may look at beyond its first attempt: up to about 30 ms."""

Vector = tuple[int, ...]
Amounts = Mapping[str, int]


def fewest(bundles: Sequence[Amounts], kept: Sequence[Amounts], fresh: Sequence[Amounts]) -> list[int] | None:
    """Pack bundles so that as few as possible of `fresh` are taken.

    Exact if the search ends within `MAX_ROOM_CHECKS`; if not, there may be a better packing, or one where None is returned.

    Args:
        bundles: units of each bundle.
        kept: free units of nodes that hold some of the group already, and that cost nothing more.
        fresh: free units of other nodes.

    Returns:
        For each bundle the index of its node in `[*kept, *fresh]`; None if no packing was found.
    """
    needs, rooms = _vectors(bundles, [*kept, *fresh])
    chosen = [*range(len(kept)), *_useful(needs, rooms, len(kept))]
    search = _PackingSearch(needs, [rooms[index] for index in chosen], len(kept), spreads=False)
    bound = search.least()
    best = None if bound is None else search.run(len(needs))
    while best is not None and bound is not None and search.taken(best) > bound:
        fewer = search.run(search.taken(best) - 1)
        if fewer is None:
            break
        best = fewer
    return None if best is None else [chosen[room] for room in best]


def most(bundles: Sequence[Amounts], kept: Sequence[Amounts], fresh: Sequence[Amounts], bound: int) -> list[int] | None:
    """Pack bundles so that as many as possible of `fresh` are taken. Exactness and result as of `fewest`.

    Args:
        bundles: units of each bundle.
        kept: free units of nodes that hold some of the group already.
        fresh: free units of other nodes.
        bound: a number of nodes that no packing can exceed.
    """
    needs, rooms = _vectors(bundles, [*kept, *fresh])
    search = _PackingSearch(needs, rooms, len(kept), spreads=True)
    best = None if search.least() is None else search.run(0)
    while best is not None and search.taken(best) < bound:
        more = search.run(search.taken(best) + 1)
        if more is None:
            break
        best = more
    return best


class _PackingSearch:
    """Backtracking search, need by need.

    Args:
        needs: one vector for each bundle.
        rooms: one vector for each node.
        kept: number of rooms, the first ones, that hold some of the group already and do not count as taken.
        spreads: take as many rooms as possible, instead of as few.
    """

    def __init__(self, needs: Sequence[Vector], rooms: Sequence[Vector], kept: int, *, spreads: bool) -> None:
        self._total = [sum(column) for column in zip(*needs, strict=True)]
        if spreads:  # the needs with the least choice first
            order = sorted(range(len(needs)), key=lambda index: sum(_holds(room, needs[index]) for room in rooms))
        else:
            order = sorted(range(len(needs)), key=lambda index: -self._size(needs[index]))
        self._order = order
        self._needs = [needs[index] for index in order]
        self._rooms = rooms
        self._kept = kept
        self._spreads = spreads
        self._steps = len(needs) + MAX_ROOM_CHECKS // max(1, len(rooms))
        self._left: list[Vector] = []
        self._held: list[int] = []  # number of bundles in each room
        self._opened = 0

    def taken(self, chosen: Sequence[int]) -> int:
        """Number of rooms taken, without those kept."""
        return len({room for room in chosen if room >= self._kept})

    def least(self) -> int | None:
        """A lower bound of the rooms taken, by their sizes alone; None if all rooms together are too small."""
        least = 0
        for axis, total in enumerate(self._total):
            sizes = [room[axis] for room in self._rooms]
            missing = total - sum(sizes[: self._kept])
            count = 0
            for size in sorted(sizes[self._kept :], reverse=True):
                if missing <= 0:
                    break
                missing -= size
                count += 1
            if missing > 0:
                return None
            least = max(least, count)
        return least

    def run(self, limit: int) -> list[int] | None:
        """A room for each need, with at most `limit` rooms taken, or at least so many if the search spreads; None if there is
        no such packing, or the steps are used up."""
        self._left = list(self._rooms)
        self._held = [0] * len(self._rooms)
        self._opened = 0
        path: list[int] = []
        choices = [self._choices(0, limit)]
        dead_ends: set[tuple[int, int, tuple[Vector, ...]]] = set()
        while choices:
            if len(path) == len(self._needs):
                placed = dict(zip(self._order, path, strict=True))
                return [placed[index] for index in range(len(path))]
            room = next(choices[-1], None)
            if room is None:
                dead_ends.add(self._state(len(path)))
                choices.pop()
                if path:
                    self._put(path.pop(), len(path), -1)
                continue
            if self._steps == 0:
                return None
            self._steps -= 1
            self._put(room, len(path), 1)
            path.append(room)
            if dead_ends and self._state(len(path)) in dead_ends:
                self._put(path.pop(), len(path), -1)
            else:
                choices.append(self._choices(len(path), limit))
        return None

    def _choices(self, at: int, limit: int) -> Iterator[int]:
        need = self._needs[at]
        if not self._spreads:
            yield from self._open(need)
            if self._opened < limit:
                yield from self._closed(need)
        else:
            yield from self._closed(need)
            if self._opened + len(self._needs) - at > limit:
                yield from sorted(self._open(need), key=self._held.__getitem__)

    def _open(self, need: Vector) -> Iterator[int]:
        for room, held in enumerate(self._held):
            if (held or room < self._kept) and _holds(self._left[room], need):
                yield room

    def _closed(self, need: Vector) -> Iterator[int]:
        """Rooms that hold nothing yet: one of each kind of equal rooms."""
        seen: set[Vector] = set()
        for room in range(self._kept, len(self._rooms)):
            left = self._left[room]
            if not self._held[room] and left not in seen and _holds(left, need):
                seen.add(left)
                yield room

    def _put(self, room: int, at: int, sign: int) -> None:
        self._left[room] = tuple(map(sub if sign > 0 else add, self._left[room], self._needs[at]))
        before = self._held[room]
        self._held[room] = after = before + sign
        if room >= self._kept:
            self._opened += (after > 0) - (before > 0)

    def _state(self, at: int) -> tuple[int, int, tuple[Vector, ...]]:
        return at, self._opened, tuple(self._left)

    def _size(self, need: Vector) -> float:
        return max((amount / total for amount, total in zip(need, self._total, strict=True)), default=0.0)


def _holds(room: Vector, need: Vector) -> bool:
    return all(map(le, need, room))


def _vectors(bundles: Sequence[Amounts], free: Sequence[Amounts]) -> tuple[list[Vector], list[Vector]]:
    """Requirements and rooms as vectors, divided by the greatest common divisor of the bundles' amounts.

    No room is larger than all bundles together. So two rooms that hold the same bundles are equal.
    """
    columns: list[list[int]] = []
    parts: list[list[int]] = []
    for name, whole in plus(*bundles).items():
        wanted = [bundle.get(name, 0) for bundle in bundles]
        step = gcd(*wanted)
        parts.append([amount // step for amount in wanted])
        there = [amounts.get(name, 0) for amounts in free]
        columns.append([(whole if amount > whole else max(amount, 0)) // step for amount in there])
    if not columns:
        return [()] * len(bundles), [()] * len(free)
    return list(zip(*parts, strict=True)), list(zip(*columns, strict=True))


def _useful(needs: Sequence[Vector], rooms: Sequence[Vector], kept: int) -> list[int]:
    """Indices of the rooms, without those kept, that are enough for a best packing; the largest first.

    A room is left out if as many others as there are bundles hold all that it holds: one of these can always replace it.
    """
    alike: dict[Vector, list[int]] = {}
    for index in range(kept, len(rooms)):
        alike.setdefault(rooms[index], []).append(index)
    whole = [max(1, sum(column)) for column in zip(*needs, strict=True)]
    kinds = set(needs)
    holding = [room for room in alike if any(_holds(room, need) for need in kinds)]
    holding.sort(key=lambda room: -sum(size / total for size, total in zip(room, whole, strict=True)))
    useful: list[int] = []
    ahead: list[tuple[Vector, int]] = []
    for room in holding:
        missing = len(needs)
        for other, count in ahead:
            if all(map(ge, other, room)):
                missing -= count
                if missing <= 0:
                    break
        else:
            some = alike[room][:missing]
            ahead.append((room, len(some)))
            useful += some
    return useful
