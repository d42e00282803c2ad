"""AMQP channels of the embedded broker's clients: confirms, deliveries, acknowledgements and consumers. Pure.

A channel answers the methods of `CHANNEL_HANDLERS` itself; the others are answered by `Broker`, which opens and closes it.
`now` is Unix time in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Confirm
from pamqp.commands import Channel as ChannelMethods

from actorhub_embedded.errors import ChannelError, Code, ConnectionFault, not_supported
from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, Queue
from actorhub_embedded.streams import Stream
from actorhub_embedded.vhost import VirtualHost


@dataclass(slots=True)
class Send:
    """A method for a client, with a message if the method carries one."""

    connection: int
    channel: int
    method: Frame
    header: bytes | None = None
    """The content header's payload; None if the method carries no message."""
    body: bytes = b""


@dataclass(eq=False)
class Connection:
    """A client's connection and its open channels."""

    number: int
    channels: dict[int, Channel] = field(default_factory=dict)
    """By channel number."""
    publishes: bool = False
    """True once it has published."""
    blocked: bool = False
    """True while the memory alarm keeps it from publishing."""
    paused: bool = False
    """True while the client does not read what it was sent."""


@dataclass(slots=True)
class Unacknowledged:
    """A message that was delivered on a channel and not acknowledged yet."""

    queue: Queue
    entry: Entry
    consumer: Consumer | None
    """None if it was fetched by `basic.get`."""


class Channel:
    """One open channel of a client.

    Args:
        connection: the connection that the channel belongs to.
        number: the channel's number on that connection.
        vhost: the virtual host with the queues and exchanges.
        rng: makes the tags of consumers that come without one.
        send: called with each method for the client, in order.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        vhost: VirtualHost,
        rng: random.Random,
        send: Callable[[Send], None],
    ) -> None:
        self.connection = connection
        self.number = number
        self.consumers: dict[str, Consumer] = {}
        """By consumer tag."""
        self.last_queue = ""
        """The queue declared last, which AMQP means by an empty queue name."""
        self.closing = False
        """True after the broker has closed the channel, until the client confirms that."""
        self._vhost = vhost
        self._rng = rng
        self._send = send
        self._prefetch = 0
        self._confirms_publishes = False
        self._published = 0
        self._outcomes: list[tuple[int, bool]] = []  # publish numbers and whether they were stored; not yet confirmed
        self._unacknowledged: dict[int, Unacknowledged] = {}  # by delivery tag, ascending
        self._last_tag = 0

    def send(self, method: Frame, header: bytes | None = None, body: bytes = b"") -> None:
        """Send a method, and its message if it carries one, to the client."""
        self._send(Send(self.connection.number, self.number, method, header, body))

    def queue(self, name: str) -> Queue:
        """The queue of this name; the one declared last if the name is empty.

        Raises:
            ChannelError: there is no such queue, or it is exclusive to another connection.
        """
        return self._vhost.queue(name or self.last_queue, self.connection.number)

    def release(self, now: float) -> None:
        """End the channel's consumers and requeue what it has not acknowledged.

        The consumers go first, so that nothing is delivered to them again.
        """
        self.confirm()
        consumers, self.consumers = self.consumers, {}
        for consumer in consumers.values():
            self._vhost.remove_consumer(consumer, now)
        taken, self._unacknowledged = self._unacknowledged, {}
        self._vhost.requeue([(one.queue, one.entry) for one in taken.values()])

    def flow(self, method: ChannelMethods.Flow, now: float) -> Frame:
        if not method.active:
            raise not_supported("channel.flow that stops; use a prefetch")
        return ChannelMethods.FlowOk(True)

    # ---- publishing

    def select_confirms(self, method: Confirm.Select, now: float) -> Frame:
        self._confirms_publishes = True
        return Confirm.SelectOk()

    def publish(self, method: Basic.Publish, header: bytes, body: bytes, now: float) -> bool:
        """Route a message; True if the client is to get a confirm for it, which `confirm` sends."""
        if method.immediate:
            raise not_supported("immediate")
        message = Message(method.exchange, method.routing_key, header, body)
        try:
            _ = message.expiration
        except ValueError as exc:
            raise ChannelError(Code.PRECONDITION_FAILED, f"invalid expiration: {exc}") from exc
        routed, stored = self._vhost.publish(message, now)
        if not routed and method.mandatory:
            self.send(Basic.Return(Code.NO_ROUTE, "NO_ROUTE", message.exchange, message.routing_key), header, body)
        if self._confirms_publishes:
            self._published += 1
            self._outcomes.append((self._published, stored))
        return self._confirms_publishes

    def confirm(self) -> None:
        """Confirm all publishes since the last time, in as few methods as possible."""
        outcomes, self._outcomes = self._outcomes, []
        while outcomes:
            ok = outcomes[0][1]
            run = next((at for at, (_, stored) in enumerate(outcomes) if stored != ok), len(outcomes))
            tag, multiple = outcomes[run - 1][0], run > 1
            self.send(Basic.Ack(tag, multiple) if ok else Basic.Nack(tag, multiple, False))
            del outcomes[:run]

    # ---- delivering

    def deliver(self, queue: Queue, consumer: Consumer, entry: Entry) -> None:
        """Send a message to one of the channel's consumers."""
        tag = self._next_tag(queue, entry, consumer, no_ack=consumer.no_ack)
        message = entry.message
        method = Basic.Deliver(consumer.tag, tag, entry.redelivered, message.exchange, message.routing_key)
        self.send(method, _delivered_header(queue, entry), message.body)

    def get(self, method: Basic.Get, now: float) -> Frame | None:
        queue = self.queue(method.queue)
        if isinstance(queue, Stream):
            raise not_supported(f"basic.get on a stream ('{queue.name}'); consume it")
        entry = self._vhost.get(queue, now)
        if entry is None:
            return Basic.GetEmpty()
        tag = self._next_tag(queue, entry, None, no_ack=method.no_ack)
        if method.no_ack:
            self._vhost.discard(queue, entry)
        message = entry.message
        reply = Basic.GetOk(tag, entry.redelivered, message.exchange, message.routing_key, len(queue))
        self.send(reply, _delivered_header(queue, entry), message.body)
        return None

    def _next_tag(self, queue: Queue, entry: Entry, consumer: Consumer | None, *, no_ack: bool) -> int:
        """The delivery tag of a message, which is unacknowledged from now on unless `no_ack`."""
        self._last_tag += 1
        if not no_ack:
            self._unacknowledged[self._last_tag] = Unacknowledged(queue, entry, consumer)
        return self._last_tag

    # ---- acknowledging

    def qos(self, method: Basic.Qos, now: float) -> Frame:
        if method.prefetch_size:
            raise not_supported("a prefetch in bytes")
        if method.global_:
            raise not_supported("a global prefetch; set one for each consumer")
        self._prefetch = method.prefetch_count
        return Basic.QosOk()

    def ack(self, method: Basic.Ack, now: float) -> None:
        for one in self._take(method.delivery_tag, method.multiple):
            self._vhost.discard(one.queue, one.entry)

    def nack(self, method: Basic.Nack, now: float) -> None:
        self._reject(self._take(method.delivery_tag, method.multiple), method.requeue)

    def reject(self, method: Basic.Reject, now: float) -> None:
        self._reject(self._take(method.delivery_tag or 0, False), method.requeue)

    def recover(self, method: Basic.Recover, now: float) -> Frame:
        if not method.requeue:
            raise not_supported("basic.recover without requeue")
        self._reject(self._take(0, True), True)
        return Basic.RecoverOk()

    def _take(self, tag: int, multiple: bool) -> list[Unacknowledged]:
        """Remove and return the messages that a delivery tag stands for; with `multiple` all up to it, or all if it is 0.

        Raises:
            ChannelError: no unacknowledged message has the tag.
        """
        if tag not in self._unacknowledged and not (multiple and tag == 0):
            raise ChannelError(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
        tags = list(takewhile(lambda known: not tag or known <= tag, self._unacknowledged)) if multiple else [tag]
        taken = [self._unacknowledged.pop(known) for known in tags]
        for one in taken:
            if one.consumer is not None:
                one.consumer.unacknowledged -= 1
            self._vhost.changed(one.queue)
        return taken

    def _reject(self, taken: list[Unacknowledged], requeue: bool) -> None:
        if requeue:
            self._vhost.requeue([(one.queue, one.entry) for one in taken], rejected=True)
            return
        for one in taken:
            self._vhost.reject(one.queue, one.entry)

    # ---- consuming

    def consume(self, method: Basic.Consume, now: float) -> Frame | None:
        queue = self.queue(method.queue)
        arguments = dict(method.arguments or {})
        offset = arguments.pop("x-stream-offset", None)
        if arguments:
            raise not_supported(f"{', '.join(arguments)} of a consumer")
        tag = method.consumer_tag or f"amq.ctag-{self._rng.getrandbits(96):024x}"
        if tag in self.consumers:
            raise ConnectionFault(Code.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        if any(other.exclusive for other in queue.consumers) or (method.exclusive and queue.consumers):
            raise ChannelError(Code.ACCESS_REFUSED, f"queue '{queue.name}' in vhost '/' in exclusive use")
        consumer = Consumer(
            self.connection.number,
            self.number,
            tag,
            queue.name,
            prefetch=self._prefetch,
            no_ack=method.no_ack,
            exclusive=method.exclusive,
        )
        if isinstance(queue, Stream):
            _attach_to_stream(queue, consumer, offset)
        consumer.paused = self.connection.paused
        self.consumers[tag] = consumer
        if not method.nowait:
            self.send(Basic.ConsumeOk(tag))
        self._vhost.add_consumer(queue, consumer)
        return None

    def cancel(self, method: Basic.Cancel, now: float) -> Frame:
        consumer = self.consumers.pop(method.consumer_tag or "", None)
        if consumer is not None:
            self._vhost.remove_consumer(consumer, now)
        return Basic.CancelOk(method.consumer_tag)

    def on_queue_deleted(self, consumer: Consumer) -> None:
        """End a consumer whose queue was deleted, and tell the client."""
        if self.consumers.pop(consumer.tag, None) is not None:
            self.send(Basic.Cancel(consumer.tag, True))


CHANNEL_HANDLERS: dict[type[Frame], Callable[[Channel, Any, float], Frame | None]] = {
    Basic.Ack: Channel.ack,
    Basic.Cancel: Channel.cancel,
    Basic.Consume: Channel.consume,
    Basic.Get: Channel.get,
    Basic.Nack: Channel.nack,
    Basic.Qos: Channel.qos,
    Basic.Recover: Channel.recover,
    Basic.Reject: Channel.reject,
    ChannelMethods.Flow: Channel.flow,
    Confirm.Select: Channel.select_confirms,
}
"""Each takes a method of its type and returns the reply; None if there is none, or if it has been sent already."""


def _delivered_header(queue: Queue, entry: Entry) -> bytes:
    """The content header of a delivery: with the offset in a stream, and the deliveries so far in a quorum queue."""
    if isinstance(queue, Stream):
        return entry.message.with_headers(**{"x-stream-offset": entry.position}).header
    if queue.arguments.kind == "quorum" and entry.deliveries:
        return entry.message.with_headers(**{"x-delivery-count": entry.deliveries}).header
    return entry.message.header


def _attach_to_stream(stream: Stream, consumer: Consumer, offset: object) -> None:
    """Set where a consumer begins to read.

    Raises:
        ChannelError: it has no prefetch, or the offset is invalid.
    """
    if not consumer.prefetch:
        text = "consumer prefetch count is not set and acknowledgements are needed for a stream"
        raise ChannelError(Code.PRECONDITION_FAILED, text)
    try:
        stream.attach(consumer, offset)
    except ValueError as exc:
        raise ChannelError(Code.PRECONDITION_FAILED, str(exc)) from exc
