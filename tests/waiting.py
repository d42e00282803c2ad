"""Waiting for conditions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
SETTLED = (
    3.0  # seconds after which RabbitMQ 3.10 keeps a queue's definition though it is killed; see docs/guarantees.md
)


async def until(condition: Callable[[], T | Awaitable[T]], *, within: float = 30.0) -> T:
    """Asks again and again until the answer is true; fails with the last answer after `within` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while True:
        found = condition()
        answer = await found if inspect.isawaitable(found) else found
        if answer:
            return answer
        assert loop.time() < end, f"not within {within} s; the last answer was {answer!r}"
        await asyncio.sleep(0.02)
