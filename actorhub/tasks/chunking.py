"""How much work travels together, and how much a worker takes ahead. Pure.

Nobody knows beforehand how long a task takes, so both sides measure: a worker by itself, a sender by the `took` of each answer.
Tasks that are known to be short travel many in one message, which one worker takes; unknown ones travel alone. Where the guess
was wrong, the worker splits the message (`SPLIT_AFTER`), so that nobody waits behind it.
"""

from __future__ import annotations

import math
from collections import OrderedDict

CHUNK_WORK = 0.01  # seconds of work in one message
AHEAD_WORK = 0.02  # seconds of work that a worker takes ahead
SPLIT_AFTER = 0.05  # seconds after which what a worker has not begun goes back to the others
LARGEST_CHUNK = 256  # tasks
CHUNK_BYTES = 256 * 1024
LARGEST_PREFETCH = 100
SMALLEST_PREFETCH = 2  # one that runs, and one that follows it at once
CONCURRENT = 100  # `async def` tasks that one slot runs at once; more where these seem to wait for others
WIDEST = 10_000  # messages in one slot's hand past which it makes no room for more
_WEIGHT = 0.2  # of a new measurement
_REMEMBERED = 10_000  # names


class MeanDurations:
    """How long things take, by name: moving averages of seconds."""

    def __init__(self) -> None:
        self._means: OrderedDict[str, float] = OrderedDict()

    def record(self, name: str, seconds: float) -> None:
        known = self._means.get(name)
        self._means[name] = seconds if known is None else known + _WEIGHT * (seconds - known)
        if len(self._means) > _REMEMBERED:
            self._means.popitem(last=False)

    def of(self, name: str) -> float | None:
        """None for what was never measured."""
        return self._means.get(name)


class ChunkLoad:
    """What a message has taken on so far."""

    __slots__ = ("_bytes", "_count", "_known", "_work")

    def __init__(self) -> None:
        self._count, self._bytes, self._work, self._known = 0, 0, 0.0, True

    def takes(self, mean: float | None, size: int) -> bool:
        """Adds a task, unless the message should go without it. The first one always fits."""
        fits = self._count == 0 or (
            self._known
            and mean is not None
            and self._count < LARGEST_CHUNK
            and self._work + mean <= CHUNK_WORK
            and self._bytes + size <= CHUNK_BYTES
        )
        if fits:
            self._count += 1
            self._bytes += size
            self._work += mean or 0.0
            self._known = mean is not None
        return fits


def prefetch(mean: float | None) -> int:
    """How many messages of that mean a worker takes ahead, the one that it runs included."""
    if mean is None:
        return SMALLEST_PREFETCH
    return max(SMALLEST_PREFETCH, min(LARGEST_PREFETCH, math.ceil(AHEAD_WORK / max(mean, 1e-6)) + 1))


def adjusted_prefetch(current: int, wanted: int, waiting: int) -> int:
    """The prefetch to change to, where it is so wrong that this is worth a new consumer; else the current one.
    `waiting`: tasks in hand that hold up nobody, and have their places beside those that are wanted."""
    if wanted >= 2 * current:
        return wanted
    return wanted + waiting if 2 * (wanted + waiting) <= current else current


def widened_prefetch(current: int, in_hand: int) -> int | None:
    """The next prefetch, where all that is in hand may wait for what has found no room. None: no more room is made."""
    return min(2 * current, WIDEST) if in_hand < WIDEST else None
