"""The embedded broker as a pure state machine: methods and messages of clients in, frames for clients out.

`receive` takes one method, `publish` one message; the effects are collected until `flush`, which lets queues deliver and
returns all effects in order. No I/O and no clock: `now` is Unix time in seconds and never goes back. A client's error closes
its channel or its connection as in RabbitMQ; other clients do not notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Queue
from pamqp.commands import Channel as ChannelMethods
from pamqp.commands import Exchange as ExchangeMethods

from actorhub_embedded import queues
from actorhub_embedded.channels import CHANNEL_HANDLERS, Channel, Connection, Send
from actorhub_embedded.errors import ChannelError, Code, ConnectionFault, not_supported
from actorhub_embedded.queues import Consumer
from actorhub_embedded.vhost import VirtualHost

ALARM_CLEARS_AT = 0.8  # share of the memory limit below which publishers may go on


@dataclass(slots=True)
class Block:
    """Read nothing from a connection for now, or read from it again."""

    connection: int
    reason: str | None
    """Why it is blocked; None if it is not any more."""


@dataclass(slots=True)
class Close:
    """Close a connection that broke the protocol."""

    connection: int
    fault: ConnectionFault
    method: Frame | None
    """The method that was at fault, if any."""


Effect = Send | Block | Close


class Broker:
    """The state of the whole broker: connections, channels, one virtual host and the memory alarm.

    Args:
        memory_limit: bytes of messages past which connections that publish are blocked.
        seed: makes the names that the broker chooses repeatable.
    """

    def __init__(self, *, memory_limit: int = 1024**3, seed: int | None = None) -> None:
        self._memory_limit = memory_limit
        self._rng = random.Random(seed)
        self._vhost = VirtualHost(self._rng, self._deliver, self._end_consumers)
        self._connections: dict[int, Connection] = {}
        self._unconfirmed: dict[Channel, None] = {}  # channels with publishes to confirm, in the order of publishing
        self._effects: list[Effect] = []
        self._alarm = False
        self._handlers: dict[type[Frame], Callable[[Channel, Any, float], Frame | None]] = {
            **CHANNEL_HANDLERS,
            ChannelMethods.Close: self._close_channel,
            ChannelMethods.CloseOk: self._on_channel_closed,
            ExchangeMethods.Declare: self._declare_exchange,
            ExchangeMethods.Delete: self._delete_exchange,
            Queue.Bind: self._bind,
            Queue.Declare: self._declare_queue,
            Queue.Delete: self._delete_queue,
            Queue.Purge: self._purge,
            Queue.Unbind: self._unbind,
        }

    # ---- input

    def connect(self, connection: int) -> None:
        self._connections[connection] = Connection(connection)

    def disconnect(self, connection: int, now: float) -> None:
        """Requeue what the connection's channels have not acknowledged, and delete its exclusive queues."""
        known = self._connections.pop(connection, None)
        if known is None:
            return
        for channel in list(known.channels.values()):
            self._remove_channel(channel, now)
        for queue in self._vhost.exclusive_to(connection):
            self._vhost.remove(queue)

    def receive(self, connection: int, number: int, method: Frame, now: float) -> None:
        """Handle a client's method; not those of the connection class, and not `basic.publish`."""
        known = self._connections.get(connection)
        if known is not None:
            self._guard(known, number, method, now, lambda: self._receive(known, number, method, now))

    def publish(
        self, connection: int, number: int, method: Basic.Publish, header: bytes, body: bytes, now: float
    ) -> None:
        """Handle a client's message. `header` is the content header's payload."""

        def publish(channel: Channel) -> None:
            if channel.publish(method, header, body, now):
                self._unconfirmed[channel] = None

        self._on_content(connection, number, method, now, publish)

    def refuse(self, connection: int, number: int, method: Basic.Publish, error: ChannelError, now: float) -> None:
        """Fail a client's message whose body the server did not read."""

        def fail(channel: Channel) -> None:
            raise error

        self._on_content(connection, number, method, now, fail)

    def _on_content(
        self, connection: int, number: int, method: Basic.Publish, now: float, handle: Callable[[Channel], None]
    ) -> None:
        known = self._connections.get(connection)
        if known is None:
            return
        known.publishes = True
        channel = known.channels.get(number)

        def act() -> None:
            if channel is None:
                raise _not_open(number)
            if not channel.closing:
                handle(channel)

        self._guard(known, number, method, now, act)

    def _guard(self, connection: Connection, number: int, method: Frame, now: float, act: Callable[[], None]) -> None:
        """Close the channel or the connection whose method raises an AMQP error."""
        try:
            act()
        except ConnectionFault as fault:
            self._effects.append(Close(connection.number, fault, method))
        except ChannelError as error:
            channel = connection.channels[number]
            self._remove_channel(channel, now)
            channel.closing = True
            connection.channels[number] = channel
            channel.send(ChannelMethods.Close(error.code, error.text, method.frame_id, method.index & 0xFFFF))

    def pause(self, connection: int, paused: bool) -> None:
        """Deliver nothing to a client that does not read; resume with `paused` False."""
        known = self._connections.get(connection)
        if known is None:
            return
        known.paused = paused
        for channel in known.channels.values():
            for consumer in channel.consumers.values():
                consumer.paused = paused
                self._vhost.changed(self._vhost.queue(consumer.queue, connection))

    def tick(self, now: float) -> None:
        """Expire messages and queues whose time is over."""
        self._vhost.tick(now)

    # ---- output

    def flush(self, now: float) -> list[Effect]:
        """All effects of the input so far, in order."""
        self._vhost.settle(now)
        for channel in self._unconfirmed:
            channel.confirm()
        self._unconfirmed.clear()
        self._check_memory()
        effects = self._effects.copy()
        self._effects.clear()  # channels hold its `append`
        return effects

    @property
    def memory(self) -> int:
        """Bytes of all messages, delivered and unacknowledged ones included."""
        return self._vhost.memory

    def _check_memory(self) -> None:
        """Block the connections that have published while messages take too much memory."""
        if self.memory > self._memory_limit:
            self._alarm = True
        elif self.memory < ALARM_CLEARS_AT * self._memory_limit:
            self._alarm = False
        for number, connection in self._connections.items():
            if connection.publishes and connection.blocked != self._alarm:
                connection.blocked = self._alarm
                reason = f"low on memory: messages take {self.memory} of {self._memory_limit} bytes"
                self._effects.append(Block(number, reason if self._alarm else None))

    def _deliver(self, queue: queues.Queue, now: float) -> None:
        """Send the queue's messages to its consumers that have room."""
        for consumer, entry in self._vhost.take_deliverable(queue, now):
            channel = self._connections[consumer.connection].channels[consumer.channel]
            channel.deliver(queue, consumer, entry)

    def _end_consumers(self, consumers: Sequence[Consumer]) -> None:
        """Tell the consumers of a deleted queue."""
        for consumer in consumers:
            connection = self._connections.get(consumer.connection)
            channel = connection.channels.get(consumer.channel) if connection is not None else None
            if channel is not None:
                channel.on_queue_deleted(consumer)

    # ---- channels

    def _receive(self, connection: Connection, number: int, method: Frame, now: float) -> None:
        channel = connection.channels.get(number)
        if isinstance(method, ChannelMethods.Open):
            if channel is not None and not channel.closing:
                raise ConnectionFault(Code.CHANNEL_ERROR, f"second 'channel.open' seen on channel {number}")
            opened = Channel(connection, number, self._vhost, self._rng, self._effects.append)
            connection.channels[number] = opened
            opened.send(ChannelMethods.OpenOk())
            return
        if channel is None:
            raise _not_open(number)
        if channel.closing and not isinstance(method, ChannelMethods.Close | ChannelMethods.CloseOk):
            return
        handler = self._handlers.get(type(method))
        if handler is None:
            raise not_supported(method.name)
        reply = handler(channel, method, now)
        if reply is not None and not getattr(method, "nowait", False):
            channel.send(reply)

    def _close_channel(self, channel: Channel, method: ChannelMethods.Close, now: float) -> Frame:
        self._remove_channel(channel, now)
        return ChannelMethods.CloseOk()

    def _on_channel_closed(self, channel: Channel, method: ChannelMethods.CloseOk, now: float) -> None:
        channel.connection.channels.pop(channel.number, None)

    def _remove_channel(self, channel: Channel, now: float) -> None:
        channel.release(now)
        self._unconfirmed.pop(channel, None)
        channels = channel.connection.channels
        if channels.get(channel.number) is channel:
            del channels[channel.number]

    # ---- queues and exchanges

    def _declare_queue(self, channel: Channel, method: Queue.Declare, now: float) -> Frame:
        queue = self._vhost.declare_queue(method, channel.connection.number, now)
        channel.last_queue = queue.name
        return Queue.DeclareOk(queue.name, len(queue), len(queue.consumers))

    def _delete_queue(self, channel: Channel, method: Queue.Delete, now: float) -> Frame:
        name = method.queue or channel.last_queue
        return Queue.DeleteOk(self._vhost.delete_queue(method, name, channel.connection.number, now))

    def _purge(self, channel: Channel, method: Queue.Purge, now: float) -> Frame:
        return Queue.PurgeOk(self._vhost.purge(channel.queue(method.queue)))

    def _bind(self, channel: Channel, method: Queue.Bind, now: float) -> Frame:
        self._vhost.bind(channel.queue(method.queue), method)
        return Queue.BindOk()

    def _unbind(self, channel: Channel, method: Queue.Unbind, now: float) -> Frame:
        self._vhost.unbind(channel.queue(method.queue), method)
        return Queue.UnbindOk()

    def _declare_exchange(self, channel: Channel, method: ExchangeMethods.Declare, now: float) -> Frame:
        self._vhost.declare_exchange(method)
        return ExchangeMethods.DeclareOk()

    def _delete_exchange(self, channel: Channel, method: ExchangeMethods.Delete, now: float) -> Frame:
        self._vhost.delete_exchange(method)
        return ExchangeMethods.DeleteOk()


def _not_open(number: int) -> ConnectionFault:
    return ConnectionFault(Code.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}")
