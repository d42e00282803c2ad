"""Waiting for many tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actorhub.errors import CallCancelled
from actorhub.future import Future
from actorhub.futures import ended
from actorhub.object_ref import ObjectRef

if TYPE_CHECKING:
    from actorhub.progress import Bar

R = TypeVar("R")
AT_ONCE = 8  # values that are brought from other nodes at the same time


async def get_all(
    wanted: Sequence[Future[Any] | ObjectRef[Any]],
    fetch: Callable[[ObjectRef[Any]], Awaitable[Any]],
    timeout: float | None,
) -> list[Any]:
    """The results and values in order, or the first failure."""
    futures = [one for one in wanted if isinstance(one, Future)]
    async with asyncio.timeout(timeout):
        await ended([future.settled for future in futures], len(futures), or_failed=True)
        for future in futures:
            if future.cancelled():
                raise CallCancelled(f"{future.label} was cancelled")
            if future.done() and (error := future.exception()) is not None:
                raise error
        return await _values(wanted, fetch)


async def _values(
    wanted: Sequence[Future[Any] | ObjectRef[Any]], fetch: Callable[[ObjectRef[Any]], Awaitable[Any]]
) -> list[Any]:
    """In order, or the first failure. All futures are done; their results may have to be brought, as those of references."""
    values: list[Any] = [None] * len(wanted)
    left = iter(enumerate(wanted))

    async def bring() -> None:
        for place, one in left:
            values[place] = await (one if isinstance(one, Future) else fetch(one))

    if len(wanted) == 1:
        await bring()
        return values
    bringing = [asyncio.ensure_future(bring()) for _ in range(min(AT_ONCE, len(wanted)))]
    try:
        await asyncio.gather(*bringing)
    finally:
        for task in bringing:
            task.cancel()
    return values


async def wait_for(
    futures: list[Future[R]], count: int | None, timeout: float | None
) -> tuple[list[Future[R]], list[Future[R]]]:
    """Those that are done, and those that are not."""
    wanted = len(futures) if count is None else count
    if not 0 <= wanted <= len(futures):
        raise ValueError(f"count={wanted} of {len(futures)} futures will never be done; give 0 to {len(futures)}")
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await ended([future.settled for future in futures], wanted)
    return [f for f in futures if f.done()], [f for f in futures if not f.done()]


class Mapping(AsyncIterator[R], Generic[R]):
    """`submit` makes a row of arguments into a future; at most `window` of them are not read yet."""

    def __init__(
        self,
        submit: Callable[[tuple[Any, ...]], Future[R]],
        rows: Iterator[tuple[Any, ...]],
        ordered: bool,
        window: int,
        progress: bool,
    ) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} tasks never begins; give 1 or more")
        self._submit = submit
        self._rows = rows
        self._ordered = ordered
        self._window = window
        self._unread: dict[Future[R], None] = {}  # in the order of sending
        self._done: deque[Future[R]] = deque()
        self._news = asyncio.Event()
        self._progress: Bar | None = None
        if progress:
            from actorhub.progress import Bar  # takes a tenth of a second to import

            self._progress = Bar()

    def __aiter__(self) -> Mapping[R]:
        return self

    async def __anext__(self) -> R:
        self._fill()
        if not self._unread:
            self._close()
            raise StopAsyncIteration
        try:
            future = await self._next()
            del self._unread[future]
            result = await future
        except BaseException:
            self._close()
            raise
        if self._progress is not None:
            self._progress.advance()
        return result

    async def aclose(self) -> None:
        """Leave: what was submitted and not read is cancelled."""
        self._close()

    async def _next(self) -> Future[R]:
        if self._ordered:
            return next(iter(self._unread))
        while not self._done:
            self._news.clear()
            await self._news.wait()
        return self._done.popleft()

    def _fill(self) -> None:
        while len(self._unread) < self._window and (row := next(self._rows, None)) is not None:
            future = self._submit(row)
            self._unread[future] = None
            if not self._ordered:
                future.add_done_callback(self._one_done)
        if self._progress is not None:
            self._progress.expect(len(self._unread))

    def _one_done(self, future: Future[R]) -> None:
        self._done.append(future)
        self._news.set()

    def _close(self) -> None:
        self._rows = iter(())
        for future in self._unread:
            future.cancel()
        self._unread.clear()
        if self._progress is not None:
            self._progress.stop()
