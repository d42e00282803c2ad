"""Timers: due times (pure: `now` is an argument, in Unix seconds), the `Timer` of a caller, and in-memory timers of
actors.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

from cronsim import CronSim, CronSimError

from actorhub.actors.handle import RemoteMethod, address_of, session_of
from actorhub.broker import Outcome
from actorhub.core.addressing import new_id
from actorhub.messaging.request import Reply, Request
from actorhub.wire.envelope import Envelope, Kind, TimerSpec

MIN_PERIOD_SECONDS = 0.001
"""Shortest interval in seconds; a Unix time in a float is no finer than a millionth."""

Due = tuple[TimerSpec, Envelope, bytes]


def first_due(every: float | str, now: float) -> float:
    """First due time of a repeating timer, in Unix seconds.

    Args:
        every: the interval in seconds, or a cron expression.
        now: Unix seconds.

    Raises:
        ValueError: the expression is not valid, or the interval is below MIN_PERIOD_SECONDS or not finite.
    """
    if isinstance(every, str):
        return _after(every, now)
    if not MIN_PERIOD_SECONDS <= every < math.inf:
        raise ValueError(
            f"a timer cannot come every {every} s; give {MIN_PERIOD_SECONDS} s or more, or a cron expression"
        )
    return now + every


def next_due(timer: TimerSpec, now: float) -> TimerSpec | None:
    """Next occurrence of a timer that was due; None if it comes only once.

    Times before `now` are skipped, unless the timer catches up all of them.
    """
    since = timer.due if timer.catch_up == "all" else max(timer.due, now)
    if timer.cron is not None:
        due = _after(timer.cron, since)
    elif timer.every is not None:
        steps = math.floor((since - timer.due) / timer.every) + 1
        due = timer.due + steps * timer.every
    else:
        return None
    return timer.model_copy(update={"due": due})


def is_missed(timer: TimerSpec, now: float) -> bool:
    """True if this occurrence is skipped: the next one is due already, and the timer does not catch up."""
    if timer.catch_up != "skip" or (timer.every is None and timer.cron is None):
        return False
    following_one = next_due(timer.model_copy(update={"catch_up": "all"}), now)
    return following_one is not None and following_one.due <= now


def _after(cron: str, moment: float) -> float:
    try:
        return next(CronSim(cron, datetime.fromtimestamp(moment, UTC))).timestamp()
    except (CronSimError, StopIteration) as exc:
        raise ValueError(
            f"{cron!r} is not a cron expression that ever comes due; write it as in '*/5 * * * *'"
        ) from exc


class Timer:
    """Timer that was set. Awaiting it waits until the broker has stored it, and raises what `tell` raises."""

    def __init__(self, remote: RemoteMethod, times: TimerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.id = times.id
        self._remote = remote
        self._session = session = session_of(remote.handle)
        address = address_of(remote.handle)
        self._sent = session.sender.set_timer(address, remote.signature, remote.name, args, kwargs, times)

    def __await__(self) -> Generator[Any, None, Timer]:
        outcome: Outcome = yield from self._sent.__await__()
        yield from self._session.sender.check_stored(
            address_of(self._remote.handle), self._remote.signature.label, outcome
        ).__await__()
        return self

    async def cancel(self) -> None:
        """End the timer. Returns when the broker has stored the request; a message due at this moment may still come.

        Raises:
            ActorNotFound, ActorDied: the actor does not exist (any more).
        """
        address = address_of(self._remote.handle)
        await self._session.sender.check_stored(
            address, self._remote.signature.label, await self._session.sender.cancel_timer(address, self.id)
        )

    def __repr__(self) -> str:
        return f"<timer {self.id} for {self._remote!r}>"


def after(remote: RemoteMethod, seconds: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timer:
    """Set a timer that calls a method once, `seconds` from now.

    Raises:
        ValueError: the delay is negative or not finite.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"a delay of {seconds} s is not valid; give the seconds from now, 0 or more")
    return Timer(remote, TimerSpec(id=new_id(), due=time.time() + seconds, every=None), args, kwargs)


def every(
    remote: RemoteMethod, interval: float | str, catch_up: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Timer:
    """Set a timer that calls a method repeatedly.

    Args:
        remote: the method.
        interval: seconds, or a cron expression.
        catch_up: handling of missed times; see `TimerSpec`.
        args: positional arguments of the method.
        kwargs: keyword arguments of the method.

    Raises:
        ValueError: the interval is neither valid seconds nor a cron expression.
    """
    due = first_due(interval, time.time())
    cron, seconds = (interval, None) if isinstance(interval, str) else (None, interval)
    return Timer(remote, TimerSpec(id=new_id(), due=due, every=seconds, cron=cron, catch_up=catch_up), args, kwargs)


class InMemoryTimers:
    """Timers of a plain actor, in memory.

    Args:
        accept: takes each message when it is due.
        on_finished: called with each request and its reply when it was handled.
    """

    def __init__(self, accept: Callable[[Request], None], on_finished: Callable[[Request, Reply], None]) -> None:
        self._accept = accept
        self._on_finished = on_finished
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, timer: TimerSpec, envelope: Envelope, payload: bytes) -> None:
        delay = max(0.0, timer.due - time.time())
        self._timers[timer.id] = asyncio.get_running_loop().call_later(delay, self._fire, (timer, envelope, payload))

    def cancel(self, timer: str) -> bool:
        """Cancel a timer by its id; False if none has it."""
        found = self._timers.pop(timer, None)
        if found is not None:
            found.cancel()
        return found is not None

    def close(self) -> None:
        for timer in list(self._timers):
            self.cancel(timer)

    def _fire(self, due: Due) -> None:
        timer, envelope, payload = due
        del self._timers[timer.id]
        now = time.time()
        next_timer = next_due(timer, now)
        if next_timer is not None:
            self.set(next_timer, envelope, payload)
        if not is_missed(timer, now):
            told = envelope.model_copy(
                update={"kind": Kind.TELL, "id": new_id(), "timer": None, "seq": 0, "sender": "", "deadline": None}
            )
            self._accept(Request(told, payload, None, self._on_finished))
