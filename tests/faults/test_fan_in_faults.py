"""Fan-ins whose task queue goes away. Invariant: the caller of a fan-in gets an error, and never waits without end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actorhub import Hub, PlacementGroup, PlacementInfeasible, Settings, task
from actorhub.broker import Queue
from tests.waiting import until


@task
def square(number: int) -> int:
    return number * number


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    settings = Settings(
        prefix=f"t{secrets.token_hex(4)}", secret=secrets.token_hex(16), heartbeat=0.3, node_timeout=5.0
    )
    async with Hub.local(nodes={"one": {"cpu": 4}}, workers=1, modules=[__name__], settings=settings) as hub:
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


async def _is_empty(hub: Hub, queue: str) -> bool:
    link = hub._open_session().link
    assert link is not None
    state = await link.state(queue)
    return state is not None and state.messages == 0


async def _is_gone(hub: Hub, queue: str) -> bool:
    link = hub._open_session().link
    assert link is not None
    return await link.state(queue) is None
