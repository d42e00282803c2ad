"""Faults around tasks, on real slots and brokers. Each test states its invariant, and checks it from outside: by what the tasks
have written into files, by the dead letters, and by the processes that there are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_fixed

from actorhub import (
    Hub,
    Retry,
    Settings,
    WorkerDied,
    task,
)
from actorhub.address import new_id
from actorhub.broker import Message, Outcome
from actorhub.futures import once
from actorhub_embedded import EmbeddedServer
from actorhub_rabbitmq import PrivateNode
from tests.conftest import QUICK
from tests.waiting import SETTLED, until


def note(path: str, number: int) -> None:
    """Which task ran, and in which process."""
    with Path(path).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")


def noted(path: Path) -> list[tuple[int, int]]:
    """The task's number and its process, in the order of their beginning."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(pid)) for number, pid in (line.split() for line in lines)]


def runs(path: Path) -> Counter[int]:
    """How often each task ran."""
    return Counter(number for number, _ in noted(path))


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@task
def work(path: str, number: int, seconds: float = 0.0) -> int:
    note(path, number)
    time.sleep(seconds)
    return number


@task
async def work_async(path: str, number: int, seconds: float = 0.0) -> int:
    note(path, number)
    await asyncio.sleep(seconds)
    return number


@task
def plain(number: int) -> int:
    return number


@task
def until_there(path: str, number: int, gate: str) -> int:
    """Runs until there is a file `gate`."""
    note(path, number)
    while not Path(gate).exists():
        time.sleep(0.01)
    return number


@task(max_redeliveries=2)
def die(path: str, number: int) -> None:
    note(path, number)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def settings(broker_url: str) -> Settings:
    return Settings(url=broker_url, secret="s", namespace=new_id(6), **QUICK)  # type: ignore[arg-type]


async def publish(hub: Hub, queue: str, body: bytes, content_type: str | None = "application/json") -> None:
    link = hub._open_session().link
    assert link is not None
    settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    link.publish(queue, Message(body, content_type), once(settled))
    assert await settled is Outcome.STORED


def queue_of(hub: Hub, name: str = "default") -> str:
    return hub._open_session().names.task(hub.settings.namespace, name)


async def letters(hub: Hub, count: int) -> list[Any]:
    found = await hub.dead()
    return found if len(found) >= count else []


# ---- slots that die


async def test_slots_killed_in_the_middle_of_their_chunks_lose_no_task(hub: Hub, tmp_path: Path) -> None:
    """Invariant: every future gets its own result, every task ran, and none counts as one that kills its worker."""
    path = tmp_path / "ran"
    futures = [hub.submit(work, str(path), number, 0.001) for number in range(1500)]
    for kills in range(1, 5):
        await until(lambda at=kills * 200: len(noted(path)) >= at)  # type: ignore[misc]
        with suppress(ProcessLookupError):
            os.kill(noted(path)[-1][1], signal.SIGKILL)
    assert await hub.get(futures) == list(range(1500))
    assert set(runs(path)) == set(range(1500))
    assert len({pid for _, pid in noted(path)}) > 2
    assert await hub.dead() == []


async def test_slots_killed_under_many_async_tasks_lose_none(hub: Hub, tmp_path: Path) -> None:
    """Invariant: every future gets its own result, and every task ran."""
    path = tmp_path / "ran"
    futures = [hub.submit(work_async, str(path), number, 0.01) for number in range(1500)]
    for kills in (1, 2):
        await until(lambda at=kills * 300: len(noted(path)) >= at)  # type: ignore[misc]
        with suppress(ProcessLookupError):
            os.kill(noted(path)[-1][1], signal.SIGKILL)
    assert await hub.get(futures) == list(range(1500))
    assert set(runs(path)) == set(range(1500))


async def test_a_task_that_kills_its_worker_is_withheld_and_no_other_is(hub: Hub, tmp_path: Path) -> None:
    """Invariant: it kills max_redeliveries + 1 workers; then it is dead, as poison. What was only near it is done."""
    path, others = tmp_path / "deaths", tmp_path / "others"
    before = [hub.submit(work, str(others), number) for number in range(200)]
    killers = [hub.submit(die, str(path), number) for number in range(3)]
    after = [hub.submit(work, str(others), number) for number in range(200, 400)]
    for killer in killers:
        with pytest.raises(WorkerDied, match=r"die \(task .*\) killed its worker 3 times and is not run again"):
            await killer
    assert await hub.get([*before, *after]) == list(range(400))
    assert runs(path) == {0: 3, 1: 3, 2: 3}
    found = await until(lambda: letters(hub, 3))
    assert {(letter.reason, letter.method) for letter in found} == {("poison", f"{__name__}:die")}
    assert len({letter.call for letter in found}) == 3


async def test_with_one_slot_a_task_that_kills_it_is_withheld_as_early(settings: Settings, tmp_path: Path) -> None:
    """Invariant: a new slot knows of all deaths before it takes anything."""
    path = tmp_path / "deaths"
    async with Hub.local(workers=1, slots=1, modules=[__name__], settings=settings) as hub:
        killer = hub.submit(die, str(path), 0)
        with pytest.raises(WorkerDied, match="killed its worker 3 times"):
            await killer
        assert await hub.submit(plain, 1) == 1
    assert runs(path) == {0: 3}


# ---- nodes


async def test_a_killed_agent_takes_its_slots_along_and_another_node_s_take_over(
    settings: Settings, tmp_path: Path
) -> None:
    """Invariant: all tasks are done, and the killed node's processes are gone."""
    path = tmp_path / "ran"
    hub = Hub.local(nodes=2, workers=1, slots=2, modules=[__name__], settings=settings)
    async with hub:
        assert hub._cluster is not None
        slots = await until(lambda: slots_of(hub, "node-1", 2))
        futures = [hub.submit(work, str(path), number, 0.002) for number in range(600)]
        await until(lambda: {pid for _, pid in noted(path)} & slots)
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        assert await hub.get(futures) == list(range(600))
        assert set(runs(path)) == set(range(600))
        await until(lambda: not any(exists(pid) for pid in slots))


async def slots_of(hub: Hub, node_id: str, count: int) -> set[int]:
    nodes = {node.id: node for node in await hub.nodes()}
    pids = {worker.pid for worker in nodes[node_id].workers if worker.kind == "task"} if node_id in nodes else set()
    return pids if len(pids) >= count else set()


async def test_a_node_that_drains_loses_nothing_and_repeats_nothing(settings: Settings, tmp_path: Path) -> None:
    """Invariant: what was begun ends there, and what was not begun runs elsewhere: each task runs once."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    hub = Hub.local(nodes=2, workers=1, slots=2, modules=[__name__], settings=settings)
    async with hub:
        assert hub._cluster is not None
        slots = await until(lambda: slots_of(hub, "node-1", 2))
        await until(lambda: slots_of(hub, "node-2", 2))
        long = hub.submit(until_there, str(path), 0, str(gate))
        long_async = [hub.submit(work_async, str(path), number, 1.0) for number in range(1, 10)]
        short = [hub.submit(work, str(path), number, 0.001) for number in range(10, 1000)]
        await until(lambda: {pid for number, pid in noted(path) if number >= 10} & slots)
        stopping = asyncio.create_task(hub._cluster.stop_node("node-1", signal.SIGTERM))
        assert await hub.get(short) == list(range(10, 1000))
        gate.touch()
        assert await hub.get([long, *long_async]) == list(range(10))
        await stopping
        assert not any(exists(pid) for pid in slots)
        assert runs(path) == dict.fromkeys(range(1000), 1)


@task(queue="later")
def in_another_queue(number: int) -> int:
    return number


async def test_without_control_s_node_new_queues_are_served_and_new_nodes_serve_old_ones(settings: Settings) -> None:
    """Invariant: whichever node ran control, a queue that is used for the first time afterwards is served; a node that
    comes later serves every queue."""
    hub = Hub.local(nodes=2, workers=1, slots=1, modules=[__name__], settings=settings)
    async with hub:
        assert hub._cluster is not None
        assert await hub.submit(plain, 1) == 1
        for number, node in enumerate(("node-1", "node-2")):  # one of them ran control
            hub._cluster.start_node(f"new-{number}")
            await until(lambda of=f"new-{number}": slots_of(hub, of, 1))  # type: ignore[misc]
            await hub._cluster.stop_node(node, signal.SIGKILL)
            view = hub.options(namespace=f"ns-{number}")
            assert await view.submit(in_another_queue, 2) == 2
        assert await hub.submit(plain, 3) == 3
        assert await hub.options(namespace="ns-0").submit(in_another_queue, 4) == 4


# ---- the broker


@task(retry=Retry(attempts=2, wait=wait_fixed(1.5)))
def second_time(path: str, number: int) -> int:
    note(path, number)
    if runs(Path(path))[number] == 1:
        raise RuntimeError("the first time")
    return number


async def test_connections_closed_by_the_broker_under_load_lose_no_task(
    hub: Hub, tmp_path: Path, broker: PrivateNode | EmbeddedServer
) -> None:
    """Invariant: every future gets its own result, and every task ran."""
    path, again = tmp_path / "ran", tmp_path / "again"
    retried = [hub.submit(second_time, str(again), number) for number in range(10)]
    futures = [hub.submit(work, str(path), number, 0.001) for number in range(1000)]
    together = [hub.submit(work_async, str(path), number, 0.01) for number in range(1000, 2000)]
    for closed in (1, 2, 3):
        await until(lambda at=closed * 300: len(noted(path)) >= at)  # type: ignore[misc]
        await asyncio.to_thread(broker.close_connections, "a test")
    assert await hub.get([*futures, *together]) == list(range(2000))
    assert await hub.get(retried) == list(range(10))
    assert set(runs(path)) == set(range(2000))
    assert await hub.dead() == []


async def test_a_broker_killed_and_restarted_under_load_loses_no_task(
    own_rabbitmq: PrivateNode, tmp_path: Path
) -> None:
    """Invariant: every future gets its own result; attempts that wait for their time in the broker are made, too."""
    path, again = tmp_path / "ran", tmp_path / "again"
    settings = Settings(url=own_rabbitmq.url, secret="s", **QUICK)  # type: ignore[arg-type]
    async with (
        Hub.local(workers=1, slots=2, modules=[__name__], settings=settings) as cluster,
        Hub(settings=cluster.settings) as hub,
    ):
        assert await hub.submit(second_time, str(tmp_path / "warm"), 0) == 0  # now all queues are there
        await asyncio.sleep(SETTLED)
        retried = [hub.submit(second_time, str(again), number) for number in range(20)]
        await until(lambda: len(noted(again)) == 20)
        futures = [hub.submit(work, str(path), number, 0.001) for number in range(1500)]
        for kills in (1, 2):
            await until(lambda at=kills * 400: len(noted(path)) >= at)  # type: ignore[misc]
            await asyncio.to_thread(own_rabbitmq.kill)
            await asyncio.to_thread(own_rabbitmq.restart)
        async with asyncio.timeout(45):
            assert await hub.get(futures) == list(range(1500))
            assert await hub.get(retried) == list(range(20))
        assert set(runs(path)) == set(range(1500))
        assert all(count >= 2 for count in runs(again).values())
