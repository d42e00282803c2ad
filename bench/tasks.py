"""Speed of tasks, for the comparison with peers, and the costs of slots and of delayed tasks."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import psutil

from actorhub import Hub, task
from actorhub.messaging.delayed_delivery import HIGHEST, LOWEST

DELAYED_TASKS = 10_000  # each delayed by an hour
BATCH_TASKS = 5000  # no-op tasks that are submitted at once
WORK_SECONDS = 0.01


@task(queue="bench")
def nothing(number: int) -> int:
    return number


@task(queue="bench-work")
def work(seconds: float) -> float:
    """Work for so many seconds; return the time it took."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Measured:
    """Figures of one run; medians of its rounds."""

    many: float
    """No-op tasks per second, submitted in batches."""
    one_by_one: float
    """No-op tasks per second, each submitted when the one before has ended."""
    busy: float
    """Share of the time of two slots that is spent inside tasks of 10 ms."""
    grown: int
    """Bytes by which the slot's process grows while DELAYED_TASKS wait."""
    held: int
    """Messages of the delayed tasks that a consumer holds unacknowledged."""


async def measure(url: str, seconds: float, rounds: int) -> Measured:
    async with Hub.local(url=url, workers=1, slots=1, modules=["bench.tasks"]) as hub:
        # warms up: the hub learns how long the task takes
        await hub.get([hub.submit(nothing, number) for number in range(BATCH_TASKS)])
        many = statistics.median([await _many(hub, seconds) for _ in range(rounds)])
        one = statistics.median([await _one_by_one(hub, seconds) for _ in range(rounds)])
        grown, held = await _delayed(hub)
    async with Hub.local(url=url, workers=1, slots=2, modules=["bench.tasks"]) as hub:
        busy = await _busy(hub, 2)
    return Measured(many, one, busy, grown, held)


async def _many(hub: Hub, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        await hub.get([hub.submit(nothing, number) for number in range(BATCH_TASKS)])
        done += BATCH_TASKS
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
    # warms up: all slots learn how long the task takes
    await hub.get([hub.submit(work, WORK_SECONDS) for _ in range(50 * slots)])
    began = time.perf_counter()
    at_work = await hub.get([hub.submit(work, WORK_SECONDS) for _ in range(count)])
    return sum(at_work) / (slots * (time.perf_counter() - began))


async def _delayed(hub: Hub) -> tuple[int, int]:
    [slot] = [worker for node in await hub.nodes() for worker in node.workers if worker.kind == "task"]
    process = psutil.Process(slot.pid)
    before = process.memory_full_info().uss
    later = hub.options(delay=3600.0)
    futures = [later.submit(nothing, number) for number in range(DELAYED_TASKS)]
    await asyncio.gather(*(future.accepted() for future in futures))
    session = hub._open_session()
    assert session.link is not None
    rungs = [await session.link.state(session.names.delay(rung)) for rung in range(LOWEST, HIGHEST + 1)]
    ready = sum(state.messages for state in rungs if state is not None)
    return process.memory_full_info().uss - before, DELAYED_TASKS - ready
