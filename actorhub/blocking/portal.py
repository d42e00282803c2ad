"""Portals: event loops in other threads that run coroutines for code without a loop, and the calls, streams and
timers that go through them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from actorhub.actors.execution import current_execution
from actorhub.actors.handle import RemoteMethod
from actorhub.actors.timers import Timer
from actorhub.hub import hub as asynchronous
from actorhub.messaging.calls import Call
from actorhub.messaging.context import call_context

T = TypeVar("T")

YIELD_AFTER_SECONDS = 0.002
"""Time that a `def` task waits before it yields its turn to others."""

R = TypeVar("R")


class Portal:
    """Event loop that another thread runs; for `def` methods, the loop of their worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its end. A `def` task yields its turn to others meanwhile."""
        result = self._start(coroutine)
        here = current_execution.get()
        if here is None or here.yield_turn is None:
            return result.result()
        try:
            return result.result(YIELD_AFTER_SECONDS)
        except TimeoutError:
            if result.done():  # it raised that itself, or was a moment late
                return result.result()
        with here.yield_turn(result):
            return result.result()

    def do(self, function: Callable[[], T]) -> T:
        """Call a short function on the loop.

        A `def` task keeps its turn: else it would resume beside the task that got the turn.
        """

        async def begin() -> T:
            return function()

        return self._start(begin()).result()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        around = call_context.get()

        async def within() -> T:
            call_context.set(around)
            return await coroutine

        return asyncio.run_coroutine_threadsafe(within(), self.loop)

    def stop(self) -> None:
        """Do nothing: the loop belongs to its owner."""


class OwnedPortal(Portal):
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        super().__init__(asyncio.new_event_loop())
        self._thread = threading.Thread(target=self._run, name="actorhub-blocking", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def stop(self) -> None:
        if self.pid == os.getpid():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()


class SetTimer:
    """Timer that the broker has confirmed; `cancel` ends it."""

    def __init__(self, timer: Timer, loop: Portal) -> None:
        self._timer = timer
        self._loop = loop

    def cancel(self) -> None:
        """See `actorhub.Timer.cancel`."""
        self._loop.run(self._timer.cancel())


class SentCall(Generic[R]):
    """Pending call, created by `Hub.send`."""

    def __init__(self, call: Call[R], loop: Portal) -> None:
        self._call = call
        self._loop = loop

    def result(self, timeout: float | None = None) -> R:
        """Wait for the reply, `timeout` seconds at most.

        Raises:
            TimeoutError: the reply did not come in time; the call goes on, and `result` may be called again.
        """

        async def wait() -> R:
            return await asyncio.wait_for(asyncio.shield(self._call), timeout)

        return self._loop.run(wait())

    def cancel(self) -> None:
        self._loop.loop.call_soon_threadsafe(self._call.cancel)


def items(loop: Portal, stream: Any) -> Iterator[Any]:
    try:
        while True:
            try:
                item = loop.run(stream.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        loop.run(stream.aclose())


def adopted_method(hub: asynchronous.Hub, method: Any) -> RemoteMethod:
    """The same method of a handle of this hub's session, whatever hub the handle came from."""
    if not isinstance(method, RemoteMethod):
        raise TypeError(f"{method!r} is not the method of a handle; write it as in hub.ask(counter.add, 5)")
    return RemoteMethod(hub.adopt(method.handle), method.name, method.signature)
