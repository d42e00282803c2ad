"""Monitor of queue depths: it polls, reports and warns."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from actorhub.broker import Link, QueueState
from actorhub.control import queue_monitor
from actorhub.control_api.events import (
    QueueDepths,
)
from actorhub.control_api.requirements import Requirements
from actorhub.errors import BrokerUnavailable
from tests.control.placement_console import QueueConsole, cpu
from tests.waiting import until


class FakeLink:
    """A link that knows the depths of queues."""

    lost = None

    def __init__(self, **depths: int) -> None:
        self.depths = depths
        self.reads = 0

    async def state(self, queue: str) -> QueueState | None:
        self.reads += 1
        if queue == "unreachable":
            raise BrokerUnavailable("its broker node is down")
        return QueueState(self.depths[queue], 0) if queue in self.depths else None


async def test_an_unserved_queue_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_monitor, "UNSERVED_WARNING_SECONDS", 0.0)
    monkeypatch.setattr(queue_monitor, "POLL_INTERVAL_SECONDS", 0.001)
    console = QueueConsole()
    console.node("n1", cpu=2)
    console.use("a", cpu(2))
    console.use("b", Requirements(resources={"cpu": 2}, prefer={"x": "y"}))
    reported = list[dict[str, int]]()

    async def report(depths: dict[str, int]) -> None:
        reported.append(depths)
        console.handle(QueueDepths(waiting=depths))

    console.use("unreachable", Requirements(resources={"cpu": 2}, prefer={"x": "z"}))
    link = FakeLink(a=1, b=1)
    polling = asyncio.create_task(queue_monitor.QueueDepthMonitor(cast(Link, link), console.state, report).run())
    await until(lambda: "no slot serves" in caplog.text)
    enough = link.reads + 20
    await until(lambda: link.reads >= enough)
    polling.cancel()
    [logged] = [record.getMessage() for record in caplog.records if "no slot serves" in record.getMessage()]
    assert logged.startswith(
        "tasks wait in b, but no slot serves them: it asks for resources {'cpu': 2.0}, and free are"
    )
    assert reported
