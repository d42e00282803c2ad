"""Fan-ins whose queues go away. Invariant: the caller of a fan-in gets a result or an error, and never waits without end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actorhub import BrokerUnavailable, Hub, PlacementGroup, PlacementInfeasible, Settings, task
from actorhub.broker import Queue
from actorhub_rabbitmq import PrivateNode
from tests.waiting import SETTLED, until


@task
def square(number: int) -> int:
    return number * number


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@task
def square_when(path: str, number: int) -> int:
    while not Path(path).exists():
        time.sleep(0.02)
    return number * number


@pytest.fixture
async def hub(broker_url: str) -> AsyncIterator[Hub]:
    settings = Settings(
        prefix=f"t{secrets.token_hex(4)}", secret=secrets.token_hex(16), heartbeat=0.3, node_timeout=5.0
    )
    async with Hub.local(
        url=broker_url, nodes={"one": {"cpu": 4}}, workers=1, modules=[__name__], settings=settings
    ) as hub:
        yield hub


async def group_of(hub: Hub) -> tuple[PlacementGroup, Hub]:
    group = await hub.placement_group([{"cpu": 1}])
    await group.ready()
    inside = hub.options(placement=group[0])
    assert await inside.submit(square, 3) == 9
    return group, inside


def dedicated_queue(hub: Hub) -> str:
    routes, names = hub._open_clients().tasks._router._routes, hub._open_session().names
    [queue] = [queue for queue in routes if names.has_dedicated_slots(queue)]
    return queue


async def test_parts_that_vanish_with_their_queue_fail_the_fan_in(hub: Hub) -> None:
    """The broker has confirmed the parts; then the queue is deleted with them, and control cannot serve it again."""
    group, inside = await group_of(hub)
    session = hub._open_session()
    assert session.link is not None
    busy = inside.submit(sleep, 3.0)
    assert await until(lambda: _is_empty(hub, dedicated_queue(hub)))
    gathered = inside.gather_into(total, square, range(3))
    await gathered.accepted()
    await session.link.delete(dedicated_queue(hub))
    await hub.remove(group)
    async with asyncio.timeout(30):
        with pytest.raises(PlacementInfeasible):
            await gathered
    busy.cancel()


async def test_parts_for_a_queue_that_was_refused_in_the_meantime_fail_the_fan_in(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control refuses the queue of the parts while the client declares the queue of their results."""
    group, inside = await group_of(hub)
    link = type(hub._open_session().link)
    declare, may_go_on = link.declare, asyncio.Event()  # type: ignore[union-attr]

    async def slow(self: Any, queue: Queue) -> None:
        if ".gathering." in queue.name:
            await may_go_on.wait()
        await declare(self, queue)

    monkeypatch.setattr(link, "declare", slow)
    gathered = inside.gather_into(total, square, range(3))
    await hub.remove(group)
    queue = dedicated_queue(hub)
    assert await until(lambda: _is_gone(hub, queue))
    with pytest.raises(PlacementInfeasible):
        await inside.submit(square, 2)
    may_go_on.set()
    async with asyncio.timeout(30):
        with pytest.raises(PlacementInfeasible):
            await gathered


async def test_a_declare_that_a_lost_connection_cut_off_is_repeated_under_another_name(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ that is killed during a declare can keep a quorum queue without a leader: publishes to it would block."""
    link = type(hub._open_session().link)
    declare, names = link.declare, list[str]()  # type: ignore[union-attr]

    async def cut_off_once(self: Any, queue: Queue) -> None:
        await declare(self, queue)
        if ".gathering." in queue.name:
            names.append(queue.name)
            if len(names) == 1:
                raise BrokerUnavailable("the connection was lost")

    monkeypatch.setattr(link, "declare", cut_off_once)
    assert await hub.gather_into(total, square, range(3)) == 5
    assert len(set(names)) == 2
    for name in names:
        assert await until(lambda name=name: _is_gone(hub, name))


async def test_a_fan_in_survives_a_broker_that_is_killed_right_after_its_start(
    own_rabbitmq: PrivateNode, tmp_path: Path
) -> None:
    """RabbitMQ loses a quorum queue that is younger than a second, and comes back with one that confirms nothing."""
    go = tmp_path / "go"
    async with Hub.local(url=own_rabbitmq.url, workers=1, slots=2, modules=[__name__]) as hub:
        assert await hub.submit(square, 2) == 4
        await asyncio.sleep(SETTLED)  # so that the task queue survives, and the fan-in queue alone is lost
        gathered = hub.gather_into(total, square_when, [str(go)] * 4, range(4))
        await gathered.accepted()
        await asyncio.to_thread(own_rabbitmq.kill)
        await asyncio.to_thread(own_rabbitmq.restart)
        go.touch()
        async with asyncio.timeout(90):
            assert await gathered == 14
            assert await hub.submit(square, 3) == 9


async def _is_empty(hub: Hub, queue: str) -> bool:
    link = hub._open_session().link
    assert link is not None
    state = await link.state(queue)
    return state is not None and state.messages == 0


async def _is_gone(hub: Hub, queue: str) -> bool:
    link = hub._open_session().link
    assert link is not None
    return await link.state(queue) is None
