"""Failures of the RabbitMQ adapter: closed connections, alarms, missing servers, more consumers than channels."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import pytest

from actorhub.broker import Link, Message, Outcome, Queue, QueueKind, open_broker
from actorhub.errors import BrokerUnavailable
from actorhub.testing import Probe
from actorhub_rabbitmq import PrivateNode, link, publisher
from actorhub_rabbitmq.capabilities import Capabilities
from tests.waiting import SETTLED, until


class Owner:
    """The owner of a link; records what its callbacks were called with."""

    def __init__(self) -> None:
        self.lost: list[BaseException] = []
        self.blocked: list[str | None] = []

    @asynccontextmanager
    async def linked(self, url: str) -> AsyncIterator[Link]:
        found = await open_broker(url).connect(name="test", on_lost=self.lost.append, on_blocked=self.blocked.append)
        try:
            yield found
        finally:
            await found.close()


@asynccontextmanager
async def _broker_that_takes_one(
    url: str, *, rest: Literal["cut off", "left waiting"]
) -> AsyncIterator[tuple[str, set[int]]]:
    """A URL whose first connection leads to the broker and whose others do not, and the numbers of the open connections."""
    parts = urlsplit(url)
    open_numbers: set[int] = set()
    numbers = itertools.count(1)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        open_numbers.add(number)
        if number == 1:
            inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))
        else:
            if rest == "left waiting":
                await reader.read(-1)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        open_numbers.discard(number)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}")), open_numbers


async def test_a_link_that_fails_to_open_leaves_no_connection(broker_url: str) -> None:
    """Invariant: if one of its two connections fails, the other one is closed."""
    async with _broker_that_takes_one(broker_url, rest="cut off") as (url, open_numbers):
        with pytest.raises(BrokerUnavailable):
            await open_broker(url).connect(name="half", on_lost=lambda error: None, on_blocked=lambda reason: None)
        await until(lambda: not open_numbers, within=5.0)


async def test_a_link_that_is_cancelled_while_it_opens_leaves_no_connection(broker_url: str) -> None:
    """Invariant: a cancelled attempt closes what it has opened."""
    async with _broker_that_takes_one(broker_url, rest="left waiting") as (url, open_numbers):
        connecting = asyncio.create_task(
            open_broker(url).connect(name="cancelled", on_lost=lambda error: None, on_blocked=lambda reason: None)
        )
        await until(lambda: len(open_numbers) == 2)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await until(lambda: not open_numbers, within=5.0)


async def test_connections_closed_by_the_broker_end_the_link_once(own_rabbitmq: PrivateNode) -> None:
    """Invariant: each publish has one outcome, in order; each consumer ends once; then `on_lost` is called once."""
    owner, outcomes, probe = Owner(), list[Outcome](), Probe()
    async with owner.linked(own_rabbitmq.url) as found:
        await found.declare(Queue("closing"))
        await probe.consume(found, "closing")
        closing = asyncio.create_task(asyncio.to_thread(own_rabbitmq.close_connections, "a test"))
        published = 0
        while not owner.lost:
            for _ in range(50):
                found.publish("closing", Message(b"x" * 1000), outcomes.append)
                published += 1
            await asyncio.sleep(0)
        await closing
        await until(lambda: len(outcomes) == published)
        stored = outcomes.count(Outcome.STORED)
        assert outcomes == [Outcome.STORED] * stored + [Outcome.LOST] * (published - stored)
        assert stored > 0
        assert len(owner.lost) == 1
        assert isinstance(owner.lost[0], BrokerUnavailable)
        assert "a test" in str(owner.lost[0])
        assert len(probe.ended) == 1
        with pytest.raises(BrokerUnavailable):
            await found.declare(Queue("later"))
        with pytest.raises(BrokerUnavailable):
            await Probe().consume(found, "closing")
    async with Owner().linked(own_rabbitmq.url) as again:
        state = await again.state("closing")
        assert state is not None
        assert state.messages >= stored, "confirmed messages are stored"


async def test_a_killed_broker_loses_the_link_but_no_confirmed_message(
    own_rabbitmq: PrivateNode,
) -> None:
    owner, outcomes = Owner(), list[Outcome]()
    async with owner.linked(own_rabbitmq.url) as found:
        await found.declare(Queue("durable"))
        await asyncio.sleep(SETTLED)
        for number in range(500):
            found.publish("durable", Message(b"%d" % number), outcomes.append)
        await until(lambda: len(outcomes) >= 100)
        await asyncio.to_thread(own_rabbitmq.kill)
        await until(lambda: owner.lost and len(outcomes) == 500)
    await asyncio.to_thread(own_rabbitmq.restart)
    async with Owner().linked(own_rabbitmq.url) as again:
        state = await again.state("durable")
        assert state is not None
        assert state.messages >= outcomes.count(Outcome.STORED)


async def test_an_alarm_blocks_publishing_but_not_consuming(own_rabbitmq: PrivateNode) -> None:
    owner, outcomes, probe = Owner(), list[Outcome](), Probe()
    async with owner.linked(own_rabbitmq.url) as found:
        await found.declare(Queue("alarm"))
        found.publish("alarm", Message(b"before"), outcomes.append)
        await until(lambda: outcomes == [Outcome.STORED])
        await asyncio.to_thread(own_rabbitmq.set_memory_alarm, True)
        try:
            found.publish("alarm", Message(b"meanwhile"), outcomes.append)
            await until(lambda: owner.blocked)
            assert "memory" in (owner.blocked[0] or "")
            await probe.consume(found, "alarm")
            (await probe.get(1))[0].ack()
            assert await found.state("alarm") is not None
            assert outcomes == [Outcome.STORED], "a blocked publish waits"
        finally:
            await asyncio.to_thread(own_rabbitmq.set_memory_alarm, False)
        await until(lambda: outcomes == [Outcome.STORED] * 2)
        assert owner.blocked[-1] is None
        await probe.get(2)
        assert probe.bodies == [b"before", b"meanwhile"]
        assert not owner.lost


async def test_a_publish_that_stays_unconfirmed_is_logged_with_its_queue(
    own_rabbitmq: PrivateNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_WARNING_SECONDS", 0.2)
    owner, outcomes = Owner(), list[Outcome]()
    async with owner.linked(own_rabbitmq.url) as found:
        await found.declare(Queue("silent"))
        found.publish("silent", Message(b"1"), outcomes.append)
        assert await until(lambda: outcomes)
        await asyncio.sleep(0.5)
        assert not caplog.records
        os.kill(own_rabbitmq.pid, signal.SIGSTOP)
        try:
            found.publish("silent", Message(b"2"), outcomes.append)
            assert await until(lambda: "has not confirmed a message to silent" in caplog.text)
        finally:
            os.kill(own_rabbitmq.pid, signal.SIGCONT)
        assert await until(lambda: outcomes == [Outcome.STORED] * 2)


async def test_an_exchange_of_another_type_fails_its_broadcasts_and_nothing_else(broker_url: str, prefix: str) -> None:
    owner, outcomes = Owner(), list[Outcome]()
    async with owner.linked(broker_url) as found:
        await found.declare(Queue(prefix))
        found.broadcast("amq.direct", Message(b"1"), outcomes.append)
        await until(lambda: outcomes == [Outcome.UNROUTABLE])
        with pytest.raises(ValueError, match=r"amq\.direct"):
            await found.subscribe(prefix, "amq.direct")
        found.publish(prefix, Message(b"2"), outcomes.append)
        await until(lambda: outcomes[1:] == [Outcome.STORED])
        await found.delete(prefix)
    assert not owner.lost


async def test_more_consumers_than_channels_open_further_connections(
    broker_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CHANNELS_PER_CONNECTION", 20)
    async with Owner().linked(broker_url) as found:
        probes = []
        for number in range(50):
            name = f"{prefix}.{number}"
            await found.declare(Queue(name, expires=60))
            probes.append(await Probe().consume(found, name))
        settled: list[Outcome] = []
        for number in range(50):
            found.publish(f"{prefix}.{number}", Message(b"%d" % number), settled.append)
        for number, probe in enumerate(probes):
            assert (await probe.get(1))[0].message.body == b"%d" % number
        assert len(found._consuming) >= 3  # type: ignore[attr-defined]
        for probe in probes:
            await probe.close()
        for number in range(50):
            await found.delete(f"{prefix}.{number}")


async def test_the_error_for_a_missing_server_has_the_address_and_not_the_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}") as refused:
        await open_broker(f"amqp://user:hunter2@127.0.0.1:{port}/").connect(
            name="test", on_lost=lambda error: None, on_blocked=lambda reason: None
        )
    assert refused.value.permanent is False
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 4096])
async def test_a_server_of_another_protocol_is_an_error_and_no_hang(words: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(words)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(BrokerUnavailable):
            await open_broker(f"amqp://u:p@127.0.0.1:{port}/").connect(
                name="test", on_lost=lambda error: None, on_blocked=lambda reason: None
            )


@pytest.mark.parametrize(("wrong", "hint"), [("password", "password"), ("vhost", "nowhere")])
async def test_wrong_credentials_and_virtual_hosts_are_permanent_errors(broker_url: str, wrong: str, hint: str) -> None:
    user, _, rest = broker_url.removeprefix("amqp://").partition(":")
    password, _, address = rest.partition("@")
    url = f"amqp://{user}:not-it@{address}" if wrong == "password" else f"amqp://{user}:{password}@{address}nowhere"
    with pytest.raises(BrokerUnavailable, match=hint) as refused:
        await open_broker(url).connect(name="test", on_lost=lambda error: None, on_blocked=lambda reason: None)
    assert refused.value.permanent is True
    assert password not in str(refused.value)


def test_queue_arguments_depend_on_the_server_s_version() -> None:
    old, middle, new = (Capabilities.of(version) for version in ("3.10.8", "3.13.7", "4.0.2"))
    unlimited = Queue("q", kind=QueueKind.QUORUM)
    assert "x-delivery-limit" not in old.arguments(unlimited)
    assert new.arguments(unlimited)["x-delivery-limit"] == -1, "4.x would drop after 20"
    assert "x-consumer-timeout" not in old.arguments(Queue("q"))
    assert middle.arguments(Queue("q"))["x-consumer-timeout"] == 24 * 3600 * 1000
    assert (old.max_message, new.max_message) == (128 * 1024**2, 16 * 1024**2)
    assert Capabilities.of("unreadable") == Capabilities((3, 10))
    limited = old.arguments(Queue("q", limit=5))
    assert (limited["x-max-length"], limited["x-overflow"]) == (5, "reject-publish")
    classic, quorum = (
        old.arguments(Queue("q", kind=kind, dead_letter_to="d")) for kind in (QueueKind.CLASSIC, QueueKind.QUORUM)
    )
    assert "x-dead-letter-strategy" not in classic
    assert (quorum["x-dead-letter-strategy"], quorum["x-overflow"]) == ("at-least-once", "reject-publish")
    assert (old.priorities, middle.priorities, new.priorities) == (1, 1, 2)


def test_the_error_for_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(BrokerUnavailable, match="no installed adapter supports 'kafka' URLs; installed: amqp://"):
        open_broker("kafka://localhost")
