"""The embedded broker's server: AMQP 0-9-1 connections around the state machine, on one event loop."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import time
from typing import Any, cast

from pamqp import frame
from pamqp.base import Frame
from pamqp.commands import Connection
from pamqp.heartbeat import Heartbeat

from actorhub_embedded.channels import Send
from actorhub_embedded.errors import Code, ConnectionFault
from actorhub_embedded.frames import (
    MAX_INCOMPLETE_BYTES,
    PROTOCOL,
    Method,
    Oversized,
    Publish,
    Reader,
    Received,
    marshal,
)
from actorhub_embedded.state import Block, Broker, Close

log = logging.getLogger(__name__)

PRODUCT, VERSION = "ActorHub embedded broker", "4.0.0"  # the version of RabbitMQ that it behaves like
MAX_CHANNEL = 2047  # the largest channel number
MAX_FRAME_BYTES = 131_072
MIN_FRAME_BYTES = 4096  # the least maximum that a client may ask for
HEARTBEAT_SECONDS = 60  # proposed to clients
TICK_SECONDS = 0.05  # between checks of what has expired
HANDSHAKE_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 10.0  # for the client's reply to connection.close
CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "exchange_exchange_bindings": False,
    "direct_reply_to": False,
}


class Server:
    """A listener on loopback for one user and the virtual host `/`.

    Args:
        user: the user's name.
        password: the user's password.
        memory_limit: bytes of messages past which connections that publish are blocked.
    """

    def __init__(self, user: str, password: str, *, memory_limit: int) -> None:
        self.user = user
        self.password = password
        self.state = Broker(memory_limit=memory_limit)
        self.clients: dict[int, Client] = {}
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._epoch = time.time() - time.monotonic()

    @property
    def now(self) -> float:
        """Unix time in seconds; it never goes back."""
        return self._epoch + time.monotonic()

    async def start(self) -> int:
        """Listen on a free port, and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Client(self, next(self._numbers)), "127.0.0.1", 0)
        self._tick()
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and cut off all connections."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            self._server.close()
        for client in list(self.clients.values()):
            client.abort()

    async def close_connections(self, reason: str) -> None:
        """Close all connections with `connection.close`."""
        for client in list(self.clients.values()):
            client.fail(ConnectionFault(Code.CONNECTION_FORCED, reason), None)
        self.flush()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        self.state.tick(self.now)
        self.flush()

    def flush(self) -> None:
        """Carry out the effects of the input so far."""
        wrote: dict[Client, None] = {}
        for effect in self.state.flush(self.now):
            client = self.clients.get(effect.connection)
            if client is None:
                continue
            match effect:
                case Send():
                    client.out += marshal(effect.channel, effect.method, effect.header, effect.body, client.frame_max)
                    wrote[client] = None
                case Block():
                    client.block(effect.reason)
                case Close():
                    client.fail(effect.fault, effect.method)
        for client in wrote:
            client.write()


class Client(asyncio.Protocol):
    """A client's connection: handshake, heartbeats, and frames to and from the state machine.

    Args:
        server: the server that accepted it.
        number: its number in the state machine.
    """

    def __init__(self, server: Server, number: int) -> None:
        self.number = number
        self.frame_max = MAX_FRAME_BYTES
        self.out: list[bytes] = []
        """Bytes to be written."""
        self._server = server
        self._reader = Reader(MAX_FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._greeting = b""  # the protocol header, as far as it has come
        self._greeted = False
        self._expected: type[Frame] | None = None  # the handshake's next method; None before and after the handshake
        self._closing = False
        self._blocked = False
        self._capabilities: dict[str, Any] = {}
        self._heartbeat = 0  # seconds; 0 is none
        self._last_received = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None  # a deadline, or the next heartbeat

    # ---- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.clients[self.number] = self
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_SECONDS, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._server.clients.pop(self.number, None)
        self._server.state.disconnect(self.number, self._server.now)
        self._server.flush()

    def data_received(self, data: bytes) -> None:
        self._last_received = time.monotonic()
        if not self._greeted:
            data = self._greet(data)
        try:
            for received in self._reader.feed(data) if data else ():
                if self._transport is not None:
                    self._receive(received)
        except ConnectionFault as fault:
            self.fail(fault, None)
        except Exception:
            log.exception("a defect of the embedded broker: connection %d is cut off", self.number)
            self.abort()
        self._server.flush()

    def pause_writing(self) -> None:
        self._server.state.pause(self.number, True)

    def resume_writing(self) -> None:
        self._server.state.pause(self.number, False)
        self._server.flush()

    def write(self) -> None:
        """Write what was collected in `out`."""
        out, self.out = self.out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def abort(self) -> None:
        """Cut the connection off."""
        if self._transport is not None:
            self._transport.abort()

    def _greet(self, data: bytes) -> bytes:
        """Reply to the protocol header; returns the bytes after it."""
        self._greeting += data
        if len(self._greeting) < len(PROTOCOL) and PROTOCOL.startswith(self._greeting):
            return b""
        self._greeted = True
        if not self._greeting.startswith(PROTOCOL):
            if self._transport is not None:
                self._transport.write(PROTOCOL)
                self._transport.close()
            return b""
        properties: dict[str, Any] = {"product": PRODUCT, "version": VERSION, "capabilities": CAPABILITIES}
        self._send(Connection.Start(0, 9, properties, "PLAIN", "en_US"))
        self._expected = Connection.StartOk
        return self._greeting[len(PROTOCOL) :]

    # ---- frames

    def _receive(self, received: Received) -> None:
        state, now = self._server.state, self._server.now
        if received is None:  # a heartbeat
            return
        if isinstance(received, Method) and (received.channel == 0 or received.method.name.startswith("Connection.")):
            self._on_connection_method(received.method)
            return
        if self._closing:
            return
        if self._expected is not None:
            raise ConnectionFault(Code.COMMAND_INVALID, "the connection is not open")
        if received.channel > MAX_CHANNEL:
            text = f"channel {received.channel}; the largest number is {MAX_CHANNEL}"
            raise ConnectionFault(Code.CHANNEL_ERROR, text)
        match received:
            case Publish():
                state.publish(self.number, received.channel, received.method, received.header, received.body, now)
            case Method():
                state.receive(self.number, received.channel, received.method, now)
            case Oversized():
                state.refuse(self.number, received.channel, received.method, received.error, now)

    def _on_connection_method(self, method: Frame) -> None:
        """Handle a method of the connection itself."""
        if isinstance(method, Connection.CloseOk):
            self._end()
        elif isinstance(method, Connection.Close):
            self._server.state.disconnect(self.number, self._server.now)
            self._send(Connection.CloseOk())
            self._end()
        elif self._closing:
            return
        elif self._expected is None or not isinstance(method, self._expected):
            raise ConnectionFault(Code.COMMAND_INVALID, f"unexpected {method.name}")
        elif isinstance(method, Connection.StartOk):
            self._authenticate(method)
        elif isinstance(method, Connection.TuneOk):
            self._tune(method)
        elif isinstance(method, Connection.Open):
            self._open(method)

    def _authenticate(self, method: Connection.StartOk) -> None:
        capabilities = (method.client_properties or {}).get("capabilities")
        self._capabilities = capabilities if isinstance(capabilities, dict) else {}
        received = method.response.split("\0")
        expected = ["", self._server.user, self._server.password]
        same = len(received) == len(expected) and all(
            hmac.compare_digest(one.encode(), other.encode()) for one, other in zip(received, expected, strict=True)
        )
        if method.mechanism != "PLAIN" or not same:
            if not self._capabilities.get("authentication_failure_close"):
                self.abort()
                return
            text = f"Login was refused using authentication mechanism {method.mechanism}"
            raise ConnectionFault(Code.ACCESS_REFUSED, text)
        self._send(Connection.Tune(MAX_CHANNEL, MAX_FRAME_BYTES, HEARTBEAT_SECONDS))
        self._expected = Connection.TuneOk

    def _tune(self, method: Connection.TuneOk) -> None:
        self.frame_max = min(MAX_FRAME_BYTES, method.frame_max or MAX_FRAME_BYTES)
        if self.frame_max < MIN_FRAME_BYTES:
            raise ConnectionFault(
                Code.NOT_ALLOWED, f"negotiated frame_max = {self.frame_max} is lower than {MIN_FRAME_BYTES}"
            )
        self._reader.frame_max = self.frame_max
        self._heartbeat = method.heartbeat
        self._expected = Connection.Open

    def _open(self, method: Connection.Open) -> None:
        if method.virtual_host != "/":
            raise ConnectionFault(
                Code.NOT_ALLOWED, f"vhost {method.virtual_host} not found; the embedded broker has '/' only"
            )
        self._expected = None
        self._reader.max_incomplete = MAX_INCOMPLETE_BYTES
        self._server.state.connect(self.number)
        self._send(Connection.OpenOk())
        if self._timer is not None:
            self._timer.cancel()
        if self._heartbeat:
            self._beat()

    def _beat(self) -> None:
        """Send a heartbeat, and cut off a client that sent nothing for two of them. A blocked one is not read, so it stays."""
        if not self._blocked and time.monotonic() - self._last_received > 2 * self._heartbeat:
            log.warning("connection %d sent nothing for %d s and is cut off", self.number, 2 * self._heartbeat)
            self.abort()
            return
        if self._transport is not None:
            self._transport.write(frame.marshal(Heartbeat(), 0))
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat / 2, self._beat)

    # ---- effects

    def block(self, reason: str | None) -> None:
        """Stop reading from the client and tell it why; `reason` None reads on."""
        if self._transport is None:
            return
        if self._capabilities.get("connection.blocked"):
            self._send(Connection.Blocked(reason[:255]) if reason is not None else Connection.Unblocked())
        self._blocked = reason is not None
        self._last_received = time.monotonic()
        if self._blocked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def fail(self, fault: ConnectionFault, method: Frame | None) -> None:
        """Close the connection for an error; `method` is the one at fault, if any."""
        if self._closing:
            return
        log.warning("connection %d is closed: %s", self.number, fault.text)
        self._closing = True
        self._expected = None
        self._server.state.disconnect(self.number, self._server.now)
        class_id, method_id = (method.frame_id, method.index & 0xFFFF) if method is not None else (0, 0)
        self._send(Connection.Close(fault.code, fault.text, class_id, method_id))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, self.abort)

    def _send(self, method: Frame) -> None:
        self.out.append(frame.marshal(method, 0))
        self.write()

    def _end(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()
