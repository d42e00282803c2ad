"""Objects across processes and nodes, on both brokers: put, get, arguments, large results, transfer, leases, loss."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, TypeAdapter

from actorhub import (
    Hub,
    InvalidArguments,
    NotSerialisable,
    ObjectLost,
    ObjectRef,
    Settings,
    StoreFull,
    actor,
    ask,
    blocking,
    task,
)
from actorhub.broker import Message, Queue
from actorhub.control_api.info import NodeInfo
from actorhub.core.addressing import QueueNames, new_id
from actorhub.messaging.session import Session
from actorhub.objects.client import ObjectClient
from actorhub.objects.server import LeaseTable, ObjectServer
from actorhub.objects.store import ObjectStore
from actorhub.objects.transfer import LocalStore
from actorhub.tasks.waiting import MAX_CONCURRENT_QUERIES, get_all
from actorhub.wire.envelope import Envelope
from tests.conftest import QUICK
from tests.waiting import until

Array = np.ndarray[Any, np.dtype[Any]]

MANY = 300_000  # numbers of eight bytes: more than travels in an answer


def is_mapped(array: Array) -> bool:
    """Whether an array's memory is a file in memory that is mapped into this process, and not a copy."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= address < end:
                return "/actorhub-" in line and line.split()[1].startswith("r--")
    return False


class Named(BaseModel):
    name: str
    data: ObjectRef[Any]


@task
def total(numbers: Array, extra: float = 0.0) -> float:
    assert is_mapped(numbers)
    return float(numbers.sum()) + extra


@task
async def total_later(numbers: dict[str, list[Any]]) -> float:
    assert is_mapped(numbers["a"][1])
    return float(sum(part.sum() for part in numbers["a"]))


@task
def counted(count: int) -> Array:
    return np.arange(count)


@task
async def text_of(length: int) -> str:
    return "x" * length


@task
def name_of(ref: ObjectRef[Array], named: Named) -> tuple[str, str]:
    return ref.id, named.data.id


@task
async def mean_of(ref: ObjectRef[Array]) -> float:
    return float((await Hub.current().get(ref)).mean())


@task
def put_here(count: int) -> ObjectRef[Array]:
    return blocking.Hub.current().put(np.ones(count))


@actor
class Holder:
    def __init__(self) -> None:
        self.ref: ObjectRef[Array] | None = None

    async def hold(self, ref: ObjectRef[Array]) -> str:
        self.ref = ref
        return ref.id

    async def echo(self, anything: Any) -> Any:
        return anything

    async def total(self) -> float:
        assert self.ref is not None
        return float((await Hub.current().get(self.ref)).sum())


# ---- on one node


async def test_an_object_is_read_without_copying_and_read_only(hub: Hub) -> None:
    numbers = np.arange(MANY)
    ref = await hub.put(numbers)
    assert ref.size > numbers.nbytes
    found = await hub.get(ref)
    assert is_mapped(found)
    assert np.array_equal(found, numbers)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    small = await hub.put({"a": (1, 2)})
    assert await hub.get([small, hub.submit(text_of, 2), small]) == [{"a": (1, 2)}, "xx", {"a": (1, 2)}]


async def test_a_reference_travels_as_json_and_pickle_and_is_one_in_each_process(hub: Hub) -> None:
    ref = await hub.put(np.ones(10))
    adapter = TypeAdapter(ObjectRef[Array])
    assert adapter.validate_json(adapter.dump_json(ref)) is ref
    with pytest.raises(AttributeError):
        ref.size = 3  # type: ignore[misc]
    assert await hub.submit(name_of, ref, Named(name="x", data=ref)) == (ref.id, ref.id)
    assert await hub.submit(mean_of, ref) == 1.0
    holder = await hub.spawn(Holder)
    assert await holder.hold(ref) == ref.id
    assert await holder.total() == 10.0
    with pytest.raises(InvalidArguments, match="not a reference to an object"):
        await holder.hold(3)  # type: ignore[arg-type]
    with pytest.raises(NotSerialisable, match=r"only tasks take values by as_argument\(\)"):
        await holder.echo(ref.as_argument())


async def test_a_value_stands_among_a_task_s_arguments_also_inside_containers(hub: Hub) -> None:
    ref = await hub.put(np.arange(MANY))
    whole = float(np.arange(MANY).sum())
    assert await hub.submit(total, ref.as_argument(), extra=2.0) == whole + 2.0
    assert await hub.submit(total_later, {"a": [np.ones(3), ref.as_argument()]}) == whole + 3.0
    with pytest.raises(InvalidArguments, match=r"name_of.*not a reference"):
        await hub.submit(name_of, ref.as_argument(), ref)  # type: ignore[call-overload]
    with pytest.raises(InvalidArguments, match="named: missing"):
        hub.submit(name_of, ref.as_argument())  # type: ignore[call-overload]


async def test_large_results_stay_where_they_are_made(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant: neither the answer nor the next task's message has the result's bytes."""
    payloads: list[int] = []
    session = hub._open_session()
    receive, check = session.sender.pending_calls.receive, session.sender.check_sendable

    def received(envelope: Envelope, payload: bytes) -> None:
        payloads.append(len(payload))
        receive(envelope, payload)

    def sent(payload: bytes) -> None:
        payloads.append(len(payload))
        check(payload)

    monkeypatch.setattr(session.sender.pending_calls, "receive", received)
    monkeypatch.setattr(session.sender, "check_sendable", sent)
    future = hub.submit(counted, MANY)
    numbers = await future
    assert is_mapped(numbers)
    assert np.array_equal(numbers, np.arange(MANY))
    assert await hub.submit(total, future.as_argument()) == float(numbers.sum())
    text = hub.submit(text_of, 300_000)
    assert await text == "x" * 300_000
    assert await text == "x" * 300_000, "it may be awaited again"
    ref = await hub.submit(put_here, MANY)
    assert is_mapped(await hub.get(ref))
    assert max(payloads) < 1000


@task
def total_of_all(arrays: list[Array]) -> float:
    return float(sum(array.sum() for array in arrays))


@task
def total_of_all_one(numbers: Array) -> float:
    return float(numbers.sum())


@task
def doubled(numbers: Array) -> Array:
    return numbers * 2


async def test_pipelines_pass_large_results_and_values_of_references_on(hub: Hub) -> None:
    whole = float(np.arange(MANY).sum())
    assert await hub.chain(counted, doubled, total_of_all_one).submit(MANY) == 2 * whole
    assert np.array_equal(await hub.chain(counted, doubled).submit(MANY), np.arange(MANY) * 2)
    ref = await hub.put(np.arange(MANY))
    assert await hub.gather_into(total_of_all, doubled, [ref.as_argument(), np.ones(2)]) == 2 * whole + 4
    assert await hub.get([hub.submit(doubled, ref.as_argument()), ref]) is not None


async def test_what_was_freed_is_lost_and_who_reads_it_goes_on(hub: Hub) -> None:
    ref = await hub.put(np.arange(MANY))
    found = await hub.get(ref)
    await hub.free(ref)
    with pytest.raises(ObjectLost, match=rf"object {ref.id} .* on {ref.node} is lost"):
        await hub.get(ref)
    with pytest.raises(ObjectLost, match=ref.id):
        await hub.submit(total, ref.as_argument())
    assert found.sum() == np.arange(MANY).sum()
    await hub.free(ref)


def test_objects_without_an_event_loop() -> None:
    with blocking.Hub() as hub:
        ref = hub.put(np.arange(MANY))
        assert is_mapped(hub.get(ref))
        [numbers, number] = hub.get([ref, hub.submit(total, ref.as_argument())])
        assert numbers.sum() == number
        hub.free(ref)
        with pytest.raises(ObjectLost):
            hub.get(ref)
        path = ObjectStore.find(hub._ready()[0].settings.prefix, ref.node).path
        assert path.exists()
    assert not path.exists()


async def test_a_client_in_another_language_gets_a_large_result_as_json(hub: Hub) -> None:
    link = await hub._open_session().live_link()
    await hub.submit(text_of, 1)  # which makes the queue
    answers, answered = f"answers-{new_id()}", asyncio.get_running_loop().create_future()
    await link.declare(Queue(answers))
    consumer = await link.consume(answers, answered.set_result, lambda reason: None, prefetch=1)
    call = {"method": f"{__name__}:text_of", "payload": {"length": 300_000}}
    message = Message(json.dumps(call).encode(), "application/json", reply_to=answers, correlation_id="1")
    link.publish(QueueNames(hub.settings.prefix).task(hub.settings.namespace, "default"), message, lambda outcome: None)
    delivery = await answered
    assert json.loads(delivery.message.body)["payload"] == "x" * 300_000
    delivery.ack()
    await consumer.close()
    await link.delete(answers)


# ---- several stores, in this process


class Site:
    """A node's store with its server, and processes of that node: here, sessions."""

    def __init__(self, settings: Settings, node: str, store: ObjectStore) -> None:
        self.node = node
        self.store = store
        self.session = Session(settings, name=node)
        self.server = ObjectServer(self.session, store, node)
        self.members: list[Session] = []
        self.transfers = 0
        self.in_flight = self.most_in_flight = 0
        self.gate = asyncio.Event()  # while it is clear, no transfer goes on
        self.gate.set()
        self.on_chunk: Callable[[int], None] = lambda number: None
        self._chunks = self.server.chunks
        self.server.chunks = self._counted  # type: ignore[method-assign]

    async def _counted(self, object_id: str, offset: int, copy_at: str) -> AsyncIterator[Any]:
        self.transfers += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            number = 0
            async for chunk in self._chunks(object_id, offset, copy_at):
                number += 1
                self.on_chunk(number)
                yield chunk
        finally:
            self.in_flight -= 1

    async def open(self) -> None:
        await self.session.open()
        await self.server.open()

    async def member(self) -> ObjectClient:
        session = Session(self.session.settings, name=f"member of {self.node}")
        await session.open()
        self.members.append(session)
        depot = ObjectClient(session)
        depot.open(self.store.path, self.node)
        return depot

    async def close(self) -> None:
        for session in self.members:
            await session.close()
        await self.server.close()
        await self.session.close()
        self.store.close()


@pytest.fixture
def site_settings(broker_url: str, prefix: str) -> Settings:
    return Settings(url=broker_url, secret="s", prefix=prefix, node_timeout=1.0)  # type: ignore[arg-type]


@pytest.fixture
async def sites(site_settings: Settings, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """Makes nodes of which this process plays the agent and the workers."""
    made: list[Site] = []

    async def make(**changes: Any) -> Site:
        settings = site_settings.model_copy(update=changes)
        node = f"site-{len(made) + 1}"
        store = ObjectStore.create(settings.prefix, node, spill=tmp_path, capacity=50_000_000, spill_capacity=0)
        made.append(Site(settings, node, store))
        await made[-1].open()
        return made[-1]

    yield make
    for site in made:
        await site.close()


async def test_an_object_comes_to_another_node_once_however_many_want_it(sites: Callable[..., Awaitable[Site]]) -> None:
    one, two = await sites(), await sites()
    ref = await (await one.member()).put(np.arange(1_000_000))
    wanting = [await two.member() for _ in range(3)]
    found = await asyncio.gather(*(depot.get(ref) for depot in wanting * 3))
    assert all(is_mapped(array) and np.array_equal(array, np.arange(1_000_000)) for array in found)
    assert await wanting[0].get(ref) is not None
    assert one.transfers == 1
    assert two.store.ids() == one.store.ids() == [ref.id]
    assert two.store.usage() == one.store.usage()


async def test_a_transfer_survives_lost_connections_on_both_sides(sites: Callable[..., Awaitable[Site]]) -> None:
    """Invariant: every byte arrives once, in its place."""
    one, two = await sites(), await sites()
    ref = await (await one.member()).put(np.arange(4_000_000))
    reader = await two.member()

    def cut(number: int) -> None:
        session = {20: two.members[0], 60: one.session}.get(number)
        if session is not None and session.link is not None:
            session.renew(session.link, "the test cuts it")

    one.on_chunk = cut
    assert np.array_equal(await reader.get(ref), np.arange(4_000_000))


async def test_a_list_of_objects_comes_several_at_once_and_in_order(sites: Callable[..., Awaitable[Site]]) -> None:
    one, two = await sites(), await sites()
    writer, reader = await one.member(), await two.member()
    refs = [await writer.put(number) for number in range(20)]
    one.gate.clear()
    getting = asyncio.create_task(get_all(refs, reader.get, None))
    await until(lambda: one.in_flight == MAX_CONCURRENT_QUERIES)
    one.gate.set()
    assert await getting == list(range(20))
    assert one.most_in_flight == MAX_CONCURRENT_QUERIES


async def test_of_a_list_the_first_object_that_is_lost_is_told_at_once(sites: Callable[..., Awaitable[Site]]) -> None:
    """Invariant: nobody waits for those before it, which go on coming."""
    slow, quick, three = await sites(), await sites(), await sites()
    reader = await three.member()
    ref, freed = await (await slow.member()).put("slow"), await (await quick.member()).put("freed")
    await reader.free(freed)
    await until(lambda: not quick.store.ids())
    slow.gate.clear()
    with pytest.raises(ObjectLost, match=rf"object {freed.id} .* on {freed.node} is lost"):
        await get_all([ref, freed], reader.get, None)
    slow.gate.set()
    assert await get_all([ref, ref], reader.get, None) == ["slow", "slow"]
    assert slow.transfers == 1


async def test_what_is_freed_is_freed_wherever_there_is_a_copy(sites: Callable[..., Awaitable[Site]]) -> None:
    one, two = await sites(), await sites()
    ref = await (await one.member()).put(np.arange(MANY))
    reader = await two.member()
    await reader.get(ref)
    await reader.free(ref)
    await until(lambda: not one.store.ids() and not two.store.ids())
    with pytest.raises(ObjectLost, match=rf"object {ref.id} .* on site-1 is lost: it was freed"):
        await reader.get(ref)


async def test_an_object_is_lost_with_its_node_and_nobody_waits_for_it(sites: Callable[..., Awaitable[Site]]) -> None:
    """Invariant: whether its server has said goodbye, or is only silent."""
    one, two, three = await sites(), await sites(), await sites()
    polite = await (await one.member()).put(np.arange(MANY))
    silent = await (await three.member()).put(np.arange(MANY))
    reader = await two.member()
    await one.close()
    with pytest.raises(ObjectLost, match=rf"object {polite.id} of .* bytes on site-1 is lost: that node is gone"):
        await reader.get(polite)
    await three.session._connection.close()  # nobody deletes the queue
    with pytest.raises(ObjectLost, match=rf"object {silent.id} of .* bytes on site-3 is lost: that node is gone"):
        await reader.get(silent)
    assert not two.store.ids()
    assert two.store.usage() == (0, 0), "nothing is left of transfers that failed"


async def test_a_client_whose_node_is_gone_still_gets_what_is_elsewhere(
    sites: Callable[..., Awaitable[Site]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await sites(), await sites()
    ref = await (await one.member()).put(np.arange(MANY))
    session = Session(two.session.settings)
    await session.open()
    client = ObjectClient(session)
    client.open()
    client._local = LocalStore(ObjectStore.open(two.store.path), two.server.queue)
    await two.close()
    monkeypatch.setattr(ObjectStore, "find", _not_here)
    assert np.array_equal(await client.get(ref), np.arange(MANY))
    assert (await client.put(1)).node == f"client-{session.id}"
    await client.close()
    await session.close()


def _not_here(prefix: str, node: str) -> ObjectStore:
    raise ObjectLost(f"the store of {node} is on another machine")


async def test_a_full_store_says_so_and_keeps_nothing_of_what_did_not_fit(
    sites: Callable[..., Awaitable[Site]],
) -> None:
    one, two = await sites(), await sites()
    writer, reader = await one.member(), await two.member()
    own = await reader.put(np.zeros(5_000_000))
    ref = await writer.put(np.zeros(5_000_000))
    with pytest.raises(StoreFull, match="do not fit the object store of node site-1"):
        await writer.put(np.zeros(5_000_000))
    with pytest.raises(StoreFull, match="node site-2"):
        await reader.get(ref)
    await reader.free(own)
    assert (await reader.get(ref)).nbytes == 40_000_000


async def test_objects_live_while_somebody_refers_to_them(sites: Callable[..., Awaitable[Site]]) -> None:
    """Invariant: what nobody refers to is freed, copies too; what is held outlives it by many leases."""
    one, two = await sites(object_lease=0.6), await sites(object_lease=0.6)
    writer, reader = await one.member(), await two.member()
    kept = await writer.put(np.arange(MANY))
    await reader.get(kept)
    for _ in range(3):
        dropped = await writer.put(np.arange(MANY))
        await reader.get(dropped)
        name = dropped.id
        assert one.store.contains(name)
        assert two.store.contains(name)
        del dropped
        await until(lambda name=name: not one.store.contains(name) and not two.store.contains(name))  # type: ignore[misc]
    assert one.store.ids() == two.store.ids() == [kept.id]
    assert (await reader.get(kept)).sum() == np.arange(MANY).sum()


async def test_leases_end_after_whole_rounds_without_a_word() -> None:
    leases = LeaseTable()
    assert not leases.overdue(["a", "b"])
    for _ in range(10):
        leases.renew(["a"])
        leases.overdue(["a"])
    assert [leases.overdue(["a"]) for _ in range(3)] == [[], [], ["a"]]
    assert not leases.overdue(["b"]), "it was gone, and is as good as new"


async def test_an_object_at_a_url_outlives_its_node(sites: Callable[..., Awaitable[Site]], tmp_path: Path) -> None:
    url = f"file://{tmp_path}/objects"
    one, two = await sites(objects_url=url), await sites(objects_url=url)
    ref = await (await one.member()).put(np.arange(MANY))
    lost = ObjectRef[Any]("neverthere", 10, ref.node, ref.queue)
    await one.close()
    reader = await two.member()
    assert np.array_equal(await reader.get(ref), np.arange(MANY))
    assert is_mapped(await reader.get(ref))
    with pytest.raises(ObjectLost, match=r"object neverthere .* neither does file://"):
        await reader.get(lost)
    await reader.free(ref)
    assert not two.store.contains(ref.id)
    with pytest.raises(ObjectLost):
        await reader.get(ref)


# ---- several nodes, in processes of their own


@pytest.fixture
def settings(broker_url: str) -> Settings:
    return Settings(url=broker_url, secret="s", namespace=new_id(6), **QUICK)  # type: ignore[arg-type]


@actor
class Reader:
    async def total(self, ref: ObjectRef[Array]) -> float:
        found = await Hub.current().get(ref)
        assert is_mapped(found)
        return float(found.sum())

    async def total_of(self, named: Any) -> float:
        return await self.total(named.data)

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def make(self, count: int) -> ObjectRef[Array]:
        return await Hub.current().put(np.arange(count))


def store_of(hub: Hub, node: str) -> ObjectStore:
    return ObjectStore.find(hub.settings.prefix, node)


@task
def sum_of(named: Any) -> int:
    return int(blocking.Hub.current().get(named.data).sum())


async def test_objects_within_the_arguments_of_a_task_that_waits_are_kept_for_it(settings: Settings) -> None:
    """Invariant: nobody but the task that waits refers to them, for many leases, and it finds them all the same: wherever
    their references stand, also within objects of users' own classes."""
    lasting = settings.model_copy(update={"object_lease": 0.5})
    async with Hub.local(workers=1, modules=[__name__], settings=lasting) as hub:
        later = hub.options(delay=3)
        named = later.submit(sum_of, Named(name="a", data=await hub.put(np.arange(MANY))))
        gathered = later.gather_into(len, sum_of, [Named(name="b", data=await hub.put(np.arange(MANY)))])
        assert await named == sum(range(MANY))
        assert await gathered == 1


async def test_objects_among_the_arguments_of_a_call_that_waits_are_kept_for_it(settings: Settings) -> None:
    """Invariant: nobody but the call that waits in the mailbox refers to them, for many leases, and the actor finds them."""
    lasting = settings.model_copy(update={"object_lease": 0.5})
    async with Hub.local(workers=1, modules=[__name__], settings=lasting) as hub:
        reader = await hub.spawn(Reader)
        busy = ask(reader.rest, 3.0)
        total = ask(reader.total, await hub.put(np.arange(MANY)))
        named = ask(reader.total_of, Named(name="a", data=await hub.put(np.arange(MANY))))
        await busy
        assert (await total, await named) == (sum(range(MANY)),) * 2


async def test_objects_go_from_node_to_node_and_are_lost_with_theirs(settings: Settings) -> None:
    """Invariant: a copy on another node outlives the owner while it is in use there; what has none is lost, and says so."""
    whole = float(np.arange(MANY).sum())
    local = Hub.local(nodes=2, workers=2, slots=1, modules=[__name__], settings=settings)
    async with local as hub:
        near = [await hub.options(node="node-1").spawn(Reader) for _ in range(2)]
        far = [await hub.options(node="node-2").spawn(Reader) for _ in range(4)]
        ref, alone = await near[0].make(MANY), await near[0].make(MANY)
        assert ref.node == "node-1"
        assert await asyncio.gather(*(reader.total(ref) for reader in [*near, *far] * 2)) == [whole] * 12
        assert store_of(hub, "node-2").ids() == [ref.id]
        assert is_mapped(await hub.get(ref)), "a client reads every store of its machine"
        path = store_of(hub, "node-1").path
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        await until(lambda: not path.exists())
        for reading in (hub.get(alone), far[0].total(alone)):
            with pytest.raises(ObjectLost, match=rf"object {alone.id} of .* bytes on node-1 is lost"):
                await reading
        assert await far[0].total(ref) == whole
        again = await hub.put(np.arange(MANY))
        assert again.node == "node-2", "a client whose node is gone takes another"
        assert await far[0].total(again) == whole


async def test_nothing_stays_in_memory_of_a_node_that_was_killed_with_all_its_processes(settings: Settings) -> None:
    local = Hub.local(nodes=1, workers=1, slots=1, modules=[__name__], settings=settings)
    async with local as hub:
        await hub.put(np.arange(MANY))
        path = store_of(hub, "node-1").path
        [node] = await until(lambda: _complete(hub))
        assert hub._cluster is not None
        for pid in (node.pid, *(worker.pid for worker in node.workers)):
            os.kill(pid, signal.SIGSTOP)
        for pid in (node.pid, *(worker.pid for worker in node.workers)):
            os.kill(pid, signal.SIGKILL)
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        assert path.exists()
        hub._cluster.start_node("node-2")
        await until(lambda: not path.exists())


async def _complete(hub: Hub) -> list[NodeInfo]:
    nodes = await hub.nodes()
    return nodes if [len(node.workers) for node in nodes] == [2] else []


async def test_an_object_at_a_url_survives_the_kill_of_its_node(settings: Settings, tmp_path: Path) -> None:
    known = settings.model_copy(update={"objects_url": f"file://{tmp_path}/kept"})
    async with Hub.local(nodes=2, workers=1, slots=1, modules=[__name__], settings=known) as hub:
        maker = await hub.options(node="node-1").spawn(Reader)
        ref = await maker.make(MANY)
        path = store_of(hub, "node-1").path
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        await until(lambda: not path.exists())
        assert np.array_equal(await hub.get(ref), np.arange(MANY))
        assert await hub.submit(total, ref.as_argument()) == float(np.arange(MANY).sum())


async def test_a_large_result_travels_where_its_node_s_store_is_full(settings: Settings) -> None:
    small = settings.model_copy(update={"store_capacity": 500_000, "store_spill_capacity": 0})
    async with Hub.local(workers=1, slots=1, modules=[__name__], settings=small) as hub:
        numbers = await hub.submit(counted, MANY)
        assert np.array_equal(numbers, np.arange(MANY))
        with pytest.raises(StoreFull, match="node-1: 0 of 500,000 bytes"):
            await hub.put(numbers)


async def test_a_client_on_a_machine_without_a_node_keeps_its_own_store(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: both ways an object is transferred, and the client's store is gone with it."""
    monkeypatch.setattr("actorhub.objects.client.socket.gethostname", lambda: "elsewhere")

    async with Hub(settings=hub.settings) as far:
        ref = await far.put(np.arange(MANY))
        assert ref.node.startswith("client-")
        path = store_of(hub, ref.node).path
        monkeypatch.setattr(ObjectStore, "find", _not_here)
        future = far.submit(doubled, ref.as_argument())
        found = await future
        assert is_mapped(found)
        assert np.array_equal(found, np.arange(MANY) * 2)
        assert await far.submit(total, future.as_argument()) == float(found.sum())
    assert not path.exists()
    with pytest.raises(ObjectLost, match=rf"{ref.node} is lost: that node is gone"):
        await hub.get(ref)
