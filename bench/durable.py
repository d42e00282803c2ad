"""How fast durable actors are, how soon they go on after a kill, and what keyed ones need: `python -m bench.durable URL`."""

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
from actorhub.benchmark import PAYLOAD, asks
from actorhub.echo import Echo
from bench import bare_echo

KILLS = 5
OUTSTANDING = 1000
INSTANCES = 100_000
SHARDS = 16
SAMPLE = 1000  # of them, called again
IDLE = 10.0  # seconds after which an instance leaves memory


@actor(durable=True)
class DurableEcho:
    """Answers with what it is given, and counts: each message changes the state."""

    def __init__(self) -> None:
        self.count = 0

    async def echo(self, text: str) -> str:
        self.count += 1
        return text

    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True, shards=SHARDS)
class Counter:
    """One of many."""

    living: ClassVar[int] = 0  # in this process

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
        """Instances that live in this process, but for this one."""
        return type(self).living - 1


@actor(durable=True, standby=True)
class BackedEcho(DurableEcho):
    """The same, and another worker stands by."""


@dataclass(frozen=True)
class Many:
    """Bytes by which a worker grows when INSTANCES are called once each, and those of them that it has when all have been idle;
    calls a second; how many instances live then, and how many of SAMPLE have their state when they are called again."""

    touched: int
    idle: int
    rate: float
    living: int
    remember: int


@dataclass(frozen=True)
class Measured:
    """Asks a second of one plain and one durable actor, with many outstanding; the median of one durable ask and one bare echo
    after the other, in seconds; the seconds from the SIGKILL of a worker to its actor's next answer, without and with a
    standby, and from that of the node that runs control to the first answer of a new actor; medians. `node_timeout` is what
    control's cluster had."""

    plain: float
    durable: float
    one: float
    bare: float
    worker_killed: float
    backed_killed: float
    control_killed: float
    node_timeout: float
    many: Many


async def measure(url: str, seconds: float, rounds: int) -> Measured:
    async with Hub.local(url=url, workers=1, modules=["bench.durable"]) as hub:
        plain, durable = await hub.spawn(Echo), await hub.spawn(DurableEcho)
        echo = cast(Echo, durable)
        rates: tuple[list[float], list[float]] = [], []
        bare: list[float] = []
        one: list[float] = []
        for _ in range(rounds):  # in alternation, so that all see the same machine
            rates[0].append((await asks(plain, OUTSTANDING, seconds)).a_second)
            rates[1].append((await asks(echo, OUTSTANDING, seconds)).a_second)
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
    """The time of each."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await echo.echo(PAYLOAD)
        times.append(time.perf_counter() - began)
    return times


async def _kill_workers(url: str, cls: type[DurableEcho]) -> float:
    """Where nobody stands by, control starts the actor in the other worker, which reads its journal."""
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
    """The first of the nodes runs control; the second one stands by."""
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
    """The worker has had an instance behind each mailbox before."""
    settings = Settings(passivate_after=IDLE)
    async with Hub.local(url=url, workers=1, slots=0, modules=["bench.durable"], settings=settings) as hub:
        ((worker,),) = [node.workers for node in await hub.nodes()]
        await _touch(hub, [f"warm {number}" for number in range(10 * SHARDS)])
        before = _private_bytes(worker.pid)
        keys = [f"key {number}" for number in range(INSTANCES)]
        began = time.perf_counter()
        await _touch(hub, keys)
        rate = INSTANCES / (time.perf_counter() - began)
        touched = _private_bytes(worker.pid) - before
        until = time.perf_counter() + 3 * IDLE
        while (living := await hub.at(Counter, "witness").others()) and time.perf_counter() < until:
            await asyncio.sleep(0.1)
        idle = _private_bytes(worker.pid) - before
        again = await _touch(hub, random.sample(keys, SAMPLE))
    return Many(touched, idle, rate, living, again.count(2))


async def _touch(hub: Hub, keys: list[str]) -> list[int]:
    """The counts, with so many calls on their way at any moment."""
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
