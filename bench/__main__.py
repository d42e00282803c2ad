"""All benchmarks in one run on one private RabbitMQ (`make bench`). Prints Markdown tables."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import uvloop

from actorhub import Hub
from actorhub.broker import open_server
from actorhub.cli.benchmark import asks, tells
from actorhub.node.echo import Echo
from bench import bare_echo, durable, objects, tasks
from bench.peers.comparison import Peer, table
from bench.peers.runner import run_peers
from bench.peers.works import Work


@dataclass(frozen=True)
class Row:
    """Row of the table."""

    work: str
    figure: str
    against: str
    target: str
    met: bool | None
    """Whether the target was met; None without a target."""
    rate: float = 0.0
    """The figure as operations per second, where it is one."""

    def __str__(self) -> str:
        mark = {True: "met", False: "**missed**", None: ""}[self.met]
        return f"| {self.work} | {self.figure} | {self.against} | {self.target} | {mark} |"


async def calls(hub: Hub, url: str, seconds: float, rounds: int) -> list[Row]:
    """Calls and tells against the bare echo. They alternate, so that both see the same machine load; medians."""
    echo = await hub.spawn(Echo)
    bare: dict[int, list[float]] = {1: [], 1000: []}
    ask: dict[int, list[float]] = {1: [], 10: [], 100: [], 1000: []}
    tell: dict[int, list[float]] = {1: [], 1000: []}
    for _ in range(rounds):
        for outstanding, found in bare.items():
            found.append(await bare_echo.measure(url, outstanding, seconds))
        for outstanding, found in ask.items():
            found.append((await asks(echo, outstanding, seconds)).per_second)
        for outstanding, found in tell.items():
            found.append((await tells(echo, outstanding, seconds)).per_second)
    await hub.kill(echo)
    base = {outstanding: statistics.median(found) for outstanding, found in bare.items()}
    rows = [Row(f"bare pika echo, {n} outstanding", f"{rate:,.0f} /s", "", "", None) for n, rate in base.items()]
    targets = {("ask", 1): 0.7, ("ask", 1000): 2.5, ("tell", 1000): 2.5}
    for verb, found in (("ask", ask), ("tell", tell)):
        for outstanding, rates in found.items():
            rate = statistics.median(rates)
            against = base[1 if outstanding == 1 else 1000]
            target = targets.get((verb, outstanding))
            rows.append(
                Row(
                    f"{verb}, {outstanding:,} outstanding",
                    f"{rate:,.0f} /s",
                    f"{rate / against:.2f} x bare",
                    f"{target} x" if target else "",
                    rate >= target * against if target else None,
                    rate,
                )
            )
    return rows


async def starts(hub: Hub, count: int) -> list[Row]:
    """Start `count` actors and call each once; then measure the memory of the worker that hosts them."""
    workers = [worker for node in await hub.nodes() for worker in node.workers]
    before = sum(_private_bytes(worker.pid) for worker in workers)
    began = time.perf_counter()
    actors = await asyncio.gather(*(hub.spawn(Echo) for _ in range(count)))
    await asyncio.gather(*(actor.echo("") for actor in actors))
    rate = count / (time.perf_counter() - began)
    await asyncio.sleep(1)
    each = (sum(_private_bytes(worker.pid) for worker in workers) - before) / count / 1024
    return [
        Row(f"actors started and called once, {count:,}", f"{rate:,.0f} /s", "", "100 /s", rate >= 100),
        Row("an idle actor in its worker", f"{each:,.0f} KB", "", "40 KB", each <= 40),
    ]


def _private_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss)


def imports() -> Row:
    """Time of `import actorhub` in a new interpreter, without the start of the interpreter."""
    code = "import time; t = time.perf_counter(); import actorhub; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(5)
    ]
    best = statistics.median(times)
    return Row("import actorhub", f"{best:.2f} s", "", "0.3 s", best < 0.3)


async def first_call(url: str) -> Row:
    """Time from `Hub.local()`, on a running broker, to the first reply of an actor in another process."""
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        async with Hub.local(url=url, workers=2) as hub:
            await (await hub.spawn(Echo)).echo("")
            times.append(time.perf_counter() - began)
    median = statistics.median(times)
    return Row("Hub.local() to the first reply", f"{median:.2f} s", "", "1.5 s", median < 1.5)


async def embedded(seconds: float, rounds: int, on_rabbitmq: float) -> list[Row]:
    """The embedded broker: its start, calls over it with the same cluster shape, and the memory of a million messages."""
    starts: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        server = open_server("embedded")
        await asyncio.to_thread(server.start)
        starts.append(time.perf_counter() - began)
        await asyncio.to_thread(server.stop)
    async with Hub.local(broker="embedded", workers=1) as hub:
        echo = await hub.spawn(Echo)
        one = statistics.median([(await asks(echo, 1, seconds)).per_second for _ in range(rounds)])
        many = statistics.median([(await asks(echo, 1000, seconds)).per_second for _ in range(rounds)])
    ready = statistics.median(starts)
    held = await asyncio.to_thread(_a_million_messages)
    return [
        Row("embedded broker: start to ready", f"{ready * 1000:,.0f} ms", "", "150 ms", ready <= 0.15),
        Row("embedded broker: ask, 1 outstanding", f"{one:,.0f} /s", "", "", None),
        Row(
            "embedded broker: ask, 1,000 outstanding",
            f"{many:,.0f} /s",
            f"{many / on_rabbitmq:.2f} x RabbitMQ",
            "0.5 x",
            many >= 0.5 * on_rabbitmq,
        ),
        Row("embedded broker: a million messages of 100 bytes", f"{held:,.0f} MB", "", "600 MB", held <= 600),
    ]


def _a_million_messages() -> float:
    """Return the megabytes that they take, measured in a separate process."""
    done = subprocess.run([sys.executable, "-m", "bench.held"], capture_output=True, text=True, check=True)
    return float(done.stdout)


async def ours(url: str, seconds: float, rounds: int) -> list[Row]:
    rows = [imports(), await first_call(url)]
    async with Hub.local(url=url, workers=1) as hub:
        rows += await calls(hub, url, seconds, rounds)
        rows += await starts(hub, 1000)
    return rows


def task_rows(found: tasks.Measured) -> list[Row]:
    delayed = f"{tasks.DELAYED_TASKS:,} tasks delayed by an hour"
    return [
        Row("no-op tasks with results, 1 slot", f"{found.many:,.0f} /s", "", "", None),
        Row("one task submitted and awaited", f"{found.one_by_one:,.0f} /s", "", "", None),
        Row("10 ms tasks on 2 slots: time in tasks", f"{found.busy:.1%}", "", "95 %", found.busy >= 0.95),
        Row(f"{delayed}: unacknowledged messages", f"{found.held}", "", "0", found.held == 0),
        Row(f"{delayed}: growth of the slot", f"{found.grown / 1024:,.0f} KB", "", "none", found.grown < 1024 * 1024),
    ]


def durable_rows(found: durable.Measured) -> list[Row]:
    times, limit = found.one / found.bare, found.node_timeout + 2
    many = f"{durable.INSTANCES:,} keyed actors called once, {durable.SHARDS} shards"
    touched, idle = found.many.touched / 1e6, found.many.idle / 1e6
    return [
        Row(
            "durable ask, 1,000 outstanding",
            f"{found.durable:,.0f} /s",
            f"{found.durable / found.plain:.2f} x plain",
            "0.6 x",
            found.durable >= 0.6 * found.plain,
        ),
        Row(
            "durable ask, 1 outstanding, median", f"{found.one * 1e3:.2f} ms", f"{times:.1f} x bare", "5 x", times <= 5
        ),
        Row(
            "SIGKILL of a worker to its durable actor's next reply",
            f"{found.worker_killed:.2f} s",
            "",
            "1.5 s",
            found.worker_killed <= 1.5,
        ),
        Row(
            "the same, with a standby",
            f"{found.backed_killed:.2f} s",
            "",
            "0.25 s",
            found.backed_killed <= 0.25,
        ),
        Row(
            "SIGKILL of the node that runs control to a new actor's reply",
            f"{found.control_killed:.2f} s",
            f"node_timeout {found.node_timeout:g} s",
            f"{limit:g} s",
            found.control_killed <= limit,
        ),
        Row(many, f"{found.many.rate:,.0f} /s", "", "", None),
        Row(f"{many}: growth of the worker's memory", f"{touched:,.0f} MB", "", "300 MB", touched <= 300),
        Row(
            f"{many}: the same after all are passivated",
            f"{idle:,.0f} MB",
            f"{found.many.living} instances in memory",
            "0",
            found.many.living == 0,
        ),
        Row(
            f"{many}: keep their state for the next call",
            f"{found.many.remember:,} of {durable.SAMPLE:,}",
            "",
            "all",
            found.many.remember == durable.SAMPLE,
        ),
    ]


def object_rows(found: objects.Measured) -> list[Row]:
    return [
        Row("copy of 100 MB into fresh shared memory", f"{found.copy:.2f} GB/s", "", "", None),
        Row("put of 100 MB", f"{found.put:.2f} GB/s", f"{found.put / found.copy:.2f} x copy", "", None),
        Row("get of 100 MB, without a copy", f"{found.get:.2f} ms", "", "2 ms", found.get < 2),
    ]


def measure(seconds: float, rounds: int) -> tuple[list[Row], dict[Work, float], list[Peer]]:
    """Return ActorHub's rows, its figures that peers have too, and the peers' figures on the same RabbitMQ."""
    server = open_server("rabbitmq")
    server.start()
    try:
        rows = uvloop.run(ours(server.url, seconds, rounds))
        found = uvloop.run(tasks.measure(server.url, seconds, rounds))
        lasting = uvloop.run(durable.measure(server.url, seconds, rounds))
        peers = run_peers(server.url, max(seconds, 3.0))
    finally:
        server.stop()
    rates = {row.work: row.rate for row in rows}
    stored = objects.measure()
    rows += durable_rows(lasting) + task_rows(found) + object_rows(stored)
    comparable = {
        Work.CALL: rates["ask, 1 outstanding"],
        Work.CALLS: rates["ask, 1,000 outstanding"],
        Work.DURABLE_CALLS: lasting.durable,
        Work.TASKS: found.many,
        Work.TASKS_WITHOUT_RESULTS: found.many,  # ActorHub's tasks always have results
        Work.ROUND_TRIPS: found.one_by_one,
        Work.PUT: stored.put,
        Work.GET_ELSEWHERE: stored.get,
    }
    rows += uvloop.run(embedded(seconds, rounds, comparable[Work.CALLS]))
    return rows, comparable, peers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement; peers take 3 or more")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure; the table has their median")
    options = parser.parse_args()
    os.environ.setdefault("ACTORHUB_LOG_LEVEL", "WARNING")
    own, comparable, peers = measure(options.seconds, options.rounds)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, RabbitMQ on this machine\n")
    print("| work | figure | ratio | target | |\n|---|---|---|---|---|")
    print("\n".join(str(row) for row in own))
    print(f"\n{table(comparable, peers)}")
