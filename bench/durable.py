"""Durable actors: speed, recovery time after a kill, and memory of keyed instances. `python -m bench.durable URL`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from typing import ClassVar, cast

import psutil
import uvloop

from actorhub import Hub, Settings, actor
from actorhub.cli.benchmark import PAYLOAD, asks
from actorhub.node.echo import Echo
from bench import bare_echo

KILLS = 5
OUTSTANDING = 1000
INSTANCES = 100_000
SHARDS = 16
SAMPLE = 1000  # instances that are called again
PASSIVATE_AFTER_SECONDS = 10.0


@actor(durable=True)
class DurableEcho:
    """Returns its argument, and counts calls: each message changes the state."""

    def __init__(self) -> None:
        self.count = 0

    async def echo(self, text: str) -> str:
        self.count += 1
        return text

    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True, shards=SHARDS)
class Counter:
    """A keyed counter, of which the benchmark makes many instances."""

    living: ClassVar[int] = 0
    """Instances in the memory of this process."""

    def __init__(self) -> None:
        self.count = 0

    async def started(self) -> None:
        type(self).living += 1

    async def stopping(self) -> None:
        type(self).living -= 1

    async def next(self) -> int:
        self.count += 1
        return self.count

    async def others(self) -> int:
        """Return the number of other instances in the memory of this process."""
        return type(self).living - 1


@actor(durable=True, standby=True)
class BackedEcho(DurableEcho):
    """The same actor with a standby in another worker."""


@dataclass(frozen=True)
class Many:
    """Figures of a worker in which INSTANCES keyed actors are called once each."""

    touched: int
    """Bytes by which the worker has grown after the calls."""
    idle: int
    """The same after PASSIVATE_AFTER_SECONDS without a call."""
    rate: float
    """Calls per second."""
    living: int
    """Instances that are still in memory then."""
    remember: int
    """Number of the SAMPLE instances that have their state when they are called again."""


@dataclass(frozen=True)
class Measured:
    """Figures of one run; medians."""

    plain: float
    """Calls per second of a plain actor, with OUTSTANDING calls on their way."""
    durable: float
    """The same of a durable actor."""
    one: float
    """Seconds of one call of a durable actor, with one outstanding."""
    bare: float
    """Seconds of one bare echo, with one outstanding."""
    worker_killed: float
    """Seconds from the SIGKILL of a worker to the next reply of its durable actor, without a standby."""
    backed_killed: float
    """The same with a standby."""
    control_killed: float
    """Seconds from the SIGKILL of the node that runs control to the first reply of a new actor."""
    node_timeout: float
    """The `node_timeout` of the cluster in which control was killed, in seconds."""
    many: Many


async def measure(url: str, seconds: float, rounds: int) -> Measured:
    async with Hub.local(url=url, workers=1, modules=["bench.durable"]) as hub:
        plain, durable = await hub.spawn(Echo), await hub.spawn(DurableEcho)
        echo = cast(Echo, durable)
        rates: tuple[list[float], list[float]] = [], []
        bare: list[float] = []
        one: list[float] = []
        for _ in range(rounds):  # alternate, so that all see the same machine load
            rates[0].append((await asks(plain, OUTSTANDING, seconds)).per_second)
            rates[1].append((await asks(echo, OUTSTANDING, seconds)).per_second)
            await bare_echo.measure(url, 1, seconds, bare)
            one += await _one_by_one(durable, seconds)
    many = [statistics.median(rate) for rate in rates]
    worker_killed = await _kill_workers(url, DurableEcho)
    backed_killed = await _kill_workers(url, BackedEcho)
    control_killed, node_timeout = await _kill_control(url)
    return Measured(
        many[0],
        many[1],
        statistics.median(one),
        statistics.median(bare),
        worker_killed,
        backed_killed,
        control_killed,
        node_timeout,
        await _touch_many(url),
    )


async def _one_by_one(echo: DurableEcho, seconds: float) -> list[float]:
    """Call for `seconds`, one call after the other; return the seconds of each call."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await echo.echo(PAYLOAD)
        times.append(time.perf_counter() - began)
    return times


async def _kill_workers(url: str, cls: type[DurableEcho]) -> float:
    """Return the median seconds from a kill to the next reply.

    Without a standby, control starts the actor in the other worker, which reads its journal.
    """
    times: list[float] = []
    async with Hub.local(url=url, workers=2, modules=["bench.durable"]) as hub:
        echo = await hub.spawn(cls)
        for _ in range(KILLS):
            while cls is BackedEcho and not any(info.standby for info in await hub.actors()):
                await asyncio.sleep(0.05)
            await asyncio.gather(*(echo.echo(PAYLOAD) for _ in range(OUTSTANDING)))
            pid = await echo.pid()
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            await echo.echo(PAYLOAD)
            times.append(time.perf_counter() - began)
            while len([1 for node in await hub.nodes() for worker in node.workers if worker.kind == "shared"]) < 2:
                await asyncio.sleep(0.05)
    return statistics.median(times)


async def _kill_control(url: str) -> tuple[float, float]:
    """Return the median seconds from the kill to the next reply, and `node_timeout`.

    The first node runs control; the second is its standby.
    """
    times: list[float] = []
    for _ in range(3):
        async with Hub.local(url=url, nodes=1, workers=1, modules=["bench.durable"]) as hub:
            cluster = hub._cluster
            assert cluster is not None
            await (await hub.spawn(DurableEcho)).echo(PAYLOAD)
            cluster.start_node("node-2")  # type: ignore[union-attr]
            while not any(node.id == "node-2" and node.workers for node in await hub.nodes()):
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            await cluster.stop_node("node-1", signal.SIGKILL)  # type: ignore[union-attr]
            await (await hub.spawn(DurableEcho)).echo(PAYLOAD)
            times.append(time.perf_counter() - began)
            node_timeout = hub.settings.node_timeout
    return statistics.median(times), node_timeout


async def _touch_many(url: str) -> Many:
    """Call INSTANCES keyed actors once each, in a worker that has already had an instance in each shard."""
    settings = Settings(passivate_after=PASSIVATE_AFTER_SECONDS)
    async with Hub.local(url=url, workers=1, slots=0, modules=["bench.durable"], settings=settings) as hub:
        ((worker,),) = [node.workers for node in await hub.nodes()]
        await _touch(hub, [f"warm {number}" for number in range(10 * SHARDS)])
        before = _private_bytes(worker.pid)
        keys = [f"key {number}" for number in range(INSTANCES)]
        began = time.perf_counter()
        await _touch(hub, keys)
        rate = INSTANCES / (time.perf_counter() - began)
        touched = _private_bytes(worker.pid) - before
        until = time.perf_counter() + 3 * PASSIVATE_AFTER_SECONDS
        while (living := await hub.at(Counter, "witness").others()) and time.perf_counter() < until:
            await asyncio.sleep(0.1)
        idle = _private_bytes(worker.pid) - before
        again = await _touch(hub, random.sample(keys, SAMPLE))
    return Many(touched, idle, rate, living, again.count(2))


async def _touch(hub: Hub, keys: list[str]) -> list[int]:
    """Call each key with OUTSTANDING calls on their way at any moment; return the counts."""
    counts: list[int] = []
    left = iter(keys)

    async def keep_on() -> None:
        for key in left:
            counts.append(await hub.at(Counter, key).next())

    await asyncio.gather(*(keep_on() for _ in range(OUTSTANDING)))
    return counts


def _private_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss)


if __name__ == "__main__":
    print(uvloop.run(measure(sys.argv[1], 1.0, 1)))
