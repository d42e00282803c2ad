"""What happens to a cluster, by seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from tests.chaos.bank import Bank
from tests.chaos.cluster import Cluster
from tests.waiting import SETTLED

CALM = 1.5  # seconds between events, at most


class Storm:
    """`events` is what has happened, with the seconds since the beginning."""

    def __init__(self, cluster: Cluster, bank: Bank, seed: int) -> None:
        self.events: list[str] = []
        self._cluster = cluster
        self._bank = bank
        self._chance = random.Random(seed)
        self._began = time.monotonic()

    async def rage(self, seconds: float) -> None:
        await asyncio.sleep(SETTLED)
        kinds: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (6, self._kill_a_worker),
            (3, self._pause_a_worker),
            (2, self._kill_an_agent),
            (2, self._close_connections),
            (1, self._kill_the_broker),
            (1, self._restart_the_broker),
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (event,) = self._chance.choices([event for _, event in kinds], [weight for weight, _ in kinds])
            self.events.append(f"{time.monotonic() - self._began:6.1f} s  {await event()}")
            self._bank.check_alive()
            await asyncio.sleep(self._chance.random() * CALM)

    async def _kill_a_worker(self) -> str:
        workers = self._cluster.workers()
        return self._cluster.kill_worker(self._chance.choice(workers)) if workers else "there is no worker to kill"

    async def _pause_a_worker(self) -> str:
        workers = self._cluster.workers()
        if not workers:
            return "there is no worker to pause"
        return await self._cluster.pause_worker(self._chance.choice(workers), self._chance.uniform(0.5, 4.0))

    async def _kill_an_agent(self) -> str:
        number = self._chance.randrange(self._cluster.agents)
        killed = self._cluster.kill_agent(number)
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        self._cluster.start_agent(number)
        return killed

    async def _close_connections(self) -> str:
        await asyncio.to_thread(self._cluster.broker.close_connections, "chaos")
        return "closed all connections"

    async def _kill_the_broker(self) -> str:
        await asyncio.to_thread(self._cluster.broker.kill)
        await asyncio.to_thread(self._cluster.broker.restart)
        return "killed the broker, and started it again"

    async def _restart_the_broker(self) -> str:
        await asyncio.to_thread(self._cluster.broker.restart)
        return "restarted the broker"
