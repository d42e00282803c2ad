"""Chunking and prefetch: tasks in one message, and messages that a slot takes ahead. Pure.

The duration of a task is not known beforehand, so both sides measure it: a slot by itself, a sender by the `took` of each
reply. Tasks known to be short share a message, which one slot takes; tasks of unknown duration travel alone. If the
estimate was wrong, the slot splits the message (`SPLIT_AFTER_SECONDS`), so that no task waits behind a long one.
"""

from __future__ import annotations

import math
from collections import OrderedDict

CHUNK_WORK_SECONDS = 0.01
"""Work in one message."""
CHUNK_TASKS = 256
"""Tasks in one message, at most."""
CHUNK_BYTES = 256 * 1024
PREFETCH_WORK_SECONDS = 0.02
"""Work that a slot takes ahead."""
SPLIT_AFTER_SECONDS = 0.05
"""Time after which a slot gives back what it has not started."""
MIN_PREFETCH = 2
"""Messages: one that runs, and one that follows it at once."""
MAX_PREFETCH = 100
"""Messages that a slot takes ahead, at most."""
CONCURRENT_TASKS = 100
"""`async def` tasks that one slot runs at once; more if these seem to wait for others."""
MAX_IN_HAND = 10_000
"""Messages in the hand of one slot, at which it stops raising its prefetch."""
_WEIGHT = 0.2
"""Weight of a new measurement in a moving average."""
_MAX_NAMES = 10_000
"""Names whose mean is kept, at most."""


class MeanDurations:
    """Mean durations by name: moving averages, in seconds."""

    def __init__(self) -> None:
        self._means: OrderedDict[str, float] = OrderedDict()

    def record(self, name: str, seconds: float) -> None:
        known = self._means.get(name)
        self._means[name] = seconds if known is None else known + _WEIGHT * (seconds - known)
        if len(self._means) > _MAX_NAMES:
            self._means.popitem(last=False)

    def of(self, name: str) -> float | None:
        """Mean duration in seconds; None if nothing was recorded under this name."""
        return self._means.get(name)


class ChunkLoad:
    """Tasks, bytes and work of a message that is being filled."""

    __slots__ = ("_bytes", "_count", "_known", "_work")

    def __init__(self) -> None:
        self._count, self._bytes, self._work, self._known = 0, 0, 0.0, True

    def takes(self, mean: float | None, size: int) -> bool:
        """Add a task if the message has room for it; the first one always fits.

        Args:
            mean: the task's mean duration in seconds; None if it is unknown.
            size: bytes of its payload.
        """
        fits = self._count == 0 or (
            self._known
            and mean is not None
            and self._count < CHUNK_TASKS
            and self._work + mean <= CHUNK_WORK_SECONDS
            and self._bytes + size <= CHUNK_BYTES
        )
        if fits:
            self._count += 1
            self._bytes += size
            self._work += mean or 0.0
            self._known = mean is not None
        return fits


def prefetch_for(mean: float | None) -> int:
    """Prefetch of a slot for messages of a mean duration in seconds; it includes the message that runs."""
    if mean is None:
        return MIN_PREFETCH
    return max(MIN_PREFETCH, min(MAX_PREFETCH, math.ceil(PREFETCH_WORK_SECONDS / max(mean, 1e-6)) + 1))


def adjusted_prefetch(current: int, wanted: int, concurrent: int) -> int:
    """The prefetch to change to; the current one unless it is so wrong that a change is worth a new consumer.

    Args:
        current: the prefetch that the consumer has.
        wanted: the prefetch that its tasks' durations ask for.
        concurrent: tasks in hand that hold up no other. They need places beside the wanted ones.
    """
    if wanted >= 2 * current:
        return wanted
    return wanted + concurrent if 2 * (wanted + concurrent) <= current else current


def widened_prefetch(current: int, in_hand: int) -> int | None:
    """The next prefetch if all messages in hand may wait for one that found no room; None if no more room is made."""
    return min(2 * current, MAX_IN_HAND) if in_hand < MAX_IN_HAND else None
