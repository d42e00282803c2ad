"""Waiting for many tasks: results of several futures, and a map over rows of arguments."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actorhub.core.futures import wait_until_done
from actorhub.errors import CallCancelled, TooManyPending
from actorhub.objects.reference import ObjectRef
from actorhub.tasks.future import Future

if TYPE_CHECKING:
    from actorhub.tasks.progress import ProgressBar

R = TypeVar("R")
MAX_CONCURRENT_QUERIES = 8
"""Values that are brought from other nodes at the same time."""


async def get_all(
    wanted: Sequence[Future[Any] | ObjectRef[Any]],
    fetch: Callable[[ObjectRef[Any]], Awaitable[Any]],
    timeout: float | None,
) -> list[Any]:
    """Results of futures and values of references, in order.

    Args:
        wanted: the futures and references.
        fetch: gets the value of a reference.
        timeout: seconds to wait; None without a limit.

    Raises:
        CallCancelled: a task was cancelled.
        TimeoutError: the timeout passed.
        Exception: the first failure of a task or of `fetch`.
    """
    futures = [one for one in wanted if isinstance(one, Future)]
    async with asyncio.timeout(timeout):
        await wait_until_done([future.settled for future in futures], len(futures), or_failed=True)
        for future in futures:
            if future.cancelled():
                raise CallCancelled(f"{future.label} was cancelled")
            if future.done() and (error := future.exception()) is not None:
                raise error
        return await _values(wanted, fetch)


async def _values(
    wanted: Sequence[Future[Any] | ObjectRef[Any]], fetch: Callable[[ObjectRef[Any]], Awaitable[Any]]
) -> list[Any]:
    """Values in order, or the first failure.

    All futures are done; stored results are brought like values of references.
    """
    values: list[Any] = [None] * len(wanted)
    left = iter(enumerate(wanted))

    async def bring() -> None:
        for place, one in left:
            values[place] = await (one if isinstance(one, Future) else fetch(one))

    if len(wanted) == 1:
        await bring()
        return values
    bringing = [asyncio.ensure_future(bring()) for _ in range(min(MAX_CONCURRENT_QUERIES, len(wanted)))]
    try:
        await asyncio.gather(*bringing)
    finally:
        for task in bringing:
            task.cancel()
    return values


async def wait_for(
    futures: list[Future[R]], count: int | None, timeout: float | None
) -> tuple[list[Future[R]], list[Future[R]]]:
    """Wait for futures, and return those that are done and those that are not.

    Args:
        futures: the futures.
        count: return when this many are done; None waits for all.
        timeout: seconds to wait at most; None without a limit.

    Raises:
        ValueError: `count` is negative, or more than there are futures.
    """
    wanted = len(futures) if count is None else count
    if not 0 <= wanted <= len(futures):
        raise ValueError(f"count={wanted} of {len(futures)} futures can never be done; give 0 to {len(futures)}")
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await wait_until_done([future.settled for future in futures], wanted)
    return [f for f in futures if f.done()], [f for f in futures if not f.done()]


class TaskMap(AsyncIterator[R], Generic[R]):
    """Iterator over the results of one task for each row of arguments.

    Dropping it cancels the tasks that were not read, as `aclose` does.

    Args:
        submit: sends the task of a row.
        rows: rows of arguments.
        ordered: yield results in the order of the rows; else as they come.
        window: tasks that are submitted and not read yet, at most.
        progress: show a progress bar.

    Raises:
        ValueError: `window` is below 1.
    """

    _progress: ProgressBar | None = None
    _loop: asyncio.AbstractEventLoop | None = None  # set with the first submission

    def __init__(
        self,
        submit: Callable[[tuple[Any, ...]], Future[R]],
        rows: Iterator[tuple[Any, ...]],
        ordered: bool,
        window: int,
        progress: bool,
    ) -> None:
        if window < 1:
            raise ValueError(f"window={window} is not valid; give 1 or more")
        self._submit = submit
        self._rows = rows
        self._row: tuple[Any, ...] | None = None  # read from `rows`, not submitted yet
        self._ordered = ordered
        self._window = window
        self._unread: dict[Future[R], None] = {}  # in the order of sending
        self._done: deque[Future[R]] = deque()
        self._news = asyncio.Event()
        if progress:
            from actorhub.tasks.progress import ProgressBar  # takes a tenth of a second to import

            self._progress = ProgressBar()

    def __aiter__(self) -> TaskMap[R]:
        return self

    async def __anext__(self) -> R:
        try:
            self._fill()
            future = await self._next()
            result = await future
        except BaseException:
            self._close()
            raise
        if self._progress is not None:
            self._progress.advance()
        return result

    async def aclose(self) -> None:
        """Stop, and cancel the tasks that were submitted and not read."""
        self._close()

    def __del__(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._loop is not None and self._unread and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_cancel, self._unread)

    async def _next(self) -> Future[R]:
        """Take the next future to read.

        Raises:
            StopAsyncIteration: all have been read.
        """
        if not self._unread:
            raise StopAsyncIteration
        while not self._ordered and not self._done:
            self._news.clear()
            await self._news.wait()
        future = next(iter(self._unread)) if self._ordered else self._done.popleft()
        del self._unread[future]
        return future

    def _fill(self) -> None:
        self._loop = asyncio.get_running_loop()
        done, news = self._done, self._news  # so that the callback does not keep this map alive

        def one_done(future: Future[R]) -> None:
            done.append(future)
            news.set()

        while len(self._unread) < self._window:
            if self._row is None and (row := next(self._rows, None)) is not None:
                self._row = row
            if self._row is None:
                break
            try:
                future = self._submit(self._row)
            except TooManyPending:
                if not self._unread:
                    raise
                break  # until one of the pending tasks is done
            self._row = None
            self._unread[future] = None
            if not self._ordered:
                future.add_done_callback(one_done)
        if self._progress is not None:
            self._progress.expect(len(self._unread))

    def _close(self) -> None:
        self._rows, self._row = iter(()), None
        _cancel(self._unread)
        self._unread.clear()
        if self._progress is not None:
            self._progress.stop()


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
