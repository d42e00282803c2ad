"""What users' editors show: checked by mypy and pyright, never run. Each ignored line must be an error, or the check fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from tenacity import wait_exponential_jitter

from actorhub import Call, Future, Hub, ObjectRef, PlacementGroup, Retry, Stream, actor, ask, ref, task, tell
from actorhub.blocking import Hub as BlockingHub
from actorhub.control_api.info import Demand
from actorhub.messaging.delayed_delivery import DelayedPublisher, DelayForwarder, OnUnroutable
from actorhub.messaging.session import Session


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        return self.value + amount

    def describe(self) -> str:
        return str(self.value)

    def own(self) -> Counter:
        return ref(self)


@actor(concurrency=4, mailbox_limit=100)
class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner

    async def transfer(self, to: Account, amount: int) -> None: ...


async def right(hub: Hub) -> None:
    counter = await hub.options(name="x").spawn(Counter, 10)
    assert_type(counter, Counter)
    assert_type(await counter.add(1), int)
    assert_type(await ask(counter.describe), str)
    assert_type(ask(counter.add, 1), Call[int])
    await tell(counter.add, 1)
    assert_type(await hub.find(Counter, "x"), Counter)
    account = await hub.spawn(Account, "me")
    await account.transfer(account, 3)
    group = await hub.placement_group([{"cpu": 1}, {"cpu": 1, "gpu": 0.5}], strategy="STRICT_SPREAD", name="train")
    assert_type(group, PlacementGroup)
    assert_type(await hub.options(placement=group[1], prefer={"zone": "a"}).spawn(Counter, 1), Counter)
    assert_type(await hub.remove(group), bool)


@task(resources={"gpu": 1})
def paint(frame: int) -> bytes:
    return b""


async def placed(hub: Hub) -> None:
    group = await hub.placement_group([{"gpu": 1}])
    assert_type(await hub.options(placement=group[0], resources={"gpu": 0.5}).submit(paint, 1), bytes)
    assert_type(await hub.demand(), list[Demand])
    assert_type(Hub.local(nodes={"one": {"cpu": 1}}), Hub)
    hub.submit(paint, "one")  # type: ignore[call-overload]


@task(queue="images", retry=Retry(attempts=5, wait=wait_exponential_jitter(max=60)), timeout=30, priority=5)
def resize(path: str, width: int) -> bytes:
    return b""


@task
async def fetch(url: str) -> str:
    return url


@task
async def lines(count: int) -> AsyncIterator[str]:
    yield ""


@task
def numbers(count: int) -> Iterator[int]:
    yield 1


async def right_tasks(hub: Hub) -> None:
    future = hub.submit(resize, "a.png", 200)
    assert_type(future, Future[bytes])
    assert_type(await future, bytes)
    assert_type(await hub.submit(fetch, "x"), str)
    assert_type(hub.submit(len, future.as_argument()), Future[int])
    assert_type(hub.submit(lines, 3), Stream[str])
    assert_type(hub.submit(numbers, 3), Stream[int])
    assert_type(await hub.get([future]), list[bytes])
    done, pending = await hub.wait([future], count=1, timeout=10)
    assert_type(done, list[Future[bytes]])
    assert_type(pending, list[Future[bytes]])
    async for data in hub.map(resize, ["a"], [1], ordered=False, progress=True):
        assert_type(data, bytes)
    async for text in hub.map(fetch, ["a"]):
        assert_type(text, str)
    assert_type(resize("a", 1), bytes)


async def right_objects(hub: Hub) -> None:
    matrix = await hub.put([1.0, 2.0])
    assert_type(matrix, ObjectRef[list[float]])
    assert_type(await hub.get(matrix), list[float])
    assert_type(await hub.get([matrix, matrix]), list[list[float]])
    assert_type(await hub.get(hub.submit(fetch, "x")), str)
    assert_type(matrix.as_argument(), list[float])
    assert_type(await hub.submit(resize, (await hub.put("a")).as_argument(), 1), bytes)
    await hub.free(matrix)


async def wrong_objects(hub: Hub) -> None:
    ref = await hub.put(b"")
    hub.submit(resize, ref, 1)  # type: ignore[call-overload]
    hub.submit(resize, ref.as_argument(), 1)  # type: ignore[call-overload]
    ref.size = 3  # type: ignore[misc]


async def wrong_tasks(hub: Hub) -> None:
    hub.submit(resize, 1, 1)  # type: ignore[call-overload]
    hub.submit(resize, "a")  # type: ignore[call-overload]


async def wrong(hub: Hub, counter: Counter) -> None:
    await hub.spawn(Counter, "bad")  # type: ignore[arg-type]
    await counter.add("bad")  # type: ignore[arg-type]
    await tell(counter.add, "bad")  # type: ignore[arg-type]
    await ask(counter.describe, 3)  # type: ignore[call-overload]


def blocking(hub: BlockingHub) -> None:
    counter = hub.spawn(Counter, 10)
    assert_type(counter, Counter)
    assert_type(hub.ask(counter.add, 1), int)
    assert_type(hub.ask(counter.describe), str)
    hub.tell(counter.add, 1)
    ref = hub.put("a")
    assert_type(ref, ObjectRef[str])
    assert_type(hub.get(ref), str)
    assert_type(hub.get([ref]), list[str])


def inside(session: Session, delays: DelayedPublisher, on_unroutable: OnUnroutable) -> None:
    assert_type(DelayForwarder(session, delays, on_unroutable), DelayForwarder)  # which knows no session
