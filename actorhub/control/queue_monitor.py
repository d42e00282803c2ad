"""Monitor of the depths of task queues with dedicated slots. Control polls them, since no message reports them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from actorhub.broker import Link, QueueState
from actorhub.control.state import ControlState
from actorhub.errors import ActorHubError, BrokerUnavailable

log = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 0.1
"""Interval at which active queues are polled."""
ACTIVE_SECONDS = 10.0
"""Time for which a queue stays active after its last use, message or slot."""
IDLE_QUEUES_PER_POLL = 50
"""Inactive queues that are polled each time, in turn: retries and delayed tasks get into a queue without a call of control."""
UNSERVED_WARNING_SECONDS = 10.0
"""Time without a slot after which a queue with waiting tasks is logged."""


class QueueDepthMonitor:
    """Reports depths of task queues on which control has to act.

    Args:
        link: the broker link.
        state: names the queues to watch, and says whether it would act on their depths.
        report: takes the depths that were read: messages that no slot has taken, by queue.
    """

    def __init__(self, link: Link, state: ControlState, report: Callable[[dict[str, int]], Awaitable[None]]) -> None:
        self._link = link
        self._state = state
        self._report = report
        self._active_at: dict[str, float] = {}
        # When a queue was first found unserved; infinite once that has been logged.
        self._unserved_since: dict[str, float] = {}
        self._idle: Iterator[str] = iter(())

    def mark_active(self, queue: str) -> None:
        """Note that tasks may have been sent to the queue."""
        self._active_at[queue] = time.monotonic()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            try:
                depths = await self._poll()
                if self._state.would_act_on(depths):
                    await self._report(depths)
            except ActorHubError:
                log.debug("control could not read the depths of task queues", exc_info=True)

    async def _poll(self) -> dict[str, int]:
        """Depths of the active queues, and of some others."""
        now, depths = time.monotonic(), dict[str, int]()
        queues = self._state.watched()
        self._active_at = {
            name: at for name, at in self._active_at.items() if name in queues and now - at < ACTIVE_SECONDS
        }
        for name in [*self._active_at, *self._next_idle(queues)]:
            state = await self._state_of(name)
            if state is None:
                continue
            depths[name] = state.messages
            if state.messages or queues[name]:
                self._active_at[name] = now
            self._warn_if_unserved(name, state.messages > 0 and not queues[name], now)
        return depths

    async def _state_of(self, name: str) -> QueueState | None:
        """The queue's state; None if it does not exist, or while the broker's node that holds it is down."""
        try:
            return await self._link.state(name)
        except BrokerUnavailable:
            if self._link.lost is not None:
                raise
            return None

    def _next_idle(self, queues: Iterable[str]) -> list[str]:
        """The next inactive queues in turn."""
        some = list(itertools.islice(self._idle, IDLE_QUEUES_PER_POLL))
        if not some:
            self._idle = iter([name for name in queues if name not in self._active_at])
        return [name for name in some if name in queues and name not in self._active_at]

    def _warn_if_unserved(self, name: str, is_unserved: bool, now: float) -> None:
        if not is_unserved:
            self._unserved_since.pop(name, None)
        elif now - self._unserved_since.setdefault(name, now) > UNSERVED_WARNING_SECONDS:
            self._unserved_since[name] = float("inf")
            log.warning("tasks wait in %s, but no slot serves them: %s", name, self._state.queue_waits_for(name))
