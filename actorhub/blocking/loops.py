"""Event loops that threads without one hand their work to."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from actorhub.context import surroundings
from actorhub.ref import residence

T = TypeVar("T")

SHORT = 0.002  # seconds that a `def` task waits before others may run meanwhile


class Loop:
    """An event loop that another thread runs: for `def` methods, their worker's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for its end. A `def` task lends its turn to others meanwhile."""
        result = self._start(coroutine)
        here = residence.get()
        if here is None or here.lend is None:
            return result.result()
        try:
            return result.result(SHORT)
        except TimeoutError:
            if result.done():  # it raised that itself, or was a moment late
                return result.result()
        with here.lend(result):
            return result.result()

    def do(self, function: Callable[[], T]) -> T:
        """What is done in a moment, for which no task lends its turn: it would go on beside the one that had it meanwhile."""

        async def begin() -> T:
            return function()

        return self._start(begin()).result()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        around = surroundings.get()

        async def within() -> T:
            surroundings.set(around)
            return await coroutine

        return asyncio.run_coroutine_threadsafe(within(), self.loop)

    def stop(self) -> None:
        """It belongs to somebody else."""


class OwnLoop(Loop):
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
