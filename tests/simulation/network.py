"""The embedded broker's state machine, and connections to it with random delays."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Queue

from actorhub_embedded.channels import Send
from actorhub_embedded.messages import Message, decode, encode
from actorhub_embedded.queues import Entry
from actorhub_embedded.state import Broker, Close
from actorhub_embedded.streams import Stream
from tests.simulation.clock import Clock
from tests.simulation.process import Process

INBOX, JOURNAL, NOWHERE = "inbox", "journal", "nowhere"
properties = lru_cache(maxsize=4096)(decode)


UNHEARD = (Channel.OpenOk, Channel.CloseOk, Confirm.SelectOk, Basic.QosOk)
"""Replies of the broker that no client waits for."""


class Broken(AssertionError):
    """A promise was broken."""


@lru_cache(maxsize=64)
def _header(content_type: str, persistent: bool, size: int) -> bytes:
    return encode(Basic.Properties(content_type=content_type, delivery_mode=2 if persistent else 1), size)


@dataclass(slots=True)
class Arrival:
    """A message for a consumer."""

    channel: int
    tag: int
    content_type: str
    body: bytes
    offset: int


class End(Protocol):
    """A client's end of a connection."""

    def arrived(self, connection: Connection, arrival: Arrival) -> None: ...
    def answered(self, connection: Connection, channel: int, method: Frame) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Server:
    """The broker.

    Args:
        published: called with each message that it stores, before any client can see it.
        acknowledged: called with each message that leaves the inbox.
        tail_chance: probability that a message goes back to the end of the inbox, not to its old place.
        hole_chance: probability that an offset of the journal is skipped, as RabbitMQ takes some for itself.
    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        published: Callable[[str, bytes, int], None],
        acknowledged: Callable[[Message], None],
        *,
        tail_chance: float,
        hole_chance: float,
    ) -> None:
        self.clock = clock
        self.chance = chance
        self._published = published
        self._hole_chance = hole_chance
        self._offsets: list[int] = []
        self._retired: set[tuple[int, int]] = set()  # channels that it has closed without telling the client
        self.connections: dict[int, Connection] = {}
        self._count = 0
        self.broker = Broker(seed=0)
        self.broker.connect(0)
        self._say(Channel.Open())
        self.declare(INBOX, {"x-queue-type": "quorum", "x-single-active-consumer": True, "x-delivery-limit": -1})
        self.declare(JOURNAL, {"x-queue-type": "stream"})
        self._watch(acknowledged)
        self._return_out_of_order(tail_chance)

    def declare(self, queue: str, arguments: dict[str, Any] | None = None) -> None:
        self._say(Queue.Declare(0, queue, durable=True, arguments=arguments or {}))

    def _say(self, method: Frame) -> None:
        self.broker.receive(0, 1, method, self.clock.now)
        self.broker.flush(self.clock.now)

    def _watch(self, acknowledged: Callable[[Message], None]) -> None:
        inbox = self.queue(INBOX)
        discard = inbox.discard

        def gone(entry: Entry) -> None:
            acknowledged(entry.message)
            discard(entry)

        inbox.discard = gone

    def _return_out_of_order(self, tail_chance: float) -> None:
        inbox = self.queue(INBOX)
        requeue = inbox.requeue

        def elsewhere(entry: Entry, *, last: bool = False) -> None:
            requeue(entry, last=last or self.chance.random() < tail_chance)

        inbox.requeue = elsewhere

    def queue(self, name: str) -> Any:
        return self.broker._vhost.queue(name, 0)

    # ---- connections

    def connect(self, process: Process, end: End, lag: int) -> Connection:
        self._count += 1
        connection = self.connections[self._count] = Connection(self, self._count, process, end, lag)
        self.broker.connect(connection.number)
        return connection

    def disconnect(self, connection: Connection | None, *, loses: bool = False) -> None:
        """End a connection, or notice that it has ended. `loses`: what the broker had sent and has not arrived is lost."""
        if connection is not None and self.connections.pop(connection.number, None) is not None:
            self.broker.disconnect(connection.number, self.clock.now)
            self._flush()
            if loses:
                connection.lose()
            connection.to_client(None)

    def retire(self, connection: Connection, channel: int) -> None:
        """Close a channel; its client hears of it only when the connection ends."""
        known = self.broker._connections.get(connection.number)
        if known is not None and channel in known.channels:
            self.broker.receive(connection.number, channel, Channel.Close(200, "", 0, 0), self.clock.now)
            self._retired.add((connection.number, channel))
            self._flush()

    def purge(self, queue: str) -> None:
        self._say(Queue.Purge(0, queue))

    def restart(self) -> None:
        """End all connections, and drop what was not persistent."""
        for connection in list(self.connections.values()):
            self.broker.disconnect(connection.number, self.clock.now)
            self._flush()
        lost, self.connections = self.connections, {}
        for connection in lost.values():
            connection.to_client(None)
        for name in list(self.broker._vhost._queues):
            if name.startswith("replies."):
                self.purge(name)

    # ---- from clients

    def receive(self, connection: Connection, channel: int, methods: Iterable[Frame]) -> None:
        if connection.number in self.connections and (connection.number, channel) not in self._retired:
            for method in methods:
                if isinstance(method, Basic.Consume) and method.queue == JOURNAL:
                    self._attach(method)
                self.broker.receive(connection.number, channel, method, self.clock.now)
            self._flush()

    def publish(self, connection: Connection, channel: int, queue: str, header: bytes, body: bytes) -> None:
        if connection.number in self.connections:
            self.store(connection, channel, queue, header, body)
            self._flush()

    def store(self, connection: Connection, channel: int, queue: str, header: bytes, body: bytes) -> None:
        offset = self._next_offset() if queue == JOURNAL else 0
        self._published(queue, body, offset)
        method = Basic.Publish(0, "", queue, False)
        self.broker.publish(connection.number, channel, method, header, body, self.clock.now)

    def _flush(self) -> None:
        for effect in self.broker.flush(self.clock.now):
            if isinstance(effect, Send):
                to = self.connections.get(effect.connection)
                if to is not None and not isinstance(effect.method, UNHEARD):
                    to.to_client(effect)
            elif isinstance(effect, Close):
                raise Broken(f"a client has broken AMQP: {effect.fault.text}")

    # ---- the journal

    def _next_offset(self) -> int:
        hole = int(bool(self._offsets) and self.chance.random() < self._hole_chance)
        self._offsets.append(self._offsets[-1] + 1 + hole if self._offsets else 0)
        return self._offsets[-1]

    def offset(self, position: int) -> int:
        return self._offsets[position]

    def _attach(self, method: Basic.Consume) -> None:
        """Translate an offset of the journal, which may have holes, into one of the broker's stream, which has none."""
        wanted = (method.arguments or {})["x-stream-offset"]
        if isinstance(wanted, int):
            position = next((at for at, offset in enumerate(self._offsets) if offset >= wanted), len(self._offsets))
            method.arguments = {"x-stream-offset": position}

    def truncate(self, low: int) -> None:
        """Retention: drop all below an offset."""
        stream = self.queue(JOURNAL)
        assert isinstance(stream, Stream)
        while len(stream) and self._offsets[stream._first] < low:
            stream.size -= stream._log[stream._dropped].message.size
            stream._dropped += 1


class Connection:
    """A connection, on which everything arrives in order, after `lag` steps at most."""

    def __init__(self, server: Server, number: int, process: Process, end: End, lag: int) -> None:
        self.server = server
        self.number = number
        self.is_open = True
        self._process = process
        self._end = end
        self._lag = lag
        self._out: deque[tuple[Any, ...]] = deque()
        self._in: deque[Send | None] = deque()
        self._out_at = 0
        self._in_at = 0
        self._stalled_until = 0
        self._deaf_until = 0

    # ---- the client's side

    def say(self, channel: int, *methods: Frame) -> None:
        """Send methods, which arrive together."""
        self._to_broker((channel, methods))

    def publish(self, channel: int, queue: str, body: bytes, *, content_type: str = "", persistent: bool) -> None:
        self._to_broker((channel, queue, _header(content_type, persistent, len(body)), body))

    def close(self) -> None:
        """Close the connection; what was sent before still arrives."""
        if self.is_open:
            self.is_open = False
            self._to_broker(())

    def stall(self, steps: int) -> None:
        """Let nothing through to the broker for a while."""
        self._stalled_until = self.server.clock.now + steps

    def stall_no_longer_than(self, steps: int) -> None:
        until = self.server.clock.now + steps
        if self._stalled_until > until:
            self._stalled_until = until
            for _ in self._out:
                self.server.clock.at(until, self._reach_broker)

    def deafen(self, steps: int) -> None:
        """Let nothing through to the client for a while."""
        self._deaf_until = self.server.clock.now + steps

    def break_off(self) -> None:
        """Break the connection; what is still on its way to the broker is lost."""
        self.server.disconnect(self)
        self.is_open = False

    def _to_broker(self, item: tuple[Any, ...]) -> None:
        clock = self.server.clock
        self._out_at = max(self._out_at, clock.now + self.server.chance.randint(1, self._lag))
        self._out.append((self._out_at, *item))
        clock.at(self._out_at, self._reach_broker)

    def _reach_broker(self) -> None:
        if not self._out:
            return
        when = max(self._stalled_until, self._out[0][0])
        if when > self.server.clock.now:
            self.server.clock.at(when, self._reach_broker)
            return
        item = self._out.popleft()[1:]
        if not item:
            self.server.disconnect(self)
        elif len(item) == 2:
            self.server.receive(self, *item)
        else:
            self.server.publish(self, *item)

    # ---- the broker's side

    def to_client(self, effect: Send | None) -> None:
        """Send to the client; None says that the connection is over."""
        clock = self.server.clock
        self._in_at = max(self._in_at, clock.now + self.server.chance.randint(1, self._lag))
        self._in.append(effect)
        clock.at(self._in_at, self._reach_client)

    def lose(self) -> None:
        self._in.clear()

    def _reach_client(self) -> None:
        if not self.is_open or not self._in:
            return
        hears_at = max(self._process.paused_until, self._deaf_until)
        if hears_at > self.server.clock.now:
            self.server.clock.at(hears_at, self._reach_client)
            return
        effect = self._in.popleft()
        if effect is None:
            self.is_open = False
            self._end.lost(self)
        elif isinstance(effect.method, Basic.Deliver):
            assert effect.header is not None
            known = properties(effect.header)
            at: Any = (known.headers or {}).get("x-stream-offset")
            offset = self.server.offset(at) if at is not None else -1
            tag = effect.method.delivery_tag
            assert tag is not None
            self._end.arrived(self, Arrival(effect.channel, tag, known.content_type or "", effect.body, offset))
        elif isinstance(effect.method, Channel.Close):
            raise Broken(f"a client has broken AMQP: {effect.method.reply_text}")
        else:
            self._end.answered(self, effect.channel, effect.method)


class Confirms:
    """Publishes over one channel, and keeps what is not confirmed."""

    def __init__(self, connection: Connection, channel: int = 1) -> None:
        self._connection = connection
        self._channel = channel
        self._next = 1
        self.waiting: dict[int, Callable[[], None]] = {}
        connection.say(channel, Channel.Open(), Confirm.Select())

    def publish(
        self, queue: str, body: bytes, confirmed: Callable[[], None], *, content_type: str = "", persistent: bool = True
    ) -> None:
        self.waiting[self._next] = confirmed
        self._next += 1
        self._connection.publish(self._channel, queue, body, content_type=content_type, persistent=persistent)

    def settle(self, method: Basic.Ack) -> None:
        assert method.delivery_tag is not None
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self.waiting if tag <= method.delivery_tag]
        for tag in tags:
            self.waiting.pop(tag)()
