"""The timers of a plain actor: in memory, they end with its instance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from actorhub import recurrence
from actorhub.address import new_id
from actorhub.envelope import Envelope, Kind, Timer
from actorhub.work import Answer, Work

Due = tuple[Timer, Envelope, bytes]


class Timers:
    """`offer` takes each message when its time has come; `on_finished` hears what became of it."""

    def __init__(self, offer: Callable[[Work], None], on_finished: Callable[[Work, Answer], None]) -> None:
        self._offer = offer
        self._on_finished = on_finished
        self._armed: dict[str, asyncio.TimerHandle] = {}

    def arm(self, timer: Timer, envelope: Envelope, payload: bytes) -> None:
        delay = max(0.0, timer.due - time.time())
        self._armed[timer.id] = asyncio.get_running_loop().call_later(delay, self._fire, (timer, envelope, payload))

    def cancel(self, timer: str) -> bool:
        """Whether there was one of that id."""
        armed = self._armed.pop(timer, None)
        if armed is not None:
            armed.cancel()
        return armed is not None

    def close(self) -> None:
        for timer in list(self._armed):
            self.cancel(timer)

    def _fire(self, due: Due) -> None:
        timer, envelope, payload = due
        del self._armed[timer.id]
        now = time.time()
        following = recurrence.following(timer, now)
        if following is not None:
            self.arm(following, envelope, payload)
        if not recurrence.is_missed(timer, now):
            told = envelope.model_copy(
                update={"kind": Kind.TELL, "id": new_id(), "timer": None, "seq": 0, "sender": "", "deadline": None}
            )
            self._offer(Work(told, payload, None, self._on_finished))
