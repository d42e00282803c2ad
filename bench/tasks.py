"""How fast tasks are: what the peers do, too, and what `docs/performance.md` promises of slots and of tasks that wait."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import psutil

from actorhub import Hub, task
from actorhub.delay import HIGHEST, LOWEST

WAITING = 10_000  # tasks that wait for an hour
BATCH = 5000  # no-op tasks that are submitted at once
WORK = 0.01  # seconds


@task(queue="bench")
def nothing(number: int) -> int:
    return number


@task(queue="bench-work")
def work(seconds: float) -> float:
    """Returns how long it was at work."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Measured:
    """Tasks a second, many and one by one; the part of two slots' time that is in tasks of 10 ms; and of tasks that wait for an
    hour: bytes that the slot's process has grown by, and messages that anybody holds unacknowledged."""

    many: float
    one_by_one: float
    busy: float
    grown: int
    held: int


async def measure(url: str, seconds: float, rounds: int) -> Measured:
    async with Hub.local(url=url, workers=1, slots=1, modules=["bench.tasks"]) as hub:
        await hub.get([hub.submit(nothing, number) for number in range(BATCH)])  # what is measured later is known then
        many = statistics.median([await _many(hub, seconds) for _ in range(rounds)])
        one = statistics.median([await _one_by_one(hub, seconds) for _ in range(rounds)])
        grown, held = await _waiting(hub)
    async with Hub.local(url=url, workers=1, slots=2, modules=["bench.tasks"]) as hub:
        busy = await _busy(hub, 2)
    return Measured(many, one, busy, grown, held)


async def _many(hub: Hub, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        await hub.get([hub.submit(nothing, number) for number in range(BATCH)])
        done += BATCH
    return done / (time.perf_counter() - began)


async def _one_by_one(hub: Hub, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        await hub.submit(nothing, done)
        done += 1
    return done / (time.perf_counter() - began)


async def _busy(hub: Hub, slots: int, count: int = 1000) -> float:
    while len([worker for node in await hub.nodes() for worker in node.workers if worker.kind == "task"]) < slots:
        await asyncio.sleep(0.05)
    await hub.get([hub.submit(work, WORK) for _ in range(50 * slots)])  # all slots know how long it takes
    began = time.perf_counter()
    at_work = await hub.get([hub.submit(work, WORK) for _ in range(count)])
    return sum(at_work) / (slots * (time.perf_counter() - began))


async def _waiting(hub: Hub) -> tuple[int, int]:
    [slot] = [worker for node in await hub.nodes() for worker in node.workers if worker.kind == "task"]
    process = psutil.Process(slot.pid)
    before = process.memory_full_info().uss
    later = hub.options(delay=3600.0)
    futures = [later.submit(nothing, number) for number in range(WAITING)]
    await asyncio.gather(*(future.accepted() for future in futures))
    session = hub._open_session()
    assert session.link is not None
    rungs = [await session.link.state(session.names.delay(rung)) for rung in range(LOWEST, HIGHEST + 1)]
    ready = sum(state.messages for state in rungs if state is not None)
    return process.memory_full_info().uss - before, WAITING - ready
