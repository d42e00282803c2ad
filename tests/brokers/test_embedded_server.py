"""Server of the embedded broker: split frames, random bytes, protocol errors of clients, heartbeats and the memory alarm."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import frame
from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Connection, Queue
from pika import exceptions

from actorhub.broker import Message, Outcome, open_broker
from actorhub.broker import Queue as PortQueue
from actorhub_embedded import EmbeddedServer
from actorhub_embedded.errors import ConnectionFault
from actorhub_embedded.frames import MAX_INCOMPLETE_BYTES, MAX_MESSAGE_BYTES, PROTOCOL, Method, Publish, Reader, marshal
from actorhub_embedded.messages import encode
from tests.waiting import until


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer()
    server.start()
    yield server
    server.stop()


def _raw(server: EmbeddedServer) -> socket.socket:
    port = int(server.url.rsplit(":", 1)[1].rstrip("/"))
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def _until_closed(raw: socket.socket) -> bytes:
    received = b""
    try:
        while data := raw.recv(65536):
            received += data
    except (ConnectionResetError, TimeoutError):
        pass
    return received


def _check_that_it_works(server: EmbeddedServer) -> None:
    """Publish and consume on another connection."""
    with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"x")
        assert next(channel.consume(queue, auto_ack=True, inactivity_timeout=10))[2] == b"x"


# ---- frames


@given(cuts=st.lists(st.integers(1, 40), max_size=60), bodies=st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_frames_split_anywhere_are_read_whole(cuts: list[int], bodies: list[bytes]) -> None:
    stream = b""
    for body in bodies:
        header = encode(Basic.Properties(message_id="m"), len(body))
        stream += b"".join(marshal(3, Basic.Publish(0, "", "q"), header, body, 128)) + frame.marshal(Basic.Ack(7), 3)
    reader, received, start = Reader(128, max_incomplete=MAX_INCOMPLETE_BYTES), [], 0
    for cut in [*cuts, len(stream)]:
        received += list(reader.feed(stream[start : start + cut]))
        start += cut
    assert [one.body for one in received if isinstance(one, Publish)] == bodies
    assert [type(one) for one in received] == [Publish, Method] * len(bodies)


@given(st.binary(max_size=300))
def test_random_bytes_are_frames_or_a_connection_fault(data: bytes) -> None:
    with contextlib.suppress(ConnectionFault):
        list(Reader(4096, max_incomplete=MAX_INCOMPLETE_BYTES).feed(data))


@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_changed_byte_gives_frames_or_a_connection_fault(where: float, byte: int) -> None:
    header = encode(Basic.Properties(headers={"a": [1, {"b": "c"}]}, expiration="5"), 3)
    data = bytearray(b"".join(marshal(1, Basic.Publish(0, "x", "y"), header, b"abc", 4096)))
    data[int(where * len(data))] = byte
    with contextlib.suppress(ConnectionFault):
        list(Reader(4096, max_incomplete=MAX_INCOMPLETE_BYTES).feed(bytes(data)))


# ---- untrusted clients


def _session(*frames: bytes, server: EmbeddedServer) -> bytes:
    """Send the handshake and these bytes; returns all that the server sent."""
    response = f"\0actorhub\0{server.url.split(':')[2].split('@')[0]}"
    with _raw(server) as raw:
        raw.sendall(PROTOCOL)
        raw.sendall(
            b"".join(
                frame.marshal(method, 0)
                for method in (
                    Connection.StartOk(
                        {"capabilities": {"authentication_failure_close": True}}, "PLAIN", response, "en_US"
                    ),
                    Connection.TuneOk(2047, 131072, 0),
                    Connection.Open("/"),
                )
            )
        )
        with contextlib.suppress(OSError):  # the server may close before all is sent
            for one in frames:
                raw.sendall(one)
            raw.shutdown(socket.SHUT_WR)
        return _until_closed(raw)


def _methods(received: bytes) -> list[Frame]:
    methods: list[Frame] = []
    while received:
        size, _, found = frame.unmarshal(received)
        received = received[size:]
        if isinstance(found, Frame):
            methods.append(found)
    return methods


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), greeted=st.booleans())
def test_random_bytes_close_at_most_their_own_connection(server: EmbeddedServer, data: bytes, greeted: bool) -> None:
    if greeted:
        _session(data, server=server)
    else:
        with _raw(server) as raw:
            with contextlib.suppress(OSError):
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
            _until_closed(raw)


METHODS = st.sampled_from(
    [
        Channel.Open(), Channel.Close(200, "", 0, 0), Channel.CloseOk(), Connection.TuneOk(1, 4096, 1), Connection.Open("/"),
        Queue.Declare(0, "fuzz"), Queue.Declare(0, "", exclusive=True), Queue.Delete(0, "fuzz"), Queue.Bind(0, "fuzz", "", "x"),
        Queue.Declare(0, "s", durable=True, arguments={"x-queue-type": "stream"}), Queue.Purge(0, "fuzz"),
        Basic.Consume(0, "fuzz"), Basic.Consume(0, "s"), Basic.Qos(0, 3, False), Basic.Ack(1), Basic.Nack(0, True, True),
        Basic.Reject(2, True), Basic.Get(0, "fuzz"), Basic.Cancel("x"), Basic.Recover(True), Basic.Publish(0, "", "fuzz"),
        Basic.Deliver("a", 1, False, "", ""), Basic.Qos(0, 3, True), Queue.DeclareOk("a", 1, 1),
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(METHODS, st.integers(0, 2)), max_size=12))
def test_methods_in_any_order_do_not_break_the_server(server: EmbeddedServer, steps: list[tuple[Frame, int]]) -> None:
    sent: list[bytes] = []
    for method, channel in steps:
        if isinstance(method, Basic.Publish):
            sent += marshal(channel, method, encode(Basic.Properties(), 2), b"hi", 4096)
        else:
            sent.append(frame.marshal(method, channel))
    _methods(_session(frame.marshal(Channel.Open(), 1), *sent, server=server))


def test_the_server_still_works_after_the_random_input(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    _check_that_it_works(server)
    assert "a defect of the embedded broker" not in caplog.text


def test_a_client_of_another_protocol_is_sent_the_amqp_header(server: EmbeddedServer) -> None:
    with _raw(server) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert _until_closed(raw) == PROTOCOL


def test_wrong_passwords_and_vhosts_are_refused(server: EmbeddedServer) -> None:
    with pytest.raises(exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(server.url.replace("actorhub:", "actorhub:x")))
    with pytest.raises(exceptions.ProbableAccessDeniedError, match=r"\(530\).*vhost nowhere not found"):
        pika.BlockingConnection(pika.URLParameters(server.url + "nowhere"))


def test_an_oversized_message_closes_its_channel_but_not_its_connection(server: EmbeddedServer) -> None:
    with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
        channel = connection.channel()

        def publish() -> None:  # the close may come while the body is still being written
            channel.basic_publish("", "q", b"x" * (MAX_MESSAGE_BYTES + 1))
            channel.queue_declare("q")

        with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
            publish()
        assert closed.value.reply_code == 406
        assert connection.channel().is_open


def test_an_oversized_frame_closes_its_connection(server: EmbeddedServer) -> None:
    *_, close = _methods(_session(struct.pack(">BHI", 3, 1, 1 << 30), server=server))
    assert isinstance(close, Connection.Close)
    assert close.reply_code == 501


def test_an_unsupported_feature_is_refused_by_name(server: EmbeddedServer) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    with pytest.raises(
        exceptions.ConnectionClosedByBroker, match="does not support exchanges of type 'headers'"
    ) as closed:
        connection.channel().exchange_declare("h", "headers")
    assert closed.value.reply_code == 540
    _check_that_it_works(server)


def test_a_silent_connection_is_cut_off_and_one_with_heartbeats_is_kept(server: EmbeddedServer) -> None:
    with _raw(server) as silent, pika.BlockingConnection(pika.URLParameters(server.url + "?heartbeat=1")) as beating:
        password = server.url.split(":")[2].split("@")[0]
        silent.sendall(PROTOCOL)
        for method in (
            Connection.StartOk({}, "PLAIN", f"\0actorhub\0{password}", "en_US"),
            Connection.TuneOk(10, 4096, 1),
            Connection.Open("/"),
        ):
            silent.sendall(frame.marshal(method, 0))
        until_then = time.monotonic() + 8
        received = b""
        silent.settimeout(0.1)
        closed = False
        while not closed and time.monotonic() < until_then:
            beating.process_data_events(0)
            try:
                data = silent.recv(65536)
                closed = not data
                received += data
            except TimeoutError:
                continue
            except ConnectionResetError:
                closed = True
        assert closed
        assert received.count(b"\x08\x00\x00\x00\x00\x00\x00\xce") >= 2, "the server sends heartbeats, too"
        assert beating.is_open


async def test_publishers_are_blocked_with_a_reason_past_the_memory_limit() -> None:
    """Invariant: no accepted message is lost, and publishing resumes as soon as there is room."""
    server = EmbeddedServer(memory_limit=1_000_000)
    server.start()
    blocked: list[str | None] = []
    outcomes: list[Outcome] = []
    taken: list[bytes] = []
    link = await open_broker(server.url).connect(name="t", on_lost=lambda error: None, on_blocked=blocked.append)
    try:
        await link.declare(PortQueue("q"))
        for number in range(1000):
            link.publish("q", Message(b"%04d" % number + b"x" * 5000), outcomes.append)
        await until(lambda: blocked)
        assert "low on memory" in (blocked[0] or "")

        def take(delivery: object) -> None:
            taken.append(delivery.message.body[:4])  # type: ignore[attr-defined]
            delivery.ack()  # type: ignore[attr-defined]

        await link.consume("q", take, lambda reason: None, prefetch=10)
        await until(lambda: len(taken) == 1000)
        assert taken == [b"%04d" % number for number in range(1000)]
        await until(lambda: len(outcomes) == 1000)
        assert set(outcomes) == {Outcome.STORED}
        await until(lambda: blocked[-1] is None)
    finally:
        await link.close()
        await asyncio.to_thread(server.stop)


async def test_a_blocked_publisher_is_not_cut_off_for_missing_heartbeats() -> None:
    server = EmbeddedServer(memory_limit=100_000)
    server.start()
    connection = pika.BlockingConnection(pika.URLParameters(server.url + "?heartbeat=1"))
    try:
        channel = connection.channel()
        channel.queue_declare("q")
        for _ in range(30):  # more than the limit; the broker does not read the last ones while it is blocked
            channel.basic_publish("", "q", b"x" * 5000)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            await asyncio.to_thread(connection.process_data_events, 0.2)
        with pika.BlockingConnection(pika.URLParameters(server.url)) as other:
            other.channel().queue_purge("q")
        assert channel.queue_declare("q", passive=True).method.message_count < 30
        connection.close()
    finally:
        await asyncio.to_thread(server.stop)


def test_the_memory_of_incomplete_messages_is_bounded(server: EmbeddedServer) -> None:
    """A client that begins many large messages and completes none loses its connection; before login, with the first one."""
    reader = Reader(131072, max_incomplete=0)
    begun = b"".join(
        b"".join(
            marshal(
                channel, Basic.Publish(0, "", "q"), encode(Basic.Properties(), MAX_MESSAGE_BYTES), b"x" * 131064, 131072
            )
        )
        for channel in range(1, 20)
    )
    with pytest.raises(ConnectionFault):
        list(reader.feed(begun))
    reader = Reader(131072, max_incomplete=MAX_INCOMPLETE_BYTES)
    list(reader.feed(begun))
    more = b"".join(struct.pack(">BHI", 3, channel, 131064) + b"x" * 131064 + b"\xce" for channel in range(1, 20))

    def send_more() -> None:
        for _ in range(100):
            list(reader.feed(more))

    with pytest.raises(ConnectionFault, match="incomplete messages take") as fault:
        send_more()
    assert fault.value.code == 506
    *_, close = _methods(_session(frame.marshal(Channel.Open(), 3000), server=server))
    assert isinstance(close, Connection.Close)
    assert "2047" in close.reply_text


def test_a_stopped_server_frees_its_port() -> None:
    server = EmbeddedServer()
    server.start()
    port = int(server.url.rsplit(":", 1)[1].rstrip("/"))
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.slow
def test_a_million_small_messages_take_at_most_600_megabytes() -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-m", "bench.held"], capture_output=True, text=True, check=True, cwd=root)
    assert float(done.stdout) < 600
