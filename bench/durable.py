"""How fast durable actors are, and how soon they go on after a kill: `python -m bench.durable URL` prints it."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from typing import cast

import uvloop

from actorhub import Hub, actor
from actorhub.benchmark import PAYLOAD, Echo, asks
from bench import bare_echo

KILLS = 5
OUTSTANDING = 1000


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


@dataclass(frozen=True)
class Measured:
    """Asks a second of one plain and one durable actor, with many outstanding; the median of one durable ask and one bare echo
    after the other, in seconds; the seconds from the SIGKILL of a worker to its actor's next answer, and from that of the node
    that runs control to the first answer of a new actor; medians. `node_timeout` is what control's cluster had."""

    plain: float
    durable: float
    one: float
    bare: float
    worker_killed: float
    control_killed: float
    node_timeout: float


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
    worker_killed = await _kill_workers(url)
    control_killed, node_timeout = await _kill_control(url)
    return Measured(
        many[0], many[1], statistics.median(one), statistics.median(bare), worker_killed, control_killed, node_timeout
    )


async def _one_by_one(echo: DurableEcho, seconds: float) -> list[float]:
    """The time of each."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        await echo.echo(PAYLOAD)
        times.append(time.perf_counter() - began)
    return times


async def _kill_workers(url: str) -> float:
    """Nothing stands by: control starts the actor in the other worker, which reads its journal."""
    times: list[float] = []
    async with Hub.local(url=url, workers=2, modules=["bench.durable"]) as hub:
        echo = await hub.spawn(DurableEcho)
        for _ in range(KILLS):
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


if __name__ == "__main__":
    print(uvloop.run(measure(sys.argv[1], 1.0, 1)))
