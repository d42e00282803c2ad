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

from actorhub_embedded.errors import Code, ConnectionFault
from actorhub_embedded.frames import INCOMPLETE, PROTOCOL, Method, Oversized, Publish, Reader, Received, marshal
from actorhub_embedded.state import Block, Broker, Close, Send

log = logging.getLogger(__name__)

PRODUCT, VERSION = "ActorHub embedded broker", "4.0.0"  # the RabbitMQ whose ways it follows
CHANNEL_MAX, FRAME_MAX, HEARTBEAT = 2047, 131_072, 60
TICK = 0.05  # seconds between looks at what time alone changes
PATIENCE = 10.0  # seconds for a handshake, and for the answer to a close
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
    """Listens on loopback. One user, and one virtual host, `/`."""

    def __init__(self, user: str, password: str, *, memory_limit: int) -> None:
        self.user = user
        self.password = password
        self.core = Broker(memory_limit=memory_limit)
        self.clients: dict[int, Client] = {}
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._epoch = time.time() - time.monotonic()

    @property
    def now(self) -> float:
        """Unix time that never goes back."""
        return self._epoch + time.monotonic()

    async def start(self) -> int:
        """Returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Client(self, next(self._numbers)), "127.0.0.1", 0)
        self._tick()
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            self._server.close()
        for client in list(self.clients.values()):
            client.abort()

    async def close_connections(self, reason: str) -> None:
        for client in list(self.clients.values()):
            client.fail(ConnectionFault(Code.CONNECTION_FORCED, reason), None)
        self.flush()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        self.core.tick(self.now)
        self.flush()

    def flush(self) -> None:
        """Carry out what follows of what came in."""
        wrote: dict[Client, None] = {}
        for effect in self.core.flush(self.now):
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
    """One connection."""

    def __init__(self, server: Server, number: int) -> None:
        self.number = number
        self.frame_max = FRAME_MAX
        self.out: list[bytes] = []
        self._server = server
        self._reader = Reader(FRAME_MAX)
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._expected: type[Frame] | None = None  # the handshake's next method; None before and after it
        self._began = False
        self._closing = False
        self._blocked = False
        self._capabilities: dict[str, Any] = {}
        self._heartbeat = 0
        self._heard = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    # ---- the stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.clients[self.number] = self
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._server.clients.pop(self.number, None)
        self._server.core.disconnect(self.number, self._server.now)
        self._server.flush()

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        if not self._began:
            data = self._begin(data)
        try:
            for received in self._reader.feed(data) if data else ():
                if self._transport is not None:
                    self._receive(received)
        except ConnectionFault as fault:
            self.fail(fault, None)
        except Exception:
            log.exception("a defect of the embedded broker; connection %d is closed", self.number)
            self.abort()
        self._server.flush()

    def pause_writing(self) -> None:
        self._server.core.pause(self.number, True)

    def resume_writing(self) -> None:
        self._server.core.pause(self.number, False)
        self._server.flush()

    def write(self) -> None:
        out, self.out = self.out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, data: bytes) -> bytes:
        """The protocol header; returns what is behind it."""
        self._head += data
        if len(self._head) < len(PROTOCOL) and PROTOCOL.startswith(self._head):
            return b""
        self._began = True
        if not self._head.startswith(PROTOCOL):
            if self._transport is not None:
                self._transport.write(PROTOCOL)
                self._transport.close()
            return b""
        properties: dict[str, Any] = {"product": PRODUCT, "version": VERSION, "capabilities": CAPABILITIES}
        self._say(Connection.Start(0, 9, properties, "PLAIN", "en_US"))
        self._expected = Connection.StartOk
        return self._head[len(PROTOCOL) :]

    # ---- frames

    def _receive(self, received: Received) -> None:
        core, now = self._server.core, self._server.now
        if received is None:  # a heartbeat
            return
        if isinstance(received, Method) and (received.channel == 0 or received.method.name.startswith("Connection.")):
            self._control(received.method)
            return
        if self._closing:
            return
        if self._expected is not None:
            raise ConnectionFault(Code.COMMAND_INVALID, "the connection is not open")
        if received.channel > CHANNEL_MAX:
            text = f"channel {received.channel}; the largest number is {CHANNEL_MAX}"
            raise ConnectionFault(Code.CHANNEL_ERROR, text)
        match received:
            case Publish():
                core.publish(self.number, received.channel, received.method, received.header, received.body, now)
            case Method():
                core.receive(self.number, received.channel, received.method, now)
            case Oversized():
                core.refuse(self.number, received.channel, received.method, received.error, now)

    def _control(self, method: Frame) -> None:
        """The connection's own methods."""
        if isinstance(method, Connection.CloseOk):
            self._end()
        elif isinstance(method, Connection.Close):
            self._server.core.disconnect(self.number, self._server.now)
            self._say(Connection.CloseOk())
            self._end()
        elif self._closing:
            return
        elif self._expected is None or not isinstance(method, self._expected):
            raise ConnectionFault(Code.COMMAND_INVALID, f"{method.name} came where it was not expected")
        elif isinstance(method, Connection.StartOk):
            self._authenticate(method)
        elif isinstance(method, Connection.TuneOk):
            self._tune(method)
        elif isinstance(method, Connection.Open):
            self._open(method)

    def _authenticate(self, method: Connection.StartOk) -> None:
        capabilities = (method.client_properties or {}).get("capabilities")
        self._capabilities = capabilities if isinstance(capabilities, dict) else {}
        given = method.response.split("\0")
        wanted = ["", self._server.user, self._server.password]
        same = len(given) == len(wanted) and all(
            hmac.compare_digest(one.encode(), other.encode()) for one, other in zip(given, wanted, strict=True)
        )
        if method.mechanism != "PLAIN" or not same:
            if not self._capabilities.get("authentication_failure_close"):
                self.abort()
                return
            text = f"Login was refused using authentication mechanism {method.mechanism}"
            raise ConnectionFault(Code.ACCESS_REFUSED, text)
        self._say(Connection.Tune(CHANNEL_MAX, FRAME_MAX, HEARTBEAT))
        self._expected = Connection.TuneOk

    def _tune(self, method: Connection.TuneOk) -> None:
        self.frame_max = min(FRAME_MAX, method.frame_max or FRAME_MAX)
        if self.frame_max < 4096:
            raise ConnectionFault(Code.NOT_ALLOWED, f"negotiated frame_max = {self.frame_max} is lower than 4096")
        self._reader.frame_max = self.frame_max
        self._heartbeat = method.heartbeat
        self._expected = Connection.Open

    def _open(self, method: Connection.Open) -> None:
        if method.virtual_host != "/":
            raise ConnectionFault(
                Code.NOT_ALLOWED, f"vhost {method.virtual_host} not found; the embedded broker has '/' only"
            )
        self._expected = None
        self._reader.room = INCOMPLETE
        self._server.core.connect(self.number)
        self._say(Connection.OpenOk())
        if self._timer is not None:
            self._timer.cancel()
        if self._heartbeat:
            self._beat()

    def _beat(self) -> None:
        """Send a heartbeat, and close a connection that was silent for two. One that is blocked cannot be heard."""
        if not self._blocked and time.monotonic() - self._heard > 2 * self._heartbeat:
            log.warning("connection %d was silent for %d s and is closed", self.number, 2 * self._heartbeat)
            self.abort()
            return
        if self._transport is not None:
            self._transport.write(frame.marshal(Heartbeat(), 0))
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat / 2, self._beat)

    # ---- effects

    def block(self, reason: str | None) -> None:
        """Nothing more is read from a blocked connection."""
        if self._transport is None:
            return
        if self._capabilities.get("connection.blocked"):
            self._say(Connection.Blocked(reason[:255]) if reason is not None else Connection.Unblocked())
        self._blocked = reason is not None
        self._heard = time.monotonic()
        if self._blocked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def fail(self, fault: ConnectionFault, method: Frame | None) -> None:
        if self._closing:
            return
        log.warning("connection %d is closed: %s", self.number, fault.text)
        self._closing = True
        self._expected = None
        self._server.core.disconnect(self.number, self._server.now)
        class_id, method_id = (method.frame_id, method.index & 0xFFFF) if method is not None else (0, 0)
        self._say(Connection.Close(fault.code, fault.text, class_id, method_id))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self.abort)

    def _say(self, method: Frame) -> None:
        self.out.append(frame.marshal(method, 0))
        self.write()

    def _end(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()
