"""A small help for callbacks that end a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once(future: asyncio.Future[T]) -> Callable[[T], None]:
    """A callback that gives the future its result, unless it has ended already: cancelled, failed, or told before."""

    def resolve(result: T) -> None:
        if not future.done():
            future.set_result(result)

    return resolve
