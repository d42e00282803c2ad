"""Handles of a caller: a `Call` for one reply, a `Stream` for many items."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from typing import Any, Generic, TypeVar

from actorhub.errors import CallCancelled, RemoteError

R = TypeVar("R")
STREAM_CREDIT = 64
"""Items that a stream's actor may be ahead of its reader."""


class Call(asyncio.Future[R], Generic[R]):
    """A call that has been sent: await it for the reply.

    `cancel` cancels it here at once, and at the actor as soon as the actor hears of it. It is an `asyncio.Future`, so
    `gather`, `wait`, `timeout` and callbacks work as usual.
    """

    on_cancel: Callable[[], None] | None = None
    on_awaited: Callable[[], None] | None = None
    awaited = False
    """True once code waits for it: then the actor that made the call may be part of a deadlock."""

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        self.awaited = True
        super().add_done_callback(fn, context=context)
        if self.on_awaited is not None:
            self.on_awaited()

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.on_cancel is not None:
            self.on_cancel()
        return cancelled

    def __reduce__(self) -> Any:
        raise TypeError(
            "what was not awaited is not sent: await it first; only among the arguments of tasks, also inside lists, "
            "tuples and dictionaries, a future stands for its result"
        )

    def succeed(self, value: R) -> None:
        if not self.done():
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        if not self.done():
            self.set_exception(error)


class StreamReceiver(Generic[R]):
    """The receiving end of a stream: items in order, each once, and the credit that its reader grants."""

    def __init__(self) -> None:
        self._items: deque[R] = deque()
        # index of the item that is expected from the wire
        self._next_index = 0
        self._read = 0
        self._granted = STREAM_CREDIT
        self._ended = False
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        self.on_cancel: Callable[[], None] | None = None
        self.grant: Callable[[int], None] | None = None

    async def next(self) -> R:
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        item = self._items.popleft()
        self._read += 1
        if not self._ended and self._granted - self._read <= STREAM_CREDIT // 2 and self.grant is not None:
            self._granted = self._read + STREAM_CREDIT
            self.grant(self._granted)
        return item

    def close(self) -> None:
        if not self._ended:
            self.fail(CallCancelled("the stream was closed by its reader"))
            if self.on_cancel is not None:
                self.on_cancel()

    def expects(self, index: int) -> bool:
        """True if the item of this index is the next one. An actor that was restarted in the middle of a stream starts
        again from index 0: items received before are skipped, and the credit is granted again.

        Raises:
            RemoteError: earlier items never came.
        """
        if index == self._next_index:
            self._next_index += 1
            return True
        if index > self._next_index:
            raise RemoteError(f"the stream's item {self._next_index} was lost: {index} came instead; read it again")
        if self.grant is not None:
            self.grant(self._granted)
        return False

    def feed(self, item: R) -> None:
        self._items.append(item)
        self._news.set()

    def end(self, count: int) -> None:
        """End the stream, in which the actor has sent `count` items in all."""
        if count == self._next_index:
            self._ended = True
            self._news.set()
        else:
            self.fail(RemoteError(f"the stream had {count} items, and {self._next_index} came; read it again"))

    def fail(self, error: BaseException) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._news.set()

    def done(self) -> bool:
        return self._ended


class Stream(AsyncIterator[R], Generic[R]):
    """The items of a generator method, in order, each once. Iterate it once.

    The actor is never more than 64 items ahead of its reader. When the reader leaves the loop and drops the stream, or
    calls `aclose`, the generator at the actor is closed.
    """

    def __init__(self, inflow: StreamReceiver[R], loop: asyncio.AbstractEventLoop) -> None:
        self._inflow = inflow
        self._loop = loop

    def __aiter__(self) -> Stream[R]:
        return self

    async def __anext__(self) -> R:
        return await self._inflow.next()

    async def aclose(self) -> None:
        self._inflow.close()

    def __del__(self) -> None:
        if not self._inflow.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._inflow.close)
