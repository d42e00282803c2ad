"""The directory of actors is the same in every process: in hubs, in actors and in tasks."""

from __future__ import annotations

import asyncio

import pytest

from actorhub import ActorDied, Hub, actor, task
from actorhub.actors.handle import address_of
from actorhub.core.addressing import new_id


@actor(durable=True, shards=64)
class Basket:
    def __init__(self, key: str) -> None:
        self.items: list[str] = []

    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@actor
class Mortal:
    async def hello(self) -> str:
        return "hello"


@actor
class Caller:
    """Calls another actor without asking for the current hub: only its worker's session knows the directory."""

    async def cause(self, other: Mortal) -> str:
        try:
            return await other.hello()
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"


@task
async def put_into(basket: Basket, item: str) -> int:
    return await basket.add(item)


@task
async def cause_in_a_task(other: Mortal) -> str:
    try:
        return await other.hello()
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


async def test_an_actor_and_a_task_hear_why_another_actor_died_as_a_client_does(hub: Hub) -> None:
    mortal = await hub.spawn(Mortal)
    assert await mortal.hello() == "hello"
    assert await hub.kill(mortal)
    link = await hub._open_session().live_link()
    async with asyncio.timeout(10):
        while await link.state(address_of(mortal).queue) is not None:
            await asyncio.sleep(0.01)
    with pytest.raises(ActorDied, match=r"killed by hub\.kill"):
        await mortal.hello()
    caller = await hub.spawn(Caller)
    for said in (await caller.cause(mortal), await hub.submit(cause_in_a_task, mortal)):
        assert said.startswith("ActorDied: "), said
        assert "killed by hub.kill" in said


async def test_a_task_calls_a_keyed_actor_that_has_no_mailbox_yet(hub: Hub) -> None:
    basket = hub.at(Basket, f"first called in a task {new_id()}")
    assert await hub.submit(put_into, basket, "apple") == 1
    assert await basket.add("pear") == 2
