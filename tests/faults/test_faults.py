"""Faults on real processes and a real RabbitMQ. Each test states its invariant, and checks it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from actorhub import (
    ActorDied,
    BrokerUnavailable,
    CallTimeout,
    Hub,
    Settings,
    TooManyPending,
    actor,
    ask,
    deadline,
    tell,
)
from actorhub.actors.handle import address_of
from actorhub.broker import Link, LocalServer, Message, Outcome, publish_confirmed
from actorhub.core.addressing import new_id
from actorhub.errors import UntrustedPayload
from actorhub.messaging import outbox_registry
from actorhub.wire.envelope import Codec, Envelope, encode
from actorhub.wire.signer import Signer
from actorhub_embedded import EmbeddedServer
from actorhub_rabbitmq import PrivateNode
from tests.chaos.broker import Private
from tests.conftest import QUICK
from tests.waiting import SETTLED, until


@actor(max_restarts=20)
class Ledger:
    """Writes each number that it handles into a file, with its own birth: the truth outside the cluster."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.birth = f"{os.getpid()}-{id(self)}-{time.time_ns()}"

    async def write(self, number: int) -> int:
        with self.path.open("a") as file:
            file.write(f"{self.birth} {number}\n")
        return number

    async def pid(self) -> int:
        return os.getpid()


def _read(path: Path) -> dict[str, list[int]]:
    """For each instance of the ledger, the numbers that it handled, in order."""
    lives: dict[str, list[int]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        birth, number = line.split()
        lives.setdefault(birth, []).append(int(number))
    return lives


def _assert_in_order_and_once_each(lives: dict[str, list[int]]) -> None:
    for numbers in lives.values():
        assert numbers == sorted(set(numbers)), "a live instance handles each once, in order"


async def test_a_killed_worker_loses_nothing_and_no_instance_handles_anything_twice(hub: Hub, tmp_path: Path) -> None:
    """Invariant: every ask is answered once; every number is handled; per instance in order and once."""
    path = tmp_path / "ledger"
    ledger = await hub.spawn(Ledger, str(path))
    answers: list[int] = []

    async def ask_all() -> None:
        for start in range(0, 3000, 100):
            answers.extend(await asyncio.gather(*(ledger.write(number) for number in range(start, start + 100))))

    asking = asyncio.create_task(ask_all())
    for rounds in (1, 2, 3):
        await until(lambda at=rounds * 600: len(answers) >= at)  # type: ignore[misc]
        os.kill(await ledger.pid(), signal.SIGKILL)
    await asking
    assert answers == list(range(3000))
    lives = _read(path)
    _assert_in_order_and_once_each(lives)
    assert len(lives) == 4
    assert set().union(*lives.values()) == set(range(3000))
    [info] = await hub.actors()
    assert info.restarts == 3
    assert "SIGKILL" in (info.last_error or "")


async def test_tells_accepted_before_their_worker_dies_are_all_handled(hub: Hub, tmp_path: Path) -> None:
    """Invariant: a tell that returned is handled, whenever its worker is killed."""
    path = tmp_path / "ledger"
    ledger = await hub.spawn(Ledger, str(path))
    pid = await ledger.pid()
    tells = [asyncio.create_task(tell(ledger.write, number)) for number in range(5000)]
    await until(lambda: len(_read(path)) > 0)
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*tells)
    assert await ledger.write(5000) == 5000
    lives = _read(path)
    _assert_in_order_and_once_each(lives)
    assert set().union(*lives.values()) == set(range(5001))


@actor
class Killer:
    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def ping(self) -> str:
        return "pong"


async def test_a_message_that_kills_its_worker_again_and_again_is_withheld_and_kept(hub: Hub) -> None:
    """Invariant: it kills max_redeliveries + 1 workers; then it is dead, and the actor goes on."""
    killer = await hub.options(max_restarts=10).spawn(Killer)
    with pytest.raises(ActorDied, match="killed its worker too often"):
        await killer.die()
    assert await killer.ping() == "pong"
    [info] = await hub.actors()
    assert info.restarts == 4
    [letter] = await until(hub.dead)
    assert (letter.reason, letter.method) == ("poison", "die")


async def test_an_actor_that_dies_too_often_is_dead_and_says_why(hub: Hub) -> None:
    killer = await hub.options(max_restarts=1).spawn(Killer)
    with pytest.raises(ActorDied, match=r"SIGKILL.*while it ran die.*restarted 1 times"):
        await killer.die()


@actor(isolation="process")
class Isolated:
    async def pid(self) -> int:
        return os.getpid()


async def test_an_isolated_actor_has_a_worker_of_its_own_that_ends_with_it(hub: Hub) -> None:
    first, second = await hub.spawn(Isolated), await hub.spawn(Isolated)
    pids = {await first.pid(), await second.pid()}
    shared = {worker.pid for node in await hub.nodes() for worker in node.workers if worker.kind == "shared"}
    assert len(pids) == 2
    assert not pids & shared
    victim = await first.pid()
    os.kill(victim, signal.SIGKILL)
    assert await first.pid() not in {victim, *shared}
    await hub.kill(first)
    await hub.kill(second)
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@actor
class Sleeper:
    def __init__(self, path: str) -> None:
        self.path = Path(path)

    async def sleep(self) -> None:
        await asyncio.to_thread(self.path.touch)
        await asyncio.sleep(60)


async def test_whoever_waits_for_an_actor_whose_queue_vanishes_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: a call that the broker has confirmed and that is gone with its queue fails, and does not wait for ever."""
    monkeypatch.setattr(outbox_registry, "QUEUE_CHECK_SECONDS", 0.2)
    async with Hub(settings=hub.settings) as own:
        sleeper = await own.spawn(Sleeper, str(tmp_path / "begun"))
        call = sleeper.sleep()
        await until((tmp_path / "begun").exists)
        link = own._open_session().link
        assert link is not None
        await link.delete(address_of(sleeper).queue)
        with pytest.raises(ActorDied, match=r"the queue of .*Sleeper was deleted"):
            await call


# ---- bad messages


async def _publish(hub: Hub, queue: str, body: bytes, content_type: str | None = "application/json") -> Outcome:
    link = hub._open_session().link
    assert link is not None
    return await publish_confirmed(link, queue, Message(body, content_type))


async def test_malformed_and_foreign_messages_are_kept_as_dead_and_the_actor_goes_on(hub: Hub, tmp_path: Path) -> None:
    ledger = await hub.spawn(Ledger, str(tmp_path / "ledger"))
    queue = address_of(ledger).queue
    bodies = [b"", b"\x00\xffnot json", b"[1, 2]", json.dumps({"task": "celery"}).encode()]
    for body in bodies:
        assert await _publish(hub, queue, body) is Outcome.STORED
    assert await _publish(hub, queue, b"\x00\x00", "application/x-actorhub-batch") is Outcome.STORED
    assert await ledger.write(1) == 1
    letters = await until(lambda: _when(hub, 5))
    assert {letter.reason for letter in letters} == {"malformed"}
    assert [letter.body for letter in letters][:4] == bodies
    assert len(await hub.dead()) == 5, "reading them removes none"


async def _when(hub: Hub, count: int) -> list[object]:
    letters = await hub.dead()
    return list(letters) if len(letters) == count else []


async def test_a_tampered_or_unsigned_pickle_is_refused_and_never_loaded(hub: Hub, tmp_path: Path) -> None:
    ledger = await hub.options(name="ledger").spawn(Ledger, str(tmp_path / "ledger"))
    proof = tmp_path / "proof"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.system, (f"touch {proof}",)

    queue = address_of(ledger).queue
    signed = Signer("another secret").dumps({"number": Bomb()}, "a bomb")
    envelope = Envelope(id="x", kind="tell", method="write", codec=Codec.PICKLE)  # type: ignore[arg-type]
    body, content_type = encode([(envelope, signed)])
    await _publish(hub, queue, body, content_type)
    assert await ledger.write(1) == 1
    [letter] = await until(hub.dead)
    assert UntrustedPayload.__name__ in letter.error
    assert not proof.exists()


# ---- the loop


@actor
class Blocker:
    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251


async def test_a_blocked_event_loop_is_reported_with_the_method_s_name(
    broker_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Hub.local(workers=1, modules=[__name__], url=broker_url) as hub:
        blocker = await hub.spawn(Blocker)
        await blocker.block(1.8)
    assert re.search(r"event loop has been blocked for 1.\d s by: block; make the method `def`", capfd.readouterr().err)


# ---- the broker


async def test_a_broker_that_is_not_there_is_reported_with_the_url_and_without_the_password() -> None:
    settings = Settings(url="amqp://me:hidden@127.0.0.1:1/", connect_timeout=0.3)
    with pytest.raises(BrokerUnavailable, match=r"me:\*\*\*@127.0.0.1:1") as caught:
        await Hub(settings=settings).open()
    assert "hidden" not in str(caught.value)


async def test_a_wrong_password_and_a_wrong_vhost_fail_at_once(broker: LocalServer) -> None:
    password = broker.url.split(":")[2].split("@")[0]
    for url, words in [
        (broker.url.replace(password, "wrong"), "user or the password"),
        (broker.url + "nowhere", "vhost|virtual host"),
    ]:
        with pytest.raises(BrokerUnavailable, match=words) as caught:
            await Hub(settings=Settings(url=url, connect_timeout=30)).open()
        assert caught.value.permanent


async def _load(ledger: Ledger, total: int, answers: list[int], told: list[int]) -> None:
    """Asks (even numbers) and tells (odd ones), a hundred at a time."""

    async def say(number: int) -> None:
        await tell(ledger.write, number)
        told.append(number)

    for start in range(0, total, 100):
        tasks = [
            ask(ledger.write, n) if n % 2 == 0 else asyncio.ensure_future(say(n)) for n in range(start, start + 100)
        ]
        answers.extend(answer for answer in await asyncio.gather(*tasks) if answer is not None)


async def test_connections_closed_by_the_broker_under_load_lose_nothing(
    hub: Hub, tmp_path: Path, broker: PrivateNode | EmbeddedServer
) -> None:
    """Invariant: every ask is answered once, every tell handled; one instance handles all, each once."""
    path = tmp_path / "ledger"
    ledger = await hub.spawn(Ledger, str(path))
    answers: list[int] = []
    told: list[int] = []
    load = asyncio.create_task(_load(ledger, 4000, answers, told))
    for rounds in (1, 2, 3):
        await until(lambda at=rounds * 400: len(answers) >= at or load.done())  # type: ignore[misc]
        await asyncio.to_thread(broker.close_connections, "a test")
    await load
    assert answers == list(range(0, 4000, 2))
    await ledger.write(4000)
    [numbers] = _read(path).values()
    assert sorted(numbers) == list(range(4001))
    assert len(set(numbers)) == len(numbers)
    assert [n for n in numbers if n % 2 == 0] == list(range(0, 4001, 2))


async def test_a_broker_killed_and_restarted_under_load_loses_nothing(
    own_rabbitmq: PrivateNode, tmp_path: Path
) -> None:
    """Invariant: no accepted tell is lost, no ask answered twice or never, order kept, nothing handled twice."""
    settings = Settings(url=own_rabbitmq.url, secret="s", **QUICK)  # type: ignore[arg-type]
    path = tmp_path / "ledger"
    retries: list[int] = []
    async with (
        Hub.local(workers=2, modules=[__name__], settings=settings) as cluster,
        Hub(settings=cluster.settings, on_retry=lambda number, error: retries.append(number)) as hub,
    ):
        ledger = await hub.spawn(Ledger, str(path))
        await asyncio.sleep(SETTLED)
        answers: list[int] = []
        told: list[int] = []
        load = asyncio.create_task(_load(ledger, 3000, answers, told))
        for rounds in (1, 2):
            await until(lambda at=rounds * 500: len(answers) >= at or load.done())  # type: ignore[misc]
            await asyncio.to_thread(own_rabbitmq.kill)
            await asyncio.to_thread(own_rabbitmq.restart)
        async with asyncio.timeout(40):
            await load
        assert answers == list(range(0, 3000, 2))
        await ledger.write(3000)
        [numbers] = _read(path).values()
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) == set(range(3001))
        assert [n for n in numbers if n % 2 == 0] == list(range(0, 3001, 2))
        assert retries


@pytest.mark.timeout(180)
async def test_no_actor_dies_of_connections_that_are_lost_while_it_starts(own_rabbitmq: PrivateNode) -> None:
    """Invariant: whatever was spawned answers, and none has died at birth."""
    settings = Settings(url=own_rabbitmq.url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    broker = Private(own_rabbitmq)
    async with Hub.local(workers=2, modules=[__name__], settings=settings) as hub:
        await (await hub.spawn(Killer)).ping()
        closing = asyncio.create_task(_close_connections(broker, 2))
        killers: list[Killer] = []
        while not closing.done():
            killers += await asyncio.gather(*(hub.spawn(Killer) for _ in range(10)))
        async with asyncio.timeout(60):
            assert set(await asyncio.gather(*(killer.ping() for killer in killers))) == {"pong"}
        assert not [info for info in await hub.actors() if info.state == "dead"]


class _FailsOnce:
    """Attached to a session."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    async def attach(self, link: Link) -> None:
        self.links.append(link)
        if len(self.links) == 1:
            raise BrokerUnavailable("the broker said INTERNAL_ERROR")

    def detach(self) -> None:
        """Nothing is kept."""


async def test_what_cannot_be_set_up_on_one_connection_is_there_on_the_next(hub: Hub) -> None:
    """Invariant: who sets something up while the connection is lost goes on, and has it on the next one."""
    session, fails = hub._open_session(), _FailsOnce()
    async with asyncio.timeout(20):
        await session.attachments.add(fails)
    first, second = fails.links
    assert second is session.link is not first
    session.attachments.remove(fails)
    assert await (await hub.spawn(Killer)).ping() == "pong"


async def _close_connections(broker: Private, times: int) -> None:
    for _ in range(times):
        await asyncio.to_thread(broker.close_connections)


async def test_a_broker_that_takes_no_messages_is_named_when_the_deadline_passes(own_rabbitmq: PrivateNode) -> None:
    """Invariant: what waits for the alarm to pass is told why; what has no deadline waits and is handled."""
    settings = Settings(url=own_rabbitmq.url, secret="s", prefix="alarm", **QUICK)  # type: ignore[arg-type]
    async with Hub.local(workers=1, modules=[__name__], settings=settings) as hub:
        blocker = await hub.spawn(Blocker)
        await blocker.block(0.0)
        await asyncio.to_thread(own_rabbitmq.set_memory_alarm, True)
        try:
            patient = ask(blocker.block, 0.0)
            taken = r"Blocker\.block did not reply.*the broker takes no messages: .*memory"
            with pytest.raises(CallTimeout, match=taken), deadline(1.0):
                await blocker.block(0.0)
            assert not patient.done()
        finally:
            await asyncio.to_thread(own_rabbitmq.set_memory_alarm, False)
        async with asyncio.timeout(20):
            await patient


async def test_more_calls_than_a_hub_may_wait_for_are_refused_and_none_is_lost(hub: Hub) -> None:
    """Invariant: what was not refused is answered, and room comes back."""
    settings = hub.settings.model_copy(update={"max_pending": 10})
    async with Hub(settings=settings) as small:
        found = await small.spawn(Blocker)
        calls = [ask(found.block, 0.0) for _ in range(10)]
        with pytest.raises(
            TooManyPending, match="10 calls wait for replies; await some of them first, or raise max_pending"
        ):
            ask(found.block, 0.0)
        assert await asyncio.gather(*calls) == [None] * 10
        assert await found.block(0.0) is None
