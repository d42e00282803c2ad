"""Call rates of a cluster, measured against an `Echo`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actorhub.actors.handle import tell
from actorhub.hub.hub import Hub
from actorhub.node.echo import Echo


@dataclass(frozen=True)
class Rate:
    """Rate of `count` operations, `outstanding` at a time, in `seconds`."""

    work: str
    outstanding: int
    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


PAYLOAD = "x" * 80


async def asks(echo: Echo, outstanding: int, seconds: float) -> Rate:
    """Measure asks, with `outstanding` of them in flight."""
    return await _measure("ask", lambda: echo.echo(PAYLOAD), outstanding, seconds)


async def tells(echo: Echo, outstanding: int, seconds: float) -> Rate:
    """Measure tells, each awaited until the broker has confirmed it."""
    return await _measure("tell", lambda: tell(echo.hear, PAYLOAD), outstanding, seconds)


async def _measure(work: str, once: Callable[[], Awaitable[object]], outstanding: int, seconds: float) -> Rate:
    await once()
    began = time.perf_counter()
    until = began + seconds
    count = 0

    async def keep_on() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await once()
            count += 1

    await asyncio.gather(*(keep_on() for _ in range(outstanding)))
    return Rate(work, outstanding, count, time.perf_counter() - began)


async def measure(hub: Hub, seconds: float) -> list[Rate]:
    """Measure asks and tells against an Echo of this cluster. The Echo is killed at the end."""
    echo = await hub.spawn(Echo)
    rates = [await asks(echo, outstanding, seconds) for outstanding in (1, 10, 100, 1000)]
    rates += [await tells(echo, outstanding, seconds) for outstanding in (1, 1000)]
    await hub.kill(echo)
    return rates
