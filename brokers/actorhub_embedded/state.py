"""The embedded broker as a pure state machine: frames of clients in, frames for clients out. No I/O and no clock.

`receive` takes one method, `publish` one message; what follows is collected until `flush`, which lets queues deliver and
gives back all effects in order. `now` is Unix time in seconds and never goes back. A client's mistake closes its channel or
its connection as in RabbitMQ, and touches nobody else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue
from pydantic import ValidationError

from actorhub_embedded import exchanges, queues
from actorhub_embedded.errors import ChannelError, Code, ConnectionFault
from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, QueueArguments
from actorhub_embedded.streams import Stream

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
    """Everything that the broker knows. `memory_limit` is bytes; past it publishers are blocked."""

    def __init__(self, *, memory_limit: int = 1024**3, seed: int | None = None) -> None:
        self._memory_limit = memory_limit
        self._random = random.Random(seed)
        self._exchanges = {"": exchanges.Exchange("", "direct")} | {
            f"amq.{kind}": exchanges.Exchange(f"amq.{kind}", kind) for kind in exchanges.KINDS
        }
        self._queues: dict[str, queues.Queue] = {}
        self._connections: dict[int, _Connection] = {}
        self._dirty: dict[str, queues.Queue] = {}  # with something to deliver, perhaps
        self._unsettled: dict[_Channel, None] = {}
        self._effects: list[Effect] = []
        self._memory = 0
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
        for queue in [queue for queue in self._queues.values() if queue.exclusive_to == connection]:
            self._drop_queue(queue, now)

    def receive(self, connection: int, number: int, method: Frame, now: float) -> None:
        """One method of a client, but for those of the connection class and `basic.publish`."""
        found = self._connections.get(connection)
        if found is None:
            return
        try:
            self._receive(found, connection, number, method, now)
        except ConnectionFault as fault:
            self._effects.append(Close(connection, fault, method))
        except ChannelError as error:
            self._fail(found.channels[number], error, method, now)

    def publish(
        self, connection: int, number: int, method: Basic.Publish, header: bytes, body: bytes, now: float
    ) -> None:
        """One whole message of a client."""
        found = self._connections.get(connection)
        channel = found.channels.get(number) if found is not None else None
        if found is None or (channel is not None and channel.closing):
            return
        if channel is None:
            self._effects.append(Close(connection, _no_channel(number), method))
            return
        found.publishes = True
        try:
            self._publish(channel, method, header, body, now)
        except ChannelError as error:
            self._fail(channel, error, method, now)
        except ConnectionFault as fault:
            self._effects.append(Close(connection, fault, method))

    def refuse(self, connection: int, number: int, method: Basic.Publish, error: ChannelError, now: float) -> None:
        """A message that the server would not even read."""
        found = self._connections.get(connection)
        channel = found.channels.get(number) if found is not None else None
        if channel is not None and not channel.closing:
            self._fail(channel, error, method, now)

    def pause(self, connection: int, paused: bool) -> None:
        """The client does not read what it was sent: until it does, it gets nothing more."""
        found = self._connections.get(connection)
        if found is None:
            return
        found.paused = paused
        for channel in found.channels.values():
            for consumer in channel.consumers.values():
                consumer.paused = paused
                queue = self._queues.get(consumer.queue)
                if queue is not None:
                    self._dirty[queue.name] = queue

    def tick(self, now: float) -> None:
        """Time has passed: messages and queues expire."""
        for queue in list(self._queues.values()):
            if not queue.is_timed:
                continue
            self._expire(queue, now)
            if queue.is_expired(now):
                self._drop_queue(queue, now)

    def flush(self, now: float) -> list[Effect]:
        """All that follows of the commands so far."""
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for queue in dirty.values():
                self._deliver(queue, now)
        for channel in self._unsettled:
            self._confirm_settled(channel)
        self._unsettled.clear()
        self._watch_memory()
        effects, self._effects = self._effects, []
        return effects

    @property
    def memory(self) -> int:
        """Bytes that messages take."""
        return self._memory

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
            raise ConnectionFault(Code.NOT_IMPLEMENTED, f"the embedded broker does not support {method.name}")
        answer = handler(channel, method, now)
        if answer is not None and not getattr(method, "nowait", False):
            self._send(channel, answer)

    def _fail(self, channel: _Channel, error: ChannelError, method: Frame, now: float) -> None:
        self._drop_channel(channel, now)
        channel.closing = True
        self._connections[channel.connection].channels[channel.number] = channel
        self._send(channel, Channel.Close(error.code, error.text, *_ids(method)))

    def _close_channel(self, channel: _Channel, method: Channel.Close, now: float) -> Frame:
        self._drop_channel(channel, now)
        return Channel.CloseOk()

    def _channel_closed(self, channel: _Channel, method: Channel.CloseOk, now: float) -> None:
        self._connections[channel.connection].channels.pop(channel.number, None)

    def _drop_channel(self, channel: _Channel, now: float) -> None:
        """First its consumers go, so that nothing comes back to them; then what it held returns; then others take it."""
        if channel.settled:
            self._confirm_settled(channel)
        self._unsettled.pop(channel, None)
        consumers, channel.consumers = channel.consumers, {}
        for consumer in consumers.values():
            self._remove_consumer(consumer, now)
        held, channel.held = channel.held, {}
        self._give_all_back(list(held.values()), now)
        connection = self._connections.get(channel.connection)
        if connection is not None and connection.channels.get(channel.number) is channel:
            del connection.channels[channel.number]

    def _flow(self, channel: _Channel, method: Channel.Flow, now: float) -> Frame:
        if not method.active:
            raise ConnectionFault(
                Code.NOT_IMPLEMENTED, "the embedded broker does not stop by channel.flow; use a prefetch"
            )
        return Channel.FlowOk(True)

    def _send(self, channel: _Channel, method: Frame) -> None:
        self._effects.append(Send(channel.connection, channel.number, method))

    # ---- publishing

    def _confirm(self, channel: _Channel, method: Confirm.Select, now: float) -> Frame:
        channel.confirming = True
        return Confirm.SelectOk()

    def _publish(self, channel: _Channel, method: Basic.Publish, header: bytes, body: bytes, now: float) -> None:
        if method.immediate:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "immediate=true")
        exchange = self._exchange(method.exchange)
        if exchange.internal:
            raise ChannelError(Code.ACCESS_REFUSED, f"cannot publish to internal exchange '{exchange.name}'")
        message = Message(method.exchange, method.routing_key, header, body)
        try:
            _ = message.expiration
        except ValueError as exc:
            raise ChannelError(Code.PRECONDITION_FAILED, f"invalid expiration: {exc}") from exc
        if channel.confirming:
            channel.published += 1
        targets = self._route(exchange, message.routing_key)
        stored = [self._store(queue, message, now) for queue in targets]
        if not targets and method.mandatory:
            returned = Basic.Return(Code.NO_ROUTE, "NO_ROUTE", message.exchange, message.routing_key)
            self._effects.append(Send(channel.connection, channel.number, returned, header, body))
        if channel.confirming:
            channel.settled.append((channel.published, all(stored)))
            self._unsettled[channel] = None

    def _route(self, exchange: exchanges.Exchange, key: str) -> list[queues.Queue]:
        if not exchange.name:
            found = self._queues.get(key)
            return [] if found is None else [found]
        return [self._queues[name] for name in exchange.route(key)]

    def _store(self, queue: queues.Queue, message: Message, now: float) -> bool:
        """False where the queue refuses it."""
        if queue.arguments.max_length is not None or queue.arguments.max_length_bytes is not None:
            self._deliver(queue, now)
            if queue.arguments.overflow != "drop-head" and queue.is_full():
                if queue.arguments.overflow == "reject-publish-dlx":
                    self._dead_letter(queue, message, "maxlen", now)
                return False
        before = queue.size
        queue.push(message, now)
        self._memory += queue.size - before
        while queue.is_overfull() and (dropped := queue.pop()) is not None:
            self._leave(queue, dropped)
            self._dead_letter(queue, dropped.message, "maxlen", now)
        self._dirty[queue.name] = queue
        return True

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
        self._expire(queue, now)
        for consumer, entry in queue.deliver():
            channel = self._connections[consumer.connection].channels[consumer.channel]
            channel.last_tag += 1
            message = entry.message
            if consumer.no_ack:
                self._leave(queue, entry)
            else:
                channel.held[channel.last_tag] = _Held(queue, entry, consumer)
            method = Basic.Deliver(
                consumer.tag, channel.last_tag, entry.redelivered, message.exchange, message.routing_key
            )
            header = self._header(queue, entry)
            self._effects.append(Send(consumer.connection, consumer.channel, method, header, message.body))

    def _header(self, queue: queues.Queue, entry: Entry) -> bytes:
        if isinstance(queue, Stream):
            return entry.message.with_headers(**{"x-stream-offset": entry.position}).header
        if queue.arguments.kind == "quorum" and entry.deliveries:
            return entry.message.with_headers(**{"x-delivery-count": entry.deliveries}).header
        return entry.message.header

    def _get(self, channel: _Channel, method: Basic.Get, now: float) -> Frame | None:
        queue = self._queue(channel, method.queue)
        if isinstance(queue, Stream):
            raise ConnectionFault(Code.NOT_IMPLEMENTED, f"basic.get on stream '{queue.name}'; consume it")
        queue.touch(now)
        self._deliver(queue, now)
        entry = queue.pop()
        if entry is None:
            return Basic.GetEmpty()
        channel.last_tag += 1
        if method.no_ack:
            self._leave(queue, entry)
        else:
            channel.held[channel.last_tag] = _Held(queue, entry, None)
        message = entry.message
        answer = Basic.GetOk(channel.last_tag, entry.redelivered, message.exchange, message.routing_key, len(queue))
        header = self._header(queue, entry)
        self._effects.append(Send(channel.connection, channel.number, answer, header, message.body))
        return None

    # ---- acknowledging

    def _qos(self, channel: _Channel, method: Basic.Qos, now: float) -> Frame:
        if method.prefetch_size:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_:
            raise ConnectionFault(
                Code.NOT_IMPLEMENTED, "the embedded broker has a prefetch for each consumer, not a global one"
            )
        channel.prefetch = method.prefetch_count
        return Basic.QosOk()

    def _take(self, channel: _Channel, tag: int, multiple: bool) -> list[_Held]:
        """What the tags stand for; the channel no longer holds it."""
        if not multiple or tag not in channel.held:
            if multiple and (not tag or tag <= channel.last_tag):
                tags = [held for held in channel.held if not tag or held <= tag]
            elif tag in channel.held:
                tags = [tag]
            else:
                raise ChannelError(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
        else:
            tags = []
            for held in channel.held:
                tags.append(held)
                if held == tag:
                    break
        taken = [channel.held.pop(held) for held in tags]
        for one in taken:
            if one.consumer is not None:
                one.consumer.in_hand -= 1
            self._dirty[one.queue.name] = one.queue
        return taken

    def _ack(self, channel: _Channel, method: Basic.Ack, now: float) -> None:
        for held in self._take(channel, method.delivery_tag, method.multiple):
            self._leave(held.queue, held.entry)

    def _nack(self, channel: _Channel, method: Basic.Nack, now: float) -> None:
        self._refuse(self._take(channel, method.delivery_tag, method.multiple), method.requeue, now)

    def _reject(self, channel: _Channel, method: Basic.Reject, now: float) -> None:
        self._refuse(self._take(channel, method.delivery_tag or 0, False), method.requeue, now)

    def _recover(self, channel: _Channel, method: Basic.Recover, now: float) -> Frame:
        if not method.requeue:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "requeue=false")
        self._refuse(self._take(channel, 0, True), True, now)
        return Basic.RecoverOk()

    def _refuse(self, taken: list[_Held], requeue: bool, now: float) -> None:
        if requeue:
            self._give_all_back(taken, now)
            return
        for held in taken:
            self._leave(held.queue, held.entry)
            self._dead_letter(held.queue, held.entry.message, "rejected", now)

    def _give_all_back(self, taken: list[_Held], now: float) -> None:
        """Their order is kept: those that take their old places are put there from the last to the first, which is quick."""
        for held in reversed(taken):
            if not held.queue.gives_back_last:
                self._give_back(held, now)
        for held in taken:
            if held.queue.gives_back_last:
                self._give_back(held, now)

    def _give_back(self, held: _Held, now: float) -> None:
        queue, entry = held.queue, held.entry
        if self._queues.get(queue.name) is not queue:
            return  # it was deleted meanwhile
        entry.deliveries += 1
        if queue.is_spent(entry):
            self._leave(queue, entry)
            self._dead_letter(queue, entry.message, "delivery_limit", now)
        else:
            queue.give_back(entry)
        self._dirty[queue.name] = queue

    def _leave(self, queue: queues.Queue, entry: Entry) -> None:
        if self._queues.get(queue.name) is queue:
            before = queue.size
            queue.done(entry)
            self._memory += queue.size - before

    def _expire(self, queue: queues.Queue, now: float) -> None:
        for entry in queue.pop_expired(now):
            self._leave(queue, entry)
            self._dead_letter(queue, entry.message, "expired", now)

    def _dead_letter(self, queue: queues.Queue, message: Message, reason: str, now: float) -> None:
        name = queue.arguments.dead_letter_exchange
        exchange = self._exchanges.get(name) if name is not None else None
        if exchange is None:
            return
        dead = message.dead(queue.name, reason, now, exchange.name, queue.arguments.dead_letter_routing_key)
        for target in self._route(exchange, dead.routing_key):
            if not dead.died_in(target.name):
                self._store(target, dead, now)

    # ---- consuming

    def _consume(self, channel: _Channel, method: Basic.Consume, now: float) -> Frame | None:
        queue = self._queue(channel, method.queue)
        arguments = dict(method.arguments or {})
        offset = arguments.pop("x-stream-offset", None)
        if arguments:
            raise ConnectionFault(
                Code.NOT_IMPLEMENTED, f"the embedded broker does not support {_names(arguments)} here"
            )
        tag = method.consumer_tag or f"amq.ctag-{self._random.getrandbits(96):024x}"
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
            if not consumer.prefetch:
                raise ChannelError(
                    Code.PRECONDITION_FAILED,
                    "consumer prefetch count is not set and acknowledgements are needed for a stream",
                )
            try:
                queue.begin(consumer, offset)
            except ValueError as exc:
                raise ChannelError(Code.PRECONDITION_FAILED, str(exc)) from exc
        consumer.paused = self._connections[channel.connection].paused
        channel.consumers[tag] = consumer
        if not method.nowait:
            self._send(channel, Basic.ConsumeOk(tag))
        queue.add(consumer)
        self._dirty[queue.name] = queue
        return None

    def _cancel(self, channel: _Channel, method: Basic.Cancel, now: float) -> Frame:
        consumer = channel.consumers.pop(method.consumer_tag or "", None)
        if consumer is not None:
            self._remove_consumer(consumer, now)
        return Basic.CancelOk(method.consumer_tag)

    def _remove_consumer(self, consumer: Consumer, now: float) -> None:
        queue = self._queues.get(consumer.queue)
        if queue is None or consumer not in queue.consumers:
            return
        queue.remove(consumer, now)
        self._dirty[queue.name] = queue
        if queue.auto_delete and not queue.consumers:
            self._drop_queue(queue, now)

    # ---- queues

    def _queue(self, channel: _Channel, name: str) -> queues.Queue:
        name = name or channel.last_queue
        queue = self._queues.get(name)
        if queue is None:
            raise ChannelError(Code.NOT_FOUND, f"no queue '{name}' in vhost '/'")
        if queue.exclusive_to not in (None, channel.connection):
            raise ChannelError(
                Code.RESOURCE_LOCKED, f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'"
            )
        return queue

    def _declare_queue(self, channel: _Channel, method: Queue.Declare, now: float) -> Frame:
        name = method.queue
        if method.passive or name in self._queues:
            queue = self._queue(channel, name)
            if not method.passive:
                self._check_same(queue, method, channel)
            queue.touch(now)
        else:
            queue = self._make_queue(channel, method, now)
        channel.last_queue = queue.name
        self._deliver(queue, now)
        return Queue.DeclareOk(queue.name, len(queue), len(queue.consumers))

    def _make_queue(self, channel: _Channel, method: Queue.Declare, now: float) -> queues.Queue:
        name = method.queue or f"amq.gen-{self._random.getrandbits(128):032x}"
        if method.queue.startswith("amq."):
            raise ChannelError(Code.ACCESS_REFUSED, f"queue name '{name}' contains reserved prefix 'amq.*'")
        arguments = _arguments(method)
        exclusive_to = channel.connection if method.exclusive else None
        if arguments.kind != "classic" and (method.exclusive or method.auto_delete or not method.durable):
            raise ChannelError(
                Code.PRECONDITION_FAILED,
                f"a {arguments.kind} queue is durable, not exclusive and not deleted by itself",
            )
        if arguments.kind == "stream":
            queue: queues.Queue = Stream(name, arguments, now=now)
        else:
            queue = queues.Queue(
                name,
                arguments,
                durable=method.durable,
                auto_delete=method.auto_delete,
                exclusive_to=exclusive_to,
                now=now,
            )
        self._queues[name] = queue
        return queue

    def _check_same(self, queue: queues.Queue, method: Queue.Declare, channel: _Channel) -> None:
        wanted = _arguments(method).model_dump(by_alias=True)
        given = queue.arguments.model_dump(by_alias=True) | {
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "exclusive": queue.exclusive_to is not None,
        }
        wanted |= {"durable": method.durable, "auto_delete": method.auto_delete, "exclusive": method.exclusive}
        for name, value in wanted.items():
            if value != given[name]:
                raise ChannelError(
                    Code.PRECONDITION_FAILED,
                    f"inequivalent arg '{name}' for queue '{queue.name}' in vhost '/': received {value!r} but current is "
                    f"{given[name]!r}",
                )

    def _delete_queue(self, channel: _Channel, method: Queue.Delete, now: float) -> Frame:
        if (method.queue or channel.last_queue) not in self._queues:
            return Queue.DeleteOk(0)
        queue = self._queue(channel, method.queue)
        self._deliver(queue, now)
        if method.if_unused and queue.consumers:
            raise ChannelError(Code.PRECONDITION_FAILED, f"queue '{queue.name}' in vhost '/' in use")
        if method.if_empty and len(queue):
            raise ChannelError(Code.PRECONDITION_FAILED, f"queue '{queue.name}' in vhost '/' not empty")
        count = len(queue)
        self._drop_queue(queue, now)
        return Queue.DeleteOk(count)

    def _drop_queue(self, queue: queues.Queue, now: float) -> None:
        """Its consumers are told; what they hold counts for nothing any more."""
        if self._queues.pop(queue.name, None) is None:
            return
        self._dirty.pop(queue.name, None)
        self._memory -= queue.size
        for exchange in list(self._exchanges.values()):
            exchange.forget(queue.name)
            self._drop_if_unbound(exchange)
        for consumer in queue.consumers:
            connection = self._connections.get(consumer.connection)
            channel = connection.channels.get(consumer.channel) if connection is not None else None
            if channel is not None and channel.consumers.pop(consumer.tag, None) is not None:
                self._send(channel, Basic.Cancel(consumer.tag, True))
        queue.consumers.clear()

    def _purge(self, channel: _Channel, method: Queue.Purge, now: float) -> Frame:
        queue = self._queue(channel, method.queue)
        before = queue.size
        count = queue.purge()
        self._memory += queue.size - before
        return Queue.PurgeOk(count)

    # ---- exchanges

    def _exchange(self, name: str) -> exchanges.Exchange:
        found = self._exchanges.get(name)
        if found is None:
            raise ChannelError(Code.NOT_FOUND, f"no exchange '{name}' in vhost '/'")
        return found

    def _declare_exchange(self, channel: _Channel, method: Exchange.Declare, now: float) -> Frame:
        name, kind = method.exchange, method.exchange_type
        if method.passive:
            self._exchange(name)
            return Exchange.DeclareOk()
        if method.arguments or kind not in exchanges.KINDS:
            what = _names(method.arguments) if method.arguments else f"exchanges of type '{kind}'"
            raise ConnectionFault(Code.NOT_IMPLEMENTED, f"the embedded broker does not support {what}")
        found = self._exchanges.get(name)
        if found is not None:
            if not found.is_like(kind, method.durable, method.auto_delete, method.internal):
                raise ChannelError(
                    Code.PRECONDITION_FAILED,
                    f"inequivalent arg for exchange '{name}' in vhost '/': it is a {found.kind} one",
                )
        elif name.startswith("amq.") or not name:
            raise ChannelError(Code.ACCESS_REFUSED, f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self._exchanges[name] = exchanges.Exchange(
                name, kind, durable=method.durable, auto_delete=method.auto_delete, internal=method.internal
            )
        return Exchange.DeclareOk()

    def _delete_exchange(self, channel: _Channel, method: Exchange.Delete, now: float) -> Frame:
        if not method.exchange or method.exchange.startswith("amq."):
            raise ChannelError(Code.ACCESS_REFUSED, f"exchange '{method.exchange}' in vhost '/' may not be deleted")
        found = self._exchanges.get(method.exchange)
        if found is not None and method.if_unused and found.bindings:
            raise ChannelError(Code.PRECONDITION_FAILED, f"exchange '{method.exchange}' in vhost '/' in use")
        self._exchanges.pop(method.exchange, None)
        return Exchange.DeleteOk()

    def _bind(self, channel: _Channel, method: Queue.Bind, now: float) -> Frame:
        queue = self._queue(channel, method.queue)
        if not method.exchange:
            raise ChannelError(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
        if method.arguments:
            raise ConnectionFault(
                Code.NOT_IMPLEMENTED, f"the embedded broker does not support {_names(method.arguments)} here"
            )
        self._exchange(method.exchange).bind(queue.name, method.routing_key)
        return Queue.BindOk()

    def _unbind(self, channel: _Channel, method: Queue.Unbind, now: float) -> Frame:
        if not method.exchange:
            raise ChannelError(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
        queue = self._queue(channel, method.queue)
        exchange = self._exchange(method.exchange)
        exchange.unbind(queue.name, method.routing_key)
        self._drop_if_unbound(exchange)
        return Queue.UnbindOk()

    def _drop_if_unbound(self, exchange: exchanges.Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings:
            self._exchanges.pop(exchange.name, None)

    # ---- memory

    def _watch_memory(self) -> None:
        """Past the limit every connection that has published is blocked, until enough has been acknowledged."""
        if self._memory > self._memory_limit:
            self._alarm = True
        elif self._memory < LOW * self._memory_limit:
            self._alarm = False
        for number, connection in self._connections.items():
            if connection.publishes and connection.blocked != self._alarm:
                connection.blocked = self._alarm
                reason = f"low on memory: messages take {self._memory} of {self._memory_limit} bytes"
                self._effects.append(Block(number, reason if self._alarm else None))


def _arguments(method: Queue.Declare) -> QueueArguments:
    given = dict(method.arguments or {})
    try:
        arguments = QueueArguments.model_validate(given)
    except ValidationError as exc:
        unknown = [str(error["loc"][0]) for error in exc.errors() if error["type"] == "extra_forbidden"]
        if unknown:
            raise ConnectionFault(
                Code.NOT_IMPLEMENTED, f"the embedded broker does not support {', '.join(unknown)}"
            ) from exc
        first = exc.errors()[0]
        raise ChannelError(
            Code.PRECONDITION_FAILED, f"invalid arg '{first['loc'][0]}' for queue '{method.queue}': {first['msg']}"
        ) from exc
    if arguments.dead_letter_routing_key is not None and arguments.dead_letter_exchange is None:
        raise ChannelError(
            Code.PRECONDITION_FAILED,
            "routing_key_without_exchange: x-dead-letter-routing-key needs x-dead-letter-exchange",
        )
    return arguments


def _names(arguments: dict[str, Any]) -> str:
    return ", ".join(arguments)


def _no_channel(number: int) -> ConnectionFault:
    return ConnectionFault(Code.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}")


def _ids(method: Frame) -> tuple[int, int]:
    return method.frame_id, method.index & 0xFFFF
