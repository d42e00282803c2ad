"""A simulated process: a client or a worker, which stops and dies as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.clock import Clock


class Process:
    """While it is paused nothing happens in it; what is due meanwhile happens afterwards, in order."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.paused_until = 0

    @property
    def is_paused(self) -> bool:
        return self.paused_until > self.clock.now

    def pause(self, steps: int) -> None:
        self.paused_until = max(self.paused_until, self.clock.now + steps)

    def later(self, steps: int, act: Callable[..., None], *args: Any) -> None:
        self.clock.after(steps, self._act, act, args)

    def _act(self, act: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.is_paused:
            self.clock.at(self.paused_until, self._act, act, args)
        else:
            act(*args)
