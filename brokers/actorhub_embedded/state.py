"""The embedded broker as a pure state machine: methods and messages of clients in, frames for clients out.

`receive` takes one method, `publish` one message; what follows is collected until `flush`, which lets queues deliver and
gives back all effects in order. No I/O and no clock: `now` is Unix time in seconds and never goes back. A client's mistake
closes its channel or its connection as in RabbitMQ, and touches nobody else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue

from actorhub_embedded import queues
from actorhub_embedded.errors import ChannelError, Code, ConnectionFault, not_supported
from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry
from actorhub_embedded.streams import Stream
from actorhub_embedded.vhost import VirtualHost

LOW = 0.8  # of the memory limit: below it publishers go on


@dataclass(slots=True)
class Send:
    """A method for a client; with a message where it carries one. `header` is the content header's payload."""

    connection: int
    channel: int
    method: Frame
    header: bytes | None = None
    body: bytes = b""


@dataclass(slots=True)
class Block:
    """Take nothing from this connection for now (`reason`), or go on (None)."""

    connection: int
    reason: str | None


@dataclass(slots=True)
class Close:
    """This connection has broken the protocol."""

    connection: int
    fault: ConnectionFault
    method: Frame | None


Effect = Send | Block | Close


@dataclass(slots=True)
class _Held:
    """A message in a client's hands. `consumer` is None for one that `basic.get` took."""

    queue: queues.Queue
    entry: Entry
    consumer: Consumer | None


@dataclass(eq=False)
class _Channel:
    connection: int
    number: int
    prefetch: int = 0
    confirming: bool = False
    published: int = 0
    settled: list[tuple[int, bool]] = field(default_factory=list)  # not yet told to the publisher
    held: dict[int, _Held] = field(default_factory=dict)  # by delivery tag, in order
    last_tag: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)
    last_queue: str = ""
    closing: bool = False  # we have closed it; the client has not yet answered


@dataclass(eq=False)
class _Connection:
    channels: dict[int, _Channel] = field(default_factory=dict)
    publishes: bool = False
    blocked: bool = False
    paused: bool = False


class Broker:
    """`memory_limit` is bytes of messages; past it publishers are blocked."""

    def __init__(self, *, memory_limit: int = 1024**3, seed: int | None = None) -> None:
        self._memory_limit = memory_limit
        self._chance = random.Random(seed)
        self._vhost = VirtualHost(self._chance, self._deliver, self._tell_cancelled)
        self._connections: dict[int, _Connection] = {}
        self._unsettled: dict[_Channel, None] = {}
        self._effects: list[Effect] = []
        self._alarm = False
        self._handlers: dict[type[Frame], Callable[[_Channel, Any, float], Frame | None]] = {
            Basic.Ack: self._ack,
            Basic.Cancel: self._cancel,
            Basic.Consume: self._consume,
            Basic.Get: self._get,
            Basic.Nack: self._nack,
            Basic.Qos: self._qos,
            Basic.Recover: self._recover,
            Basic.Reject: self._reject,
            Channel.Close: self._close_channel,
            Channel.CloseOk: self._channel_closed,
            Channel.Flow: self._flow,
            Confirm.Select: self._confirm,
            Exchange.Declare: self._declare_exchange,
            Exchange.Delete: self._delete_exchange,
            Queue.Bind: self._bind,
            Queue.Declare: self._declare_queue,
            Queue.Delete: self._delete_queue,
            Queue.Purge: self._purge,
            Queue.Unbind: self._unbind,
        }

    # ---- commands

    def connect(self, connection: int) -> None:
        self._connections[connection] = _Connection()

    def disconnect(self, connection: int, now: float) -> None:
        """However it ended: what its channels held goes back, and its exclusive queues are gone."""
        found = self._connections.pop(connection, None)
        if found is None:
            return
        for channel in list(found.channels.values()):
            self._drop_channel(channel, now)
        for queue in self._vhost.exclusive_to(connection):
            self._vhost.drop(queue)

    def receive(self, connection: int, number: int, method: Frame, now: float) -> None:
        """One method of a client, but for those of the connection class and `basic.publish`."""
        found = self._connections.get(connection)
        if found is not None:
            self._guard(connection, number, method, now, lambda: self._receive(found, connection, number, method, now))

    def publish(
        self, connection: int, number: int, method: Basic.Publish, header: bytes, body: bytes, now: float
    ) -> None:
        """One whole message of a client."""
        self._content(
            connection, number, method, now, lambda channel: self._publish(channel, method, header, body, now)
        )

    def refuse(self, connection: int, number: int, method: Basic.Publish, error: ChannelError, now: float) -> None:
        """A message that the server would not even read."""

        def fail(channel: _Channel) -> None:
            raise error

        self._content(connection, number, method, now, fail)

    def _content(
        self, connection: int, number: int, method: Basic.Publish, now: float, take: Callable[[_Channel], None]
    ) -> None:
        found = self._connections.get(connection)
        if found is None:
            return
        found.publishes = True
        channel = found.channels.get(number)

        def act() -> None:
            if channel is None:
                raise _no_channel(number)
            if not channel.closing:
                take(channel)

        self._guard(connection, number, method, now, act)

    def _guard(self, connection: int, number: int, method: Frame, now: float, act: Callable[[], None]) -> None:
        """A mistake closes the channel or the connection that made it."""
        try:
            act()
        except ConnectionFault as fault:
            self._effects.append(Close(connection, fault, method))
        except ChannelError as error:
            channel = self._connections[connection].channels[number]
            self._drop_channel(channel, now)
            channel.closing = True
            self._connections[connection].channels[number] = channel
            self._send(channel, Channel.Close(error.code, error.text, method.frame_id, method.index & 0xFFFF))

    def pause(self, connection: int, paused: bool) -> None:
        """The client does not read what it was sent: until it does, it gets nothing more."""
        found = self._connections.get(connection)
        if found is None:
            return
        found.paused = paused
        for channel in found.channels.values():
            for consumer in channel.consumers.values():
                consumer.paused = paused
                self._vhost.changed(self._vhost.queue(consumer.queue, connection))

    def tick(self, now: float) -> None:
        """Time has passed: messages and queues expire."""
        self._vhost.tick(now)

    def flush(self, now: float) -> list[Effect]:
        """All that follows of the commands so far."""
        self._vhost.settle(now)
        for channel in self._unsettled:
            self._confirm_settled(channel)
        self._unsettled.clear()
        self._watch_memory()
        effects, self._effects = self._effects, []
        return effects

    @property
    def memory(self) -> int:
        """Bytes that messages take."""
        return self._vhost.memory

    def _watch_memory(self) -> None:
        """Past the limit every connection that has published is blocked, until enough has been acknowledged."""
        if self.memory > self._memory_limit:
            self._alarm = True
        elif self.memory < LOW * self._memory_limit:
            self._alarm = False
        for number, connection in self._connections.items():
            if connection.publishes and connection.blocked != self._alarm:
                connection.blocked = self._alarm
                reason = f"low on memory: messages take {self.memory} of {self._memory_limit} bytes"
                self._effects.append(Block(number, reason if self._alarm else None))

    # ---- channels

    def _receive(self, found: _Connection, connection: int, number: int, method: Frame, now: float) -> None:
        channel = found.channels.get(number)
        if isinstance(method, Channel.Open):
            if channel is not None and not channel.closing:
                raise ConnectionFault(Code.CHANNEL_ERROR, f"second 'channel.open' seen on channel {number}")
            found.channels[number] = _Channel(connection, number)
            self._send(found.channels[number], Channel.OpenOk())
            return
        if channel is None:
            raise _no_channel(number)
        if channel.closing and not isinstance(method, Channel.Close | Channel.CloseOk):
            return
        handler = self._handlers.get(type(method))
        if handler is None:
            raise not_supported(method.name)
        answer = handler(channel, method, now)
        if answer is not None and not getattr(method, "nowait", False):
            self._send(channel, answer)

    def _close_channel(self, channel: _Channel, method: Channel.Close, now: float) -> Frame:
        self._drop_channel(channel, now)
        return Channel.CloseOk()

    def _channel_closed(self, channel: _Channel, method: Channel.CloseOk, now: float) -> None:
        self._connections[channel.connection].channels.pop(channel.number, None)

    def _drop_channel(self, channel: _Channel, now: float) -> None:
        """First its consumers go, so that nothing comes back to them; then what it held returns; then others take it."""
        self._confirm_settled(channel)
        self._unsettled.pop(channel, None)
        consumers, channel.consumers = channel.consumers, {}
        for consumer in consumers.values():
            self._vhost.remove_consumer(consumer, now)
        held, channel.held = channel.held, {}
        self._vhost.give_back([(one.queue, one.entry) for one in held.values()])
        connection = self._connections.get(channel.connection)
        if connection is not None and connection.channels.get(channel.number) is channel:
            del connection.channels[channel.number]

    def _flow(self, channel: _Channel, method: Channel.Flow, now: float) -> Frame:
        if not method.active:
            raise not_supported("channel.flow that stops; use a prefetch")
        return Channel.FlowOk(True)

    def _send(self, channel: _Channel, method: Frame) -> None:
        self._effects.append(Send(channel.connection, channel.number, method))

    # ---- publishing

    def _confirm(self, channel: _Channel, method: Confirm.Select, now: float) -> Frame:
        channel.confirming = True
        return Confirm.SelectOk()

    def _publish(self, channel: _Channel, method: Basic.Publish, header: bytes, body: bytes, now: float) -> None:
        if method.immediate:
            raise not_supported("immediate")
        message = Message(method.exchange, method.routing_key, header, body)
        try:
            _ = message.expiration
        except ValueError as exc:
            raise ChannelError(Code.PRECONDITION_FAILED, f"invalid expiration: {exc}") from exc
        routed, stored = self._vhost.publish(message, now)
        if not routed and method.mandatory:
            returned = Basic.Return(Code.NO_ROUTE, "NO_ROUTE", message.exchange, message.routing_key)
            self._effects.append(Send(channel.connection, channel.number, returned, header, body))
        if channel.confirming:
            channel.published += 1
            channel.settled.append((channel.published, stored))
            self._unsettled[channel] = None

    def _confirm_settled(self, channel: _Channel) -> None:
        """What was settled since the last time, in as few frames as say it exactly."""
        settled, channel.settled = channel.settled, []
        while settled:
            ok = settled[0][1]
            run = next((at for at, (_, stored) in enumerate(settled) if stored != ok), len(settled))
            tag, multiple = settled[run - 1][0], run > 1
            self._send(channel, Basic.Ack(tag, multiple) if ok else Basic.Nack(tag, multiple, False))
            del settled[:run]

    # ---- delivering

    def _deliver(self, queue: queues.Queue, now: float) -> None:
        for consumer, entry in self._vhost.hand_out(queue, now):
            channel = self._connections[consumer.connection].channels[consumer.channel]
            tag = self._hold(channel, queue, entry, consumer, consumer.no_ack)
            message = entry.message
            method = Basic.Deliver(consumer.tag, tag, entry.redelivered, message.exchange, message.routing_key)
            self._effects.append(Send(channel.connection, channel.number, method, _header(queue, entry), message.body))

    def _get(self, channel: _Channel, method: Basic.Get, now: float) -> Frame | None:
        queue = self._queue(channel, method.queue)
        if isinstance(queue, Stream):
            raise not_supported(f"basic.get on a stream ('{queue.name}'); consume it")
        entry = self._vhost.get(queue, now)
        if entry is None:
            return Basic.GetEmpty()
        tag = self._hold(channel, queue, entry, None, method.no_ack)
        if method.no_ack:
            self._vhost.done(queue, entry)
        message = entry.message
        answer = Basic.GetOk(tag, entry.redelivered, message.exchange, message.routing_key, len(queue))
        self._effects.append(Send(channel.connection, channel.number, answer, _header(queue, entry), message.body))
        return None

    def _hold(
        self, channel: _Channel, queue: queues.Queue, entry: Entry, consumer: Consumer | None, no_ack: bool
    ) -> int:
        """Its delivery tag."""
        channel.last_tag += 1
        if not no_ack:
            channel.held[channel.last_tag] = _Held(queue, entry, consumer)
        return channel.last_tag

    # ---- acknowledging

    def _qos(self, channel: _Channel, method: Basic.Qos, now: float) -> Frame:
        if method.prefetch_size:
            raise not_supported("a prefetch in bytes")
        if method.global_:
            raise not_supported("a global prefetch; it has one for each consumer")
        channel.prefetch = method.prefetch_count
        return Basic.QosOk()

    def _take(self, channel: _Channel, tag: int, multiple: bool) -> list[_Held]:
        """What the tag stands for; the channel no longer holds it. With `multiple` all up to it, and 0 is all."""
        if tag not in channel.held and not (multiple and tag == 0):
            raise ChannelError(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
        tags = list(takewhile(lambda held: not tag or held <= tag, channel.held)) if multiple else [tag]
        taken = [channel.held.pop(held) for held in tags]
        for one in taken:
            if one.consumer is not None:
                one.consumer.in_hand -= 1
            self._vhost.changed(one.queue)
        return taken

    def _ack(self, channel: _Channel, method: Basic.Ack, now: float) -> None:
        for held in self._take(channel, method.delivery_tag, method.multiple):
            self._vhost.done(held.queue, held.entry)

    def _nack(self, channel: _Channel, method: Basic.Nack, now: float) -> None:
        self._refuse(self._take(channel, method.delivery_tag, method.multiple), method.requeue)

    def _reject(self, channel: _Channel, method: Basic.Reject, now: float) -> None:
        self._refuse(self._take(channel, method.delivery_tag or 0, False), method.requeue)

    def _recover(self, channel: _Channel, method: Basic.Recover, now: float) -> Frame:
        if not method.requeue:
            raise not_supported("basic.recover without requeue")
        self._refuse(self._take(channel, 0, True), True)
        return Basic.RecoverOk()

    def _refuse(self, taken: list[_Held], requeue: bool) -> None:
        if requeue:
            self._vhost.give_back([(held.queue, held.entry) for held in taken], refused=True)
            return
        for held in taken:
            self._vhost.reject(held.queue, held.entry)

    # ---- consuming

    def _consume(self, channel: _Channel, method: Basic.Consume, now: float) -> Frame | None:
        queue = self._queue(channel, method.queue)
        arguments = dict(method.arguments or {})
        offset = arguments.pop("x-stream-offset", None)
        if arguments:
            raise not_supported(f"{', '.join(arguments)} of a consumer")
        tag = method.consumer_tag or f"amq.ctag-{self._chance.getrandbits(96):024x}"
        if tag in channel.consumers:
            raise ConnectionFault(Code.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        if any(other.exclusive for other in queue.consumers) or (method.exclusive and queue.consumers):
            raise ChannelError(Code.ACCESS_REFUSED, f"queue '{queue.name}' in vhost '/' in exclusive use")
        consumer = Consumer(
            channel.connection,
            channel.number,
            tag,
            queue.name,
            prefetch=channel.prefetch,
            no_ack=method.no_ack,
            exclusive=method.exclusive,
        )
        if isinstance(queue, Stream):
            _begin(queue, consumer, offset)
        consumer.paused = self._connections[channel.connection].paused
        channel.consumers[tag] = consumer
        if not method.nowait:
            self._send(channel, Basic.ConsumeOk(tag))
        self._vhost.add_consumer(queue, consumer)
        return None

    def _cancel(self, channel: _Channel, method: Basic.Cancel, now: float) -> Frame:
        consumer = channel.consumers.pop(method.consumer_tag or "", None)
        if consumer is not None:
            self._vhost.remove_consumer(consumer, now)
        return Basic.CancelOk(method.consumer_tag)

    def _tell_cancelled(self, consumers: Sequence[Consumer]) -> None:
        """Their queue is gone."""
        for consumer in consumers:
            connection = self._connections.get(consumer.connection)
            channel = connection.channels.get(consumer.channel) if connection is not None else None
            if channel is not None and channel.consumers.pop(consumer.tag, None) is not None:
                self._send(channel, Basic.Cancel(consumer.tag, True))

    # ---- queues and exchanges

    def _queue(self, channel: _Channel, name: str) -> queues.Queue:
        return self._vhost.queue(name or channel.last_queue, channel.connection)

    def _declare_queue(self, channel: _Channel, method: Queue.Declare, now: float) -> Frame:
        queue = self._vhost.declare_queue(method, channel.connection, now)
        channel.last_queue = queue.name
        return Queue.DeclareOk(queue.name, len(queue), len(queue.consumers))

    def _delete_queue(self, channel: _Channel, method: Queue.Delete, now: float) -> Frame:
        name = method.queue or channel.last_queue
        return Queue.DeleteOk(self._vhost.delete_queue(method, name, channel.connection, now))

    def _purge(self, channel: _Channel, method: Queue.Purge, now: float) -> Frame:
        return Queue.PurgeOk(self._vhost.purge(self._queue(channel, method.queue)))

    def _bind(self, channel: _Channel, method: Queue.Bind, now: float) -> Frame:
        self._vhost.bind(self._queue(channel, method.queue), method)
        return Queue.BindOk()

    def _unbind(self, channel: _Channel, method: Queue.Unbind, now: float) -> Frame:
        self._vhost.unbind(self._queue(channel, method.queue), method)
        return Queue.UnbindOk()

    def _declare_exchange(self, channel: _Channel, method: Exchange.Declare, now: float) -> Frame:
        self._vhost.declare_exchange(method)
        return Exchange.DeclareOk()

    def _delete_exchange(self, channel: _Channel, method: Exchange.Delete, now: float) -> Frame:
        self._vhost.delete_exchange(method)
        return Exchange.DeleteOk()


def _header(queue: queues.Queue, entry: Entry) -> bytes:
    if isinstance(queue, Stream):
        return entry.message.with_headers(**{"x-stream-offset": entry.position}).header
    if queue.arguments.kind == "quorum" and entry.deliveries:
        return entry.message.with_headers(**{"x-delivery-count": entry.deliveries}).header
    return entry.message.header


def _begin(stream: Stream, consumer: Consumer, offset: object) -> None:
    if not consumer.prefetch:
        text = "consumer prefetch count is not set and acknowledgements are needed for a stream"
        raise ChannelError(Code.PRECONDITION_FAILED, text)
    try:
        stream.begin(consumer, offset)
    except ValueError as exc:
        raise ChannelError(Code.PRECONDITION_FAILED, str(exc)) from exc


def _no_channel(number: int) -> ConnectionFault:
    return ConnectionFault(Code.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}")
