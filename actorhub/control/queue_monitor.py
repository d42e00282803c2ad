"""What waits in the task queues that have slots of their own: control looks, for no message tells it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from actorhub.broker import Link, QueueState
from actorhub.control.state import ControlState
from actorhub.errors import ActorHubError, BrokerUnavailable

log = logging.getLogger(__name__)

LOOK = 0.1  # seconds between looks at queues in which something happens
COLD = 10.0  # seconds after which nothing happens in a queue in which nothing waited, and that has no slot
BATCH = 50  # of the others, how many are looked at each time: retries and delayed tasks come without a word
SILENT = 10.0  # seconds after which the log says of a queue that nobody serves it


class QueueDepthMonitor:
    """`tell` takes what waits, by queue, where anything follows from it."""

    def __init__(self, link: Link, state: ControlState, tell: Callable[[dict[str, int]], Awaitable[None]]) -> None:
        self._link = link
        self._state = state
        self._tell = tell
        self._busy_at: dict[str, float] = {}
        self._unserved: dict[str, float] = {}  # since when, infinite where the log has said so
        self._others: Iterable[str] = iter(())

    def look_at(self, queue: str) -> None:
        """Something may have come there."""
        self._busy_at[queue] = time.monotonic()

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                waiting = await self._look()
                if self._state.would_act_on(waiting):
                    await self._tell(waiting)
            except ActorHubError:
                log.debug("control does not see what waits", exc_info=True)

    async def _look(self) -> dict[str, int]:
        now, found = time.monotonic(), dict[str, int]()
        queues = self._state.watched()
        self._busy_at = {name: since for name, since in self._busy_at.items() if name in queues and now - since < COLD}
        for name in [*self._busy_at, *self._some_others(queues)]:
            state = await self._state_of(name)
            if state is None:
                continue
            found[name] = state.messages
            if state.messages or queues[name]:
                self._busy_at[name] = now
            self._warn(name, state.messages > 0 and not queues[name], now)
        return found

    async def _state_of(self, name: str) -> QueueState | None:
        """None where it is not there, or out of reach for a while: that holds up no other."""
        try:
            return await self._link.state(name)
        except BrokerUnavailable:
            if self._link.lost is not None:
                raise
            return None

    def _some_others(self, queues: Iterable[str]) -> list[str]:
        """In turn."""
        some = list(itertools.islice(self._others, BATCH))
        if not some:
            self._others = iter([name for name in queues if name not in self._busy_at])
        return [name for name in some if name in queues and name not in self._busy_at]

    def _warn(self, name: str, is_unserved: bool, now: float) -> None:
        if not is_unserved:
            self._unserved.pop(name, None)
        elif now - self._unserved.setdefault(name, now) > SILENT:
            self._unserved[name] = float("inf")
            log.warning("tasks wait in %s, and nobody serves them: %s", name, self._state.queue_waits_for(name))
