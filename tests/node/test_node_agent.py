"""An agent, in the test's own process."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from multiprocessing.context import ForkServerProcess

import pytest

from actorhub import Hub, Settings, actor, task
from actorhub.core.addressing import new_id
from actorhub.node.agent import NodeAgent, NodeConfig
from tests.conftest import QUICK


async def test_a_worker_that_is_ready_before_its_start_is_known_is_not_forgotten(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: a node begins, however late its agent hears that a process was started."""
    start = ForkServerProcess.start

    def start_and_be_late(process: ForkServerProcess) -> None:
        start(process)
        time.sleep(2.0)

    monkeypatch.setattr(ForkServerProcess, "start", start_and_be_late)
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    node = NodeAgent(NodeConfig(workers=1, slots=0), settings)
    try:
        async with asyncio.timeout(20):
            await node.start()
        assert [worker.ready for worker in node._processes.running] == [True]
    finally:
        await node.stop()


async def test_what_a_process_should_have_had_that_could_not_be_started_is_free_again(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    node = NodeAgent(NodeConfig(workers=0, slots=0, resources={"gpu": 2}), settings)
    started: list[dict[str, str]] = []

    async def start(worker_id: str, *, environment: dict[str, str], **more: object) -> None:
        started.append(environment)
        raise OSError("no more processes")

    monkeypatch.setattr(node._processes, "start", start)
    try:
        async with asyncio.timeout(20):
            await node.start()
        for number in range(2):
            await node.start_worker(f"w{number}", "a", 1.0)
    finally:
        await node.stop()
    assert started == [{"CUDA_VISIBLE_DEVICES": "0"}] * 2


@actor(isolation="process", resources={"cpu": 1})
class Alone:
    async def ping(self) -> str:
        return "pong"


@task(queue="alone", resources={"cpu": 1})
def done() -> str:
    return "done"


@actor
class Shared:
    async def pid(self) -> int:
        return os.getpid()


async def test_a_machine_that_cannot_start_processes_for_a_while_delays_and_holds_up_nobody_for_ever(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: an actor, a slot and a lost worker get their processes in the end, though starts of each have failed."""
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    node = NodeAgent(NodeConfig(workers=1, slots=0, resources={"cpu": 2}, modules=[__name__]), settings)
    start, starts = ForkServerProcess.start, itertools.count()

    def start_every_second_time(process: ForkServerProcess) -> None:
        if next(starts) % 2 == 0:
            raise EOFError
        start(process)

    try:
        async with asyncio.timeout(30), Hub(settings=settings) as hub:
            await node.start()
            shared = await hub.spawn(Shared)
            pid = await shared.pid()
            monkeypatch.setattr(ForkServerProcess, "start", start_every_second_time)
            assert await (await hub.spawn(Alone)).ping() == "pong"
            assert await hub.submit(done) == "done"
            os.kill(pid, signal.SIGKILL)
            assert await shared.pid() != pid
    finally:
        await node.stop()
    assert next(starts) >= 6
