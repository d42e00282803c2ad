"""An agent, in the test's own process."""

from __future__ import annotations

import asyncio
import time
from multiprocessing.context import ForkServerProcess

import pytest

from actorhub import Settings
from actorhub.address import new_id
from actorhub.node import Node, NodeConfig
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
    node = Node(NodeConfig(workers=1, slots=0), settings)
    try:
        async with asyncio.timeout(20):
            await node.start()
        assert [worker.ready for worker in node._processes.living] == [True]
    finally:
        await node.stop()


async def test_what_a_process_should_have_had_that_could_not_be_started_is_free_again(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    node = Node(NodeConfig(workers=0, slots=0, resources={"gpu": 2}), settings)
    started: list[dict[str, str]] = []

    async def start(worker_id: str, *, environment: dict[str, str], **more: object) -> None:
        started.append(environment)
        raise OSError("no more processes")

    monkeypatch.setattr(node._processes, "start", start)
    try:
        async with asyncio.timeout(20):
            await node.start()
        for number in range(2):
            with pytest.raises(OSError, match="no more"):
                await node.start_worker(f"w{number}", "a", 1.0)
    finally:
        await node.stop()
    assert started == [{"CUDA_VISIBLE_DEVICES": "0"}] * 2
