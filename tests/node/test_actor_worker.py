"""A worker that stops: what it has not done comes to the next one, and its end is nobody's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from actorhub import BrokerUnavailable, Hub, Settings, actor, task
from actorhub.actors.handle import Handle, address_of
from actorhub.actors.spec import spec_of
from actorhub.broker import Link, Queue
from actorhub.control_api.commands import StartActor
from actorhub.control_api.specs import Activation, SpawnSpec
from actorhub.core.addressing import actor_id_of, new_id
from actorhub.core.in_flight import InFlightRecorder
from actorhub.messaging.session import Session
from actorhub.messaging.topology import dead_letter_stream
from actorhub.node.actor_worker import ActorWorker
from actorhub.node.task_worker import TaskWorker
from actorhub.node.worker_process import WorkerConfig
from tests.conftest import QUICK
from tests.waiting import until


class Gates:
    """Of the test that runs: events belong to its loop."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.waiting = asyncio.Event()


gates = Gates()


class _Waits:
    async def started(self) -> None:
        gates.starting.set()
        await gates.may_start.wait()

    async def wait_for(self, other: Any) -> str:
        gates.waiting.set()
        return cast(str, await other.never())

    async def ping(self) -> str:
        return "pong"

    async def never(self) -> str:
        await asyncio.Event().wait()
        return "never"


@actor(max_restarts=9)
class Plain(_Waits):
    async def wait_for(self, other: Plain) -> str:
        return await super().wait_for(other)


@actor(durable=True)
class Durable(_Waits):
    async def wait_for(self, other: Durable) -> str:
        return await super().wait_for(other)


@pytest.mark.parametrize("cls", [Plain, Durable])
async def test_a_mailbox_that_is_out_of_reach_for_a_while_holds_up_no_other(
    site: Site, cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: what was sent to it is handled when its broker's node is back; the connection stays for the others."""
    gates.may_start.set()
    link = site.worker.session.link
    assert link is not None
    consume, left = link.consume, 2

    async def consume_later(queue: str, *args: Any, **more: Any) -> Any:
        nonlocal left
        if left and actor_id_of(queue):
            left -= 1
            raise BrokerUnavailable("NOT_FOUND - home node of durable queue is down or inaccessible")
        return await consume(queue, *args, **more)

    monkeypatch.setattr(link, "consume", consume_later)
    late, other = await site.begin(cls), await site.begin(Plain)
    async with asyncio.timeout(20):
        assert await asyncio.gather(late.ping(), other.ping()) == ["pong", "pong"]
    assert not left
    assert site.worker.session.link is link


@task
async def wait_in_a_task(other: Plain) -> str:
    gates.waiting.set()
    return await other.never()


class Site:
    """A worker without an agent, and somebody who sends to its actors."""

    def __init__(self, session: Session, worker: ActorWorker) -> None:
        self.session = session
        self.worker = worker

    @property
    def link(self) -> Link:
        assert self.session.link is not None
        return self.session.link

    async def begin(self, cls: Any) -> Any:
        spec = spec_of(cls)
        plan = SpawnSpec(
            actor_id=new_id(), namespace="default", class_name=spec.class_name, options=spec.options, arguments=b"{}"
        )
        for queue in plan.queues(self.session.names, self.session.settings.journal_retention):
            await self.link.declare(queue)
        self.worker.begin(StartActor(worker="w", residency=Activation(plan=plan, incarnation=1, restarts=0)))
        return Handle(self.session, plan.address(self.session.names), spec)

    async def waits(self, handle: Any) -> tuple[int, int]:
        """Messages in its queue, and who takes them."""
        state = await self.link.state(address_of(handle).queue)
        assert state is not None
        return state.messages, state.consumers


@pytest.fixture
async def site(broker_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    gates.renew()
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    InFlightRecorder.create(tmp_path / "box")
    config = WorkerConfig(worker="w", node="n", modules=[], recorder=tmp_path / "box")
    async with Hub(settings=settings) as hub:
        session = hub._open_session()
        assert session.link is not None
        await session.link.declare(Queue(session.names.node("n")))
        await session.link.declare(Queue(session.names.control))
        worker = ActorWorker(config, settings)
        await worker.start()
        yield Site(session, worker)
        await worker.stop()


@pytest.mark.parametrize("cls", [Plain, Durable])
async def test_an_actor_that_starts_while_its_worker_stops_takes_no_message(site: Site, cls: Any) -> None:
    """Invariant: what was sent to it waits for the next worker."""
    handle = await site.begin(cls)
    call = handle.never()
    if cls is Plain:
        await gates.starting.wait()
    await asyncio.gather(site.worker.stop(), _when_it_leaves(site, gates.may_start))
    assert await until(lambda: _is(site, handle, (1, 0)))
    assert not call.done()
    call.cancel()


@pytest.mark.parametrize("cls", [Plain, Durable])
async def test_a_call_that_ends_with_its_worker_is_not_answered_by_that(site: Site, cls: Any) -> None:
    """Invariant: the caller waits for the next worker's answer; nothing is committed, and nothing acknowledged."""
    gates.may_start.set()
    one, other = await site.begin(cls), await site.begin(cls)
    call = one.wait_for(other)
    await gates.waiting.wait()
    await site.worker.session.close()  # before its actors have ended: nothing else is worse
    assert await until(lambda: _is(site, one, (1, 0)))
    assert not call.done()
    call.cancel()


async def test_a_task_that_ends_with_its_slot_is_not_answered_by_that(site: Site, tmp_path: Path) -> None:
    """Invariant: the caller waits for another slot's answer; the task's message is in its queue again."""
    gates.may_start.set()
    session, hub = site.session, Hub(settings=site.session.settings)
    async with hub:
        other = hub.adopt(await site.begin(Plain))
        await site.link.declare(dead_letter_stream(session.names.dead("default")))
        call = hub.submit(wait_in_a_task, other)
        queue = session.names.task("default", "default")
        InFlightRecorder.create(tmp_path / "slot")
        config = WorkerConfig(
            worker="slot", node="n", modules=[], recorder=tmp_path / "slot", kind="task", queues=[queue]
        )
        slot = TaskWorker(config, session.settings, is_process=False)
        await slot.start()
        await gates.waiting.wait()
        await slot.session.close()
        assert await until(lambda: _in_queue(site, queue))
        assert not await hub.dead()
        assert not call.done()
        call.cancel()


async def _in_queue(site: Site, queue: str) -> bool:
    state = await site.link.state(queue)
    return state is not None and (state.messages, state.consumers) == (1, 0)


async def _is(site: Site, handle: Any, wanted: tuple[int, int]) -> bool:
    return await site.waits(handle) == wanted


async def _when_it_leaves(site: Site, event: asyncio.Event) -> None:
    await until(lambda: site.worker._is_leaving)
    event.set()
