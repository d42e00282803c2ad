"""What the blocking hub gives for calls, streams and timers that are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from actorhub.blocking.loops import Loop
from actorhub.call import Call
from actorhub.timer import Timer

R = TypeVar("R")


class SetTimer:
    """A timer that the broker has; `cancel` ends it."""

    def __init__(self, timer: Timer, loop: Loop) -> None:
        self._timer = timer
        self._loop = loop

    def cancel(self) -> None:
        """See `actorhub.Timer.cancel`."""
        self._loop.run(self._timer.cancel())


class SentCall(Generic[R]):
    """A call on its way, made by `Hub.send`."""

    def __init__(self, call: Call[R], loop: Loop) -> None:
        self._call = call
        self._loop = loop

    def result(self, timeout: float | None = None) -> R:
        """Wait for the answer, `timeout` seconds at most.

        Raises:
            TimeoutError: it did not come in time; the call goes on, and `result` may be called again.
        """

        async def wait() -> R:
            return await asyncio.wait_for(asyncio.shield(self._call), timeout)

        return self._loop.run(wait())

    def cancel(self) -> None:
        self._loop.loop.call_soon_threadsafe(self._call.cancel)


def items(loop: Loop, stream: Any) -> Iterator[Any]:
    try:
        while True:
            try:
                item = loop.run(stream.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        loop.run(stream.aclose())
