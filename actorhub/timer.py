"""What `hub.after` and `hub.every` give: a message that comes later, or again and again."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from actorhub import recurrence
from actorhub.address import new_id
from actorhub.broker import Outcome
from actorhub.envelope import Timer as Times
from actorhub.handle import RemoteMethod, address_of, session_of


class Timer:
    """Awaiting it waits until the broker has it, and raises what a `tell` raises. `cancel` ends it."""

    def __init__(self, remote: RemoteMethod, times: Times, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.id = times.id
        self._remote = remote
        self._session = session = session_of(remote.handle)
        ticket = address_of(remote.handle)
        self._sent = session.arm(ticket, remote.signature, remote.name, args, kwargs, times)

    def __await__(self) -> Generator[Any, None, Timer]:
        outcome: Outcome = yield from self._sent.__await__()
        yield from self._session.accepted(
            address_of(self._remote.handle), self._remote.signature.label, outcome
        ).__await__()
        return self

    async def cancel(self) -> None:
        """Returns when the broker has the word; what is due in this moment may still come.

        Raises:
            ActorNotFound, ActorDied: there is no such actor (any more).
        """
        ticket = address_of(self._remote.handle)
        await self._session.accepted(ticket, self._remote.signature.label, await self._session.disarm(ticket, self.id))

    def __repr__(self) -> str:
        return f"<timer {self.id} for {self._remote!r}>"


def after(remote: RemoteMethod, seconds: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timer:
    """Raises:
    ValueError: the delay is negative or not finite.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"a delay of {seconds} s makes no sense; give the seconds from now, 0 or more")
    return Timer(remote, Times(id=new_id(), due=time.time() + seconds, every=None), args, kwargs)


def every(
    remote: RemoteMethod, interval: float | str, catch_up: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Timer:
    """Raises:
    ValueError: it is neither an interval nor a cron expression.
    """
    due = recurrence.first(interval, time.time())
    cron, seconds = (interval, None) if isinstance(interval, str) else (None, interval)
    return Timer(remote, Times(id=new_id(), due=due, every=seconds, cron=cron, catch_up=catch_up), args, kwargs)
