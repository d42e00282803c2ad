"""Simulated time, in steps. What is due in the same step happens in the order in which it was scheduled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Timer:
    __slots__ = ("act", "args")

    def __init__(self, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.act: Callable[..., None] | None = act
        self.args = args

    def cancel(self) -> None:
        self.act = None


class Clock:
    def __init__(self) -> None:
        self.now = 0
        self.event_count = 0
        self._heap: list[tuple[int, int, Timer]] = []
        self._order = 0

    def at(self, when: int, act: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(act, args)
        self._order += 1
        heapq.heappush(self._heap, (max(when, self.now), self._order, timer))
        return timer

    def after(self, steps: int, act: Callable[..., None], *args: Any) -> Timer:
        return self.at(self.now + steps, act, *args)

    def run(self, limit: int) -> bool:
        """Run until nothing is due any more. False if that takes more than `limit` events."""
        heap = self._heap
        while heap:
            self.now, _, timer = heapq.heappop(heap)
            if timer.act is None:
                continue
            self.event_count += 1
            if self.event_count > limit:
                return False
            timer.act(*timer.args)
        return True


class Loop:
    """The part of an event loop that an outbox uses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def call_soon(self, act: Callable[..., None], *args: Any) -> Timer:
        return self._clock.after(0, act, *args)

    def call_later(self, seconds: float, act: Callable[..., None], *args: Any) -> Timer:
        return self._clock.after(int(seconds * 1000), act, *args)

    def time(self) -> float:
        return self._clock.now / 1000
