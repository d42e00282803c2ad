"""Helpers to wait for futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def resolver_of(future: asyncio.Future[T]) -> Callable[[T], None]:
    """Callback that gives the future its result, unless it has ended already: cancelled, failed, or resolved before."""

    def resolve(result: T) -> None:
        if not future.done():
            future.set_result(result)

    return resolve


async def wait_until_done(futures: Sequence[asyncio.Future[Any]], count: int, *, or_failed: bool = False) -> None:
    """Return when `count` of the futures have ended; with `or_failed` also as soon as one has failed or was cancelled.
    No callback stays on those that go on, so they may be waited for again and again."""
    waiting = [future for future in futures if not future.done()]
    left = count - (len(futures) - len(waiting))
    if left <= 0 or (or_failed and any(future.done() and has_failed(future) for future in futures)):
        return
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    resolve = resolver_of(over)

    def one_more(future: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (or_failed and has_failed(future)):
            resolve(None)

    for future in waiting:
        future.add_done_callback(one_more)
    try:
        await over
    finally:
        for future in waiting:
            future.remove_done_callback(one_more)


def has_failed(future: asyncio.Future[Any]) -> bool:
    """True if a completed future was cancelled or failed."""
    return future.cancelled() or future.exception() is not None
