"""Faults around tasks, on real slots and brokers.

Each test states its invariant, and checks it from outside: by files that the tasks have written, by dead letters, and by the
processes that exist.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
import pytest
from tenacity import wait_fixed

from actorhub import (
    CallTimeout,
    Hub,
    PayloadTooLarge,
    RemoteError,
    Retry,
    Settings,
    WorkerDied,
    actor,
    blocking,
    deadline,
    task,
)
from actorhub.broker import Message, Outcome, Queue
from actorhub.core.addressing import new_id
from actorhub.core.futures import resolver_of
from actorhub.tasks.chunking import CONCURRENT_TASKS
from actorhub.wire.envelope import Envelope, Kind, encode
from actorhub.wire.signer import Signer
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
    """Runs until the file `gate` exists."""
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
    link.publish(queue, Message(body, content_type), resolver_of(settled))
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


async def test_a_task_that_kills_its_slots_is_withheld_and_no_other_is(hub: Hub, tmp_path: Path) -> None:
    """Invariant: it kills max_redeliveries + 1 slots, then it is a dead letter, as poison. Its neighbours are done."""
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
    """Invariant: started tasks end on that node, and the others run elsewhere: each task runs once."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    patient = settings.model_copy(update={"drain_timeout": 30.0})
    hub = Hub.local(nodes=2, workers=1, slots=2, modules=[__name__], settings=patient)
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


# ---- callers


async def test_tasks_of_a_killed_caller_still_run_and_hold_up_no_others(hub: Hub, tmp_path: Path) -> None:
    """Invariant: accepted tasks run though their caller is gone; their replies wait in a queue that expires."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    blockers = [hub.submit(until_there, str(tmp_path / "blocked"), number, str(gate)) for number in range(2)]
    await until(lambda: len(noted(tmp_path / "blocked")) == 2)
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, sys\n"
        "from actorhub import Hub\n"
        "from tests.faults.test_task_faults import work\n"
        "async def main():\n"
        "    async with Hub() as hub:\n"
        "        futures = [hub.submit(work, sys.argv[1], number) for number in range(100)]\n"
        "        await asyncio.gather(*(future.accepted() for future in futures))\n"
        "        print(hub._open_session().reply_queue, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, **hub.settings.to_environment(), "PYTHONPATH": os.getcwd()}
    caller = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(path), stdout=subprocess.PIPE, env=environment
    )
    assert caller.stdout is not None
    reply_queue = (await caller.stdout.readline()).decode().strip()
    caller.kill()
    await caller.wait()
    gate.touch()
    assert await hub.get(blockers) == [0, 1]
    await until(lambda: len(runs(path)) == 100)
    assert await hub.get([hub.submit(plain, number) for number in range(100)]) == list(range(100))
    link = hub._open_session().link
    assert link is not None
    with pytest.raises(ValueError, match="x-expires"):
        await link.declare(Queue(reply_queue))  # still the old queue, declared with that argument
    assert await link.delete(reply_queue)
    assert await hub.get([hub.submit(plain, number) for number in range(100)]) == list(range(100))


async def test_replies_whose_queue_is_gone_hold_up_no_slot(hub: Hub, tmp_path: Path) -> None:
    """Invariant: the tasks run, once each, and so do all that come after."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    blockers = [hub.submit(until_there, str(tmp_path / "blocked"), number, str(gate)) for number in range(2)]
    await until(lambda: len(noted(tmp_path / "blocked")) == 2)
    async with Hub(settings=hub.settings) as leaving:
        futures = [leaving.submit(work, str(path), number) for number in range(100)]
        await asyncio.gather(*(future.accepted() for future in futures))
    gate.touch()
    assert await hub.get(blockers) == [0, 1]
    await until(lambda: len(runs(path)) == 100)
    assert await hub.get([hub.submit(plain, number) for number in range(100)]) == list(range(100))
    assert set(runs(path).values()) == {1}


# ---- limits


@task(timeout=0.3)
def too_long(path: str, number: int) -> int:
    note(path, number)
    time.sleep(60)
    return number


async def test_a_late_task_under_load_is_the_only_one_to_end(hub: Hub, tmp_path: Path) -> None:
    """Invariant: it runs once, its caller is told, and its process is gone; all others give their results."""
    path, late = tmp_path / "ran", tmp_path / "late"
    await hub.get([hub.submit(work, str(tmp_path / "warm"), number) for number in range(200)])  # now chunks are long
    futures = [hub.submit(work, str(path), number, 0.0005) for number in range(400)]
    hit = [hub.submit(too_long, str(late), number) for number in range(3)]
    futures += [hub.submit(work, str(path), number, 0.0005) for number in range(400, 1000)]
    for future in hit:
        with pytest.raises(CallTimeout, match="too_long was ended"):
            await future
    assert await hub.get(futures) == list(range(1000))
    assert set(runs(path)) == set(range(1000))
    assert runs(late) == {0: 1, 1: 1, 2: 1}
    await until(lambda: not any(exists(pid) for _, pid in noted(late)))
    found = await until(lambda: letters(hub, 3))
    assert len(found) == 3


async def test_cancelled_tasks_under_load_are_the_only_ones_to_end(hub: Hub, tmp_path: Path) -> None:
    """Invariant: a task that is cancelled while it runs runs once, and its process ends; all others return their results."""
    path, hit = tmp_path / "ran", tmp_path / "hit"
    cancelled = [hub.submit(until_there, str(hit), number, str(tmp_path / "never")) for number in range(2)]
    futures = [hub.submit(work, str(path), number, 0.0005) for number in range(1000)]
    others = [hub.submit(work, str(tmp_path / "others"), number) for number in range(500)]
    await until(lambda: len(noted(hit)) == 2)
    for future in (*others, *cancelled):
        future.cancel()
    assert all(future.cancelled() for future in cancelled)
    assert await hub.get(futures) == list(range(1000))
    assert set(runs(path)) == set(range(1000))
    assert runs(hit) == {0: 1, 1: 1}
    await until(lambda: not any(exists(pid) for _, pid in noted(hit)))
    assert await hub.dead() == []


@task
async def cancels_what_it_awaits(number: int) -> None:
    waited = asyncio.get_running_loop().create_future()
    waited.cancel()
    await waited


async def test_a_task_that_raises_cancelled_error_itself_has_failed(hub: Hub) -> None:
    """Invariant: its future ends, though its caller did not cancel it."""
    with pytest.raises(RemoteError, match="CancelledError"):
        await hub.submit(cancels_what_it_awaits, 1)
    assert await hub.submit(plain, 1) == 1


@task
def as_slow_as_said(path: str, number: int, gate: str) -> int:
    note(path, number)
    time.sleep(0.2 if Path(gate).exists() else 0.0)
    return number


async def test_a_message_of_tasks_that_turn_out_slow_is_split(settings: Settings, tmp_path: Path) -> None:
    """Invariant: tasks that travel in one message because they were fast are done by two slots when they are slow."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    async with Hub.local(workers=1, slots=2, modules=[__name__], settings=settings) as hub:
        await until(lambda: slots_of(hub, "node-1", 2))
        await hub.get([hub.submit(as_slow_as_said, str(tmp_path / "fast"), number, str(gate)) for number in range(300)])
        gate.touch()
        futures = [hub.submit(as_slow_as_said, str(path), number, str(gate)) for number in range(8)]
        assert await hub.get(futures) == list(range(8))
    assert runs(path) == dict.fromkeys(range(8), 1)
    assert len({pid for _, pid in noted(path)}) == 2


# ---- messages that should not be there


async def test_malformed_and_foreign_messages_are_kept_as_dead_letters_and_work_goes_on(hub: Hub) -> None:
    """Invariant: each is kept as it came, and acknowledged."""
    assert await hub.submit(plain, 1) == 1
    queue = queue_of(hub)
    bodies = [b"", b"\x00\xffnot json", b"[1, 2]", json.dumps({"task": "celery"}).encode()]
    for body in bodies:
        await publish(hub, queue, body)
    empty = b'{"envelopes":[]}'
    batches = [b"\x00\x00", len(empty).to_bytes(4, "big") + empty]
    for body in batches:
        await publish(hub, queue, body, "application/x-actorhub-batch")
    for kind in ("cancel", "reply", "credit"):
        await publish(hub, queue, json.dumps({"kind": kind, "method": "nowhere:nothing"}).encode())
    assert await hub.get([hub.submit(plain, number) for number in range(500)]) == list(range(500))
    found = await until(lambda: letters(hub, 9))
    assert sorted(letter.body for letter in found if letter.reason == "malformed") == sorted([*bodies, *batches])
    assert [letter.reason for letter in found if letter.method] == ["invalid"] * 3
    assert len(found) == 9


def ask_by_pika(url: str, queue: str, bodies: list[dict[str, Any]]) -> list[Any]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        for number, body in enumerate(bodies):
            properties = pika.BasicProperties(reply_to=reply_to, correlation_id=str(number), delivery_mode=2)
            channel.basic_publish("", queue, json.dumps(body).encode(), properties)
        answers = {}
        for _, properties, body in channel.consume(reply_to, auto_ack=True):
            answer = json.loads(body)
            assert answer["call"] == properties.correlation_id
            answers[properties.correlation_id] = answer
            if len(answers) == len(bodies):
                return [answers[str(number)] for number in range(len(bodies))]
    raise AssertionError("unreachable")


async def test_a_client_without_actorhub_submits_tasks_and_reads_their_replies(
    hub: Hub, broker_url: str, tmp_path: Path
) -> None:
    """Invariant: each reply comes as plain JSON with the correlation id of its task; also after attempts that failed."""
    assert await hub.submit(plain, 1) == 1
    name, path = f"{__name__}:plain", str(tmp_path / "again")
    bodies: list[dict[str, Any]] = [{"method": name, "payload": {"number": number}} for number in range(50)]
    bodies.append({"method": f"{__name__}:second_time", "payload": {"path": path, "number": 50}})
    bodies.append({"method": name, "payload": {"number": "many"}})
    *answers, wrong = await asyncio.to_thread(ask_by_pika, broker_url, queue_of(hub), bodies)
    assert [(answer["kind"], answer["payload"]) for answer in answers] == [("reply", number) for number in range(51)]
    assert (wrong["kind"], wrong["payload"]["type"]) == ("failure", "actorhub.errors:InvalidArguments")


async def test_a_foreign_task_that_kills_its_slots_is_withheld_and_another_with_the_same_id_is_not(
    hub: Hub, broker_url: str, tmp_path: Path
) -> None:
    """Invariant: it kills max_redeliveries + 1 workers; ids that strangers choose are no reason to withhold anything."""
    assert await hub.submit(plain, 1) == 1
    path = tmp_path / "deaths"
    deadly = {"method": f"{__name__}:die", "payload": {"path": str(path), "number": 0}}
    [answer] = await asyncio.to_thread(ask_by_pika, broker_url, queue_of(hub), [deadly])
    assert answer["payload"]["type"] == "actorhub.errors:WorkerDied"
    assert runs(path) == {0: 3}
    harmless = {"method": f"{__name__}:plain", "payload": {"number": 3}}
    [answer] = await asyncio.to_thread(ask_by_pika, broker_url, queue_of(hub), [harmless])
    assert answer["payload"] == 3
    without_id = {"method": f"{__name__}:die", "payload": {"path": str(path), "number": 1}}
    await publish(hub, queue_of(hub), json.dumps(without_id).encode())
    found = await until(lambda: letters(hub, 2))
    assert [letter.reason for letter in found] == ["poison", "poison"]
    assert runs(path) == {0: 3, 1: 3}


class Bomb:
    """Runs when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.proof}",)


async def test_code_that_is_not_signed_by_the_cluster_is_refused_and_never_loaded(hub: Hub, tmp_path: Path) -> None:
    """Invariant: the task fails, is kept, and nothing of its code runs; tasks go on."""
    assert await hub.submit(plain, 1) == 1
    proof = tmp_path / "proof"
    by_another = Signer("another secret").dumps(Bomb(proof), "a bomb")
    signed = bytearray(Signer("a secret of the tests").dumps(Bomb(proof), "a bomb"))
    signed[-1] ^= 1
    for code in (by_another, bytes(signed), pickle.dumps(Bomb(proof)), b""):
        envelope = Envelope(id=new_id(), kind=Kind.TELL, method=f"{__name__}:plain", sender="x", code=code)
        body, content_type = encode([(envelope, b'{"number": 1}')])
        await publish(hub, queue_of(hub), body, content_type)
    found = await until(lambda: letters(hub, 4))
    assert {(letter.reason, letter.exception) for letter in found} == {("invalid", "actorhub.errors:UntrustedPayload")}
    assert await hub.submit(plain, 2) == 2
    assert not proof.exists()


class Unloadable:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return int, ("no number",)


async def test_code_that_cannot_be_loaded_fails_and_is_acknowledged(hub: Hub) -> None:
    """Invariant: its caller is told, and its neighbours in the same message are done."""
    session = hub._open_session()
    code = session.signer.dumps(Unloadable(), "what cannot be loaded")
    envelopes = [
        Envelope(id=new_id(), kind=Kind.TELL, method=f"{__name__}:plain", sender="x", code=each)
        for each in (None, code)
    ]
    assert await hub.submit(plain, 1) == 1
    body, content_type = encode([(envelope, b'{"number": 1}') for envelope in envelopes])
    await publish(hub, queue_of(hub), body, content_type)
    [letter] = await until(lambda: letters(hub, 1))
    assert letter.call == envelopes[1].id
    link = session.link
    assert link is not None
    assert await hub.get([hub.submit(plain, number) for number in range(100)]) == list(range(100))


@actor
class Large:
    async def large(self, size: int) -> str:
        return size * "x"

    async def stream(self, size: int) -> AsyncIterator[str]:
        yield size * "x"


@task
async def large_items(size: int) -> AsyncIterator[str]:
    yield size * "x"


async def test_a_result_that_is_too_large_for_the_broker_fails_and_its_connection_lives(hub: Hub) -> None:
    """Invariant: the caller is told that it is too large; who sent it goes on, in the same process and over the same link."""
    link = hub._open_session().link
    assert link is not None
    size = link.max_message
    large = await hub.spawn(Large)
    with pytest.raises(PayloadTooLarge, match="a payload of"):
        await large.large(size)
    for stream in (large.stream(size), hub.submit(large_items, size)):
        with pytest.raises(PayloadTooLarge, match="a payload of"):
            await anext(stream)
    assert await hub.get([hub.submit(plain, number) for number in range(100)]) == list(range(100))


# ---- inside the process


async def test_inside_the_process_a_blocked_task_that_is_cancelled_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: it runs on in its thread, unheard, and every other task is done meanwhile."""
    monkeypatch.delenv("ACTORHUB_URL", raising=False)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    async with Hub() as hub:
        for number in range(3):
            blocked = hub.submit(until_there, str(path), number, str(gate))
            behind = [hub.submit(plain, each) for each in range(20)]
            await until(lambda at=number + 1: len(noted(path)) == at)  # type: ignore[misc]
            assert blocked.cancel()
            assert await hub.get(behind) == list(range(20))
        with pytest.raises(CallTimeout), deadline(0.3):
            await hub.submit(until_there, str(path), 3, str(gate))
        assert await hub.submit(plain, 1) == 1
        gate.touch()
    assert runs(path) == dict.fromkeys(range(4), 1)


# ---- tasks that wait for tasks


@task
def fib(number: int) -> int:
    if number < 2:
        return number
    hub = blocking.Hub.current()
    return sum(hub.get([hub.submit(fib, number - 1), hub.submit(fib, number - 2)]))


@task
def descend(path: str, depth: int) -> int:
    note(path, depth)
    hub = blocking.Hub.current()
    return 0 if depth == 0 else 1 + hub.get(hub.submit(descend, path, depth - 1))


@task
async def parent(path: str, number: int, gate: str) -> int:
    return await Hub.current().submit(child, path, number, gate)


@task
async def child(path: str, number: int, gate: str) -> int:
    """Ends when all have started, so that no parent ends before every child has found room."""
    note(path, number)
    while not await asyncio.to_thread(Path(gate).exists):
        await asyncio.sleep(0.05)
    return number


ENDED = 1000


@task
def wait_for(path: str, number: int, gate: str) -> int:
    note(path, number)
    hub = blocking.Hub.current()
    try:
        return hub.get(hub.submit(child, path, -number, gate))
    except asyncio.CancelledError:
        note(path, number + ENDED)
        raise


@task(timeout=1.0, retry=Retry(attempts=1))
def wait_for_a_second(path: str, number: int, gate: str) -> int:
    return wait_for(path, number, gate)


@pytest.fixture
async def one_slot(settings: Settings) -> AsyncIterator[Hub]:
    async with Hub.local(workers=1, slots=1, modules=[__name__], settings=settings) as hub:
        yield hub


@task(queue="low")
def low(path: str, number: int) -> None:
    note(path, number)
    time.sleep(0.005)


@task(queue="high", priority=9)
def high(path: str, number: int) -> None:
    low(path, number)


async def test_a_slot_runs_the_highest_priority_first_whichever_queue_it_is_from(one_slot: Hub, tmp_path: Path) -> None:
    path, gate = str(tmp_path / "ran"), tmp_path / "gate"
    await one_slot.get([one_slot.submit(function, path, -1) for function in (low, high) for _ in range(20)])
    holding = one_slot.submit(until_there, path, 2, str(gate))
    await until(lambda: runs(Path(path))[2] == 1)
    below = [one_slot.submit(low, path, 0) for _ in range(300)]
    above = [one_slot.submit(high, path, 1) for _ in range(60)]
    for future in (*below, *above):
        await future.accepted()
    gate.touch()
    await one_slot.get([holding, *above])
    ran = [number for number, _ in noted(Path(path))]
    first, last = ran.index(1), len(ran) - ran[::-1].index(1)
    assert ran[first:last].count(0) < 20, "they would take turns, where none came first"
    await one_slot.get(below)


async def test_tasks_that_wait_for_tasks_end_in_a_single_slot(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: however deep and wide, and in one process."""
    path = tmp_path / "ran"
    assert await one_slot.submit(descend, str(path), 30) == 30
    assert await one_slot.get([one_slot.submit(fib, number) for number in (8, 7, 1)]) == [21, 13, 1]
    assert runs(path) == dict.fromkeys(range(31), 1)
    assert len({pid for _, pid in noted(path)}) == 1


async def test_more_async_tasks_wait_than_one_slot_begins_with_and_all_end(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: their children find room in the same slot."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [one_slot.submit(parent, str(path), number, str(gate)) for number in range(3 * CONCURRENT_TASKS)]
    await until(lambda: len(noted(path)) == 3 * CONCURRENT_TASKS)
    gate.touch()
    assert await one_slot.get(futures) == list(range(3 * CONCURRENT_TASKS))
    assert len({pid for _, pid in noted(path)}) == 1


async def test_a_blocked_task_is_ended_and_the_task_that_runs_meanwhile_is_not(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: cancelled or timed out, it ends where it waits; its slot lives, and the task that has its turn runs once."""
    path, gate, other_gate = tmp_path / "ran", tmp_path / "gate", tmp_path / "other"
    late = one_slot.submit(wait_for_a_second, str(path), 1, str(gate))
    cancelled = one_slot.submit(wait_for, str(path), 2, str(gate))
    await until(lambda: {-1, -2} <= set(runs(path)))
    running = one_slot.submit(until_there, str(path), 3, str(other_gate))
    await until(lambda: runs(path)[3] == 1)
    assert cancelled.cancel()
    with pytest.raises(CallTimeout, match="was ended: it had run for"):
        await late
    await until(lambda: {1 + ENDED, 2 + ENDED} <= set(runs(path)))
    other_gate.touch()
    assert await running == 3
    gate.touch()
    assert await one_slot.submit(wait_for, str(path), 4, str(gate)) == -4
    assert len({pid for _, pid in noted(path)}) == 1
    assert runs(path)[3] == 1


@task
def stay(path: str, number: int, gate: str) -> int:
    """Waits, and does not end where it is cancelled."""
    with suppress(asyncio.CancelledError):
        wait_for(path, number, gate)
    return until_there(path, number, gate + "2")


async def test_a_blocked_task_that_ignores_its_cancellation_ends_with_its_slot(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: another slot takes over, and all others are done there."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    stubborn = one_slot.submit(stay, str(path), 1, str(gate))
    other = one_slot.submit(wait_for, str(path), 2, str(gate))
    await until(lambda: {-1, -2} <= set(runs(path)))
    [(_, pid), *_] = noted(path)
    assert stubborn.cancel()
    await until(lambda: not exists(pid))
    gate.touch()
    assert await other == -2
    assert await one_slot.dead() == []


@task
async def keep_the_event_loop_busy(gate: str) -> None:
    while hold_for_a_moment(gate):
        await asyncio.sleep(0)


def hold_for_a_moment(gate: str) -> bool:
    time.sleep(0.02)
    return not Path(gate).exists()


@task
def submit_some(path: str, number: int) -> None:
    note(path, number)
    hub = blocking.Hub.current()
    for _ in range(5):
        hub.submit(plain, number)
    note(path, -number)


async def test_a_task_that_only_submits_others_does_not_yield_its_turn(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: tasks that wait for no others run one after the other, however long the event loop takes."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    busy = one_slot.submit(keep_the_event_loop_busy, str(gate))
    futures = [one_slot.submit(submit_some, str(path), number) for number in range(1, 6)]
    await one_slot.get(futures)
    gate.touch()
    await busy
    ran = [number for number, _ in noted(path)]
    assert ran == [signed for number in ran[::2] for signed in (number, -number)]


@task(max_redeliveries=0)
def wait_once(path: str, number: int, gate: str) -> int:
    return wait_for(path, number, gate)


async def test_a_slot_killed_under_blocked_tasks_loses_none_and_blames_none(one_slot: Hub, tmp_path: Path) -> None:
    """Invariant: blocked tasks run again, however often; only the running task counts as the cause."""
    path, deaths, gate = tmp_path / "ran", tmp_path / "deaths", tmp_path / "gate"
    waiting = [one_slot.submit(wait_once, str(path), number, str(gate)) for number in range(1, 21)]
    await until(lambda: set(range(-20, 21)) - {0} == set(runs(path)))
    with pytest.raises(WorkerDied, match="killed its worker 3 times"):
        await one_slot.submit(die, str(deaths), 0)
    gate.touch()
    assert await one_slot.get(waiting) == [-number for number in range(1, 21)]
    assert runs(deaths) == {0: 3}
    assert all(runs(path)[number] >= 2 for number in range(1, 21))
    assert {letter.method for letter in await one_slot.dead()} == {f"{__name__}:die"}


# ---- tasks that their slot cannot end


@task(timeout=1.0, retry=Retry(attempts=2))
def hold_the_interpreter(path: str, number: int) -> None:
    note(path, number)
    ctypes.PyDLL(None).sleep(120)  # PyDLL: in foreign code that does not let others run


@task
def hold_it_without_a_limit(path: str, number: int) -> None:
    hold_the_interpreter(path, number)


@task(timeout=1.0)
async def hold_the_event_loop(path: str, number: int) -> None:
    hold_it_by_sleep(path, number)


def hold_it_by_sleep(path: str, number: int) -> None:
    note(path, number)
    time.sleep(120)


@task(max_redeliveries=0)
async def neighbour(path: str, number: int, gate: str) -> int:
    return await child(path, number, gate)


async def test_a_task_that_times_out_and_stops_the_event_loop_is_ended_with_its_slot(
    one_slot: Hub, tmp_path: Path
) -> None:
    """Invariant: it fails, is retried only as its policy says, and other tasks of its slot are not blamed."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    beside = one_slot.submit(neighbour, str(path), 1, str(gate))
    await until(lambda: runs(path)[1] == 1)
    for number, function in enumerate((hold_the_event_loop, hold_the_interpreter), 2):
        with pytest.raises(CallTimeout, match="was ended with its slot"):
            await one_slot.submit(function, str(path), number)
    gate.touch()
    assert await beside == 1
    assert await one_slot.submit(plain, 4) == 4
    ran = runs(path)
    assert (ran[2], ran[3]) == (1, 2)
    assert {letter.reason for letter in await until(lambda: letters(one_slot, 2))} == {"exception"}


async def test_a_cancelled_task_that_holds_the_interpreter_is_ended_with_its_slot(
    one_slot: Hub, tmp_path: Path
) -> None:
    """Invariant: it does not run again, and all later tasks are done."""
    path = tmp_path / "ran"
    holding = one_slot.submit(hold_it_without_a_limit, str(path), 1)
    await until(lambda: runs(path)[1] == 1)
    [(_, pid)] = noted(path)
    behind = [one_slot.submit(plain, number) for number in range(20)]
    assert holding.cancel()
    await until(lambda: not exists(pid))
    assert await one_slot.get(behind) == list(range(20))
    assert runs(path) == {1: 1}
    assert await one_slot.dead() == []


# ---- slots that are replaced


@task
def wait_twice(path: str, number: int, gate: str) -> int:
    hub = blocking.Hub.current()
    return hub.get(hub.submit(plain, wait_for(path, number, gate)))


async def test_a_slot_that_is_recycled_under_a_blocked_task_is_replaced_first(
    settings: Settings, tmp_path: Path
) -> None:
    """Invariant: another slot runs the task for which it waits, though there was only one slot."""
    path, gate = tmp_path / "ran", tmp_path / "gate"
    recycling = settings.model_copy(update={"recycle_tasks": 5})
    async with Hub.local(workers=1, slots=1, modules=[__name__], settings=recycling) as hub:
        waiting = hub.submit(wait_twice, str(path), 1, str(gate))
        await until(lambda: runs(path)[-1] == 1)
        assert await hub.get([hub.submit(plain, number) for number in range(5)]) == list(range(5))
        await until(lambda: slots_of(hub, "node-1", 2))
        gate.touch()
        assert await waiting == -1
    assert runs(path)[1] == 1


async def test_recycled_slots_lose_no_task_and_end_what_they_have_started(settings: Settings, tmp_path: Path) -> None:
    """Invariant: after `recycle_tasks` tasks another process takes a slot's place, and each task runs once, however long."""
    path = tmp_path / "ran"
    recycling = settings.model_copy(update={"recycle_tasks": 100, "drain_timeout": 0.5})
    async with Hub.local(workers=1, slots=2, modules=[__name__], settings=recycling) as hub:
        slots = await until(lambda: slots_of(hub, "node-1", 2))
        futures = [hub.submit(work, str(path), number, 0.001) for number in range(400)]
        futures += [hub.submit(work, str(path), number, 2.5) for number in range(400, 402)]
        futures += [hub.submit(work, str(path), number, 0.001) for number in range(402, 1000)]
        assert await hub.get(futures) == list(range(1000))
        await until(lambda: not any(exists(pid) for pid in slots))
        assert await hub.submit(plain, 1) == 1
    assert runs(path) == dict.fromkeys(range(1000), 1)
    assert len({pid for _, pid in noted(path)}) > 2
