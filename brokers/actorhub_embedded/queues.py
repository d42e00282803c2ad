"""Classic and quorum queues: waiting messages in order, and the consumers that get them. Pure; `now` is Unix time in seconds.

A queue knows no connections: it yields pairs of a consumer and an entry, and entries are acknowledged or requeued later.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from actorhub_embedded.messages import Message

Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
Strategy = Literal["at-most-once", "at-least-once"]
HIGH_PRIORITY = 5  # the lowest of a quorum queue's high priorities
PRIORITY_CYCLE = 3  # deliveries of a quorum queue, of which the last goes to the oldest message of any priority


class QueueArguments(BaseModel):
    """The supported arguments of `queue.declare`. Durations are milliseconds, sizes are bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Literal["classic", "quorum", "stream"] = Field("classic", alias="x-queue-type")
    expires: int | None = Field(None, alias="x-expires", gt=0)
    message_ttl: int | None = Field(None, alias="x-message-ttl", ge=0)
    max_length: int | None = Field(None, alias="x-max-length", ge=0)
    max_length_bytes: int | None = Field(None, alias="x-max-length-bytes", ge=0)
    # accepted without effect: a stream has no segments here
    max_segment_size: int | None = Field(None, alias="x-stream-max-segment-size-bytes", gt=0)
    overflow: Overflow = Field("drop-head", alias="x-overflow")
    dead_letter_exchange: str | None = Field(None, alias="x-dead-letter-exchange")
    dead_letter_routing_key: str | None = Field(None, alias="x-dead-letter-routing-key")
    dead_letter_strategy: Strategy = Field("at-most-once", alias="x-dead-letter-strategy")
    single_active: bool = Field(False, alias="x-single-active-consumer")
    delivery_limit: int | None = Field(None, alias="x-delivery-limit")
    max_priority: int | None = Field(None, alias="x-max-priority", ge=1, le=255)
    consumer_timeout: int | None = Field(None, alias="x-consumer-timeout", gt=0)

    @property
    def keeps_dead_letters(self) -> bool:
        """True if a dead message stays until another queue has it. RabbitMQ requires the same three arguments."""
        return (self.kind, self.dead_letter_strategy, self.overflow) == ("quorum", "at-least-once", "reject-publish")

    @property
    def is_limited(self) -> bool:
        return self.max_length is not None or self.max_length_bytes is not None


class Entry:
    """A message in a queue.

    Args:
        message: the message; other queues may have it too.
        position: its place in the queue, which it has again when it is requeued.
        expires_at: when it expires; None if it does not.
    """

    __slots__ = ("deliveries", "expires_at", "message", "position", "redelivered")

    def __init__(self, message: Message, position: int, expires_at: float | None) -> None:
        self.message = message
        self.position = position
        self.expires_at = expires_at
        self.redelivered = False
        self.deliveries = 0
        """Deliveries that ended without an acknowledgement."""


class Consumer:
    """A consumer of a queue.

    Args:
        connection: number of its connection.
        channel: number of its channel on that connection.
        tag: its consumer tag.
        queue: the queue's name.
        prefetch: most unacknowledged messages; 0 is without limit.
        no_ack: True if its messages need no acknowledgement.
        exclusive: True if the queue may have no other consumer.
    """

    __slots__ = (
        "channel",
        "connection",
        "exclusive",
        "no_ack",
        "offset",
        "paused",
        "prefetch",
        "queue",
        "tag",
        "unacknowledged",
    )

    def __init__(
        self, connection: int, channel: int, tag: str, queue: str, *, prefetch: int, no_ack: bool, exclusive: bool
    ) -> None:
        self.connection = connection
        self.channel = channel
        self.tag = tag
        self.queue = queue
        self.prefetch = 0 if no_ack else prefetch
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.unacknowledged = 0
        self.paused = False
        """True while its client does not read."""
        self.offset = 0
        """Offset of the next message, if the queue is a stream."""

    @property
    def has_room(self) -> bool:
        """True if it may get another message."""
        return not self.paused and (not self.prefetch or self.unacknowledged < self.prefetch)


class Queue:
    """A classic or quorum queue.

    Args:
        name: the queue's name.
        arguments: the arguments that it was declared with.
        durable: as declared; nothing survives the broker here.
        auto_delete: True if it is deleted with its last consumer.
        exclusive_to: number of the only connection that may use it; None if all may.
        now: when it is declared.
    """

    def __init__(
        self,
        name: str,
        arguments: QueueArguments,
        *,
        durable: bool,
        auto_delete: bool,
        exclusive_to: int | None,
        now: float,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.durable = durable
        self.auto_delete = auto_delete
        self.exclusive_to = exclusive_to
        self.consumers: list[Consumer] = []
        self.size = 0
        """Bytes of its messages, delivered and unacknowledged ones included."""
        self.unused_since: float | None = now
        """When it was last used; None while it has consumers."""
        self._ready: dict[int, deque[Entry]] = {0: deque()}  # waiting messages by priority level
        self._levels = [0]  # the keys of `_ready`, highest first
        self._next = 0  # the next message's position
        self._turn = 0  # deliveries modulo PRIORITY_CYCLE
        self._waiting_bytes = 0

    def __len__(self) -> int:
        """Waiting messages; delivered ones are not counted."""
        return sum(len(entries) for entries in self._ready.values())

    # ---- adding

    def is_full(self) -> bool:
        """True if it has no room for another message."""
        arguments = self.arguments
        if arguments.max_length is not None and len(self) >= arguments.max_length:
            return True
        return arguments.max_length_bytes is not None and self._waiting_bytes >= arguments.max_length_bytes

    def is_overfull(self) -> bool:
        """True if it has more than its limits allow."""
        arguments = self.arguments
        if arguments.max_length is not None and len(self) > arguments.max_length:
            return True
        return arguments.max_length_bytes is not None and self._waiting_bytes > arguments.max_length_bytes

    def push(self, message: Message, now: float) -> None:
        ttl = self.arguments.message_ttl
        limits = [limit for limit in (message.expiration, None if ttl is None else ttl / 1000) if limit is not None]
        entry = Entry(message, self._next, now + min(limits) if limits else None)
        self._next += 1
        self.size += message.size
        self._level_of(message).append(entry)
        self._waiting_bytes += len(message.body)

    def requeue(self, entry: Entry, *, last: bool = False) -> None:
        """Return a message that was not acknowledged to its old place, or to the end."""
        entry.redelivered = True
        if last:
            entry.position = self._next
            self._next += 1
        entries = self._level_of(entry.message)
        if not entries or entry.position > entries[-1].position:
            entries.append(entry)
        elif entry.position < entries[0].position:
            entries.appendleft(entry)
        else:
            at = bisect.bisect_left(entries, entry.position, key=lambda found: found.position)
            entries.insert(at, entry)
        self._waiting_bytes += len(entry.message.body)

    @property
    def rejected_go_last(self) -> bool:
        """True if messages that a consumer rejects and requeues go to the end, as in RabbitMQ's quorum queues without a
        delivery limit. Those whose consumer ended return to their old place in every queue."""
        return self.arguments.kind == "quorum" and self._delivery_limit is None

    def discard(self, entry: Entry) -> None:
        """Forget a message that was taken: it was acknowledged, or died."""
        self.size -= entry.message.size

    def exceeds_delivery_limit(self, entry: Entry) -> bool:
        """True if the message came back more often than the delivery limit allows."""
        limit = self._delivery_limit
        return self.arguments.kind == "quorum" and limit is not None and entry.deliveries > limit

    @property
    def _delivery_limit(self) -> int | None:
        """20 unless declared otherwise, as in RabbitMQ 4; None is without limit, declared as -1."""
        if self.arguments.kind != "quorum":
            return None
        limit = 20 if self.arguments.delivery_limit is None else self.arguments.delivery_limit
        return None if limit < 0 else limit

    def _level_of(self, message: Message) -> deque[Entry]:
        highest = self.arguments.max_priority
        if self.arguments.kind == "quorum":
            level = int(message.priority >= HIGH_PRIORITY)
        elif highest is None:
            return self._ready[0]
        else:
            level = min(message.priority, highest)
        if level not in self._ready:
            self._ready[level] = deque()
            self._levels = sorted(self._ready, reverse=True)
        return self._ready[level]

    # ---- taking

    def head(self) -> Entry | None:
        """The next message; None if none waits."""
        entries = self._front()
        return entries[0] if entries else None

    def pop(self) -> Entry | None:
        """Take the next message; None if none waits."""
        entries = self._front()
        if not entries:
            return None
        self._turn = (self._turn + 1) % PRIORITY_CYCLE
        entry = entries.popleft()
        self._waiting_bytes -= len(entry.message.body)
        return entry

    def _front(self) -> deque[Entry] | None:
        """The level with the next message: the highest one, but the oldest message's once in a quorum queue's cycle."""
        filled = (entries for level in self._levels if (entries := self._ready[level]))
        if self.arguments.kind == "quorum" and self._turn == PRIORITY_CYCLE - 1:
            return min(filled, key=lambda entries: entries[0].position, default=None)
        return next(filled, None)

    def pop_expired(self, now: float) -> Iterator[Entry]:
        """Take the messages at the head whose time is over."""
        for level in self._levels:
            entries = self._ready[level]
            while entries and (expires_at := entries[0].expires_at) is not None and expires_at <= now:
                entry = entries.popleft()
                self._waiting_bytes -= len(entry.message.body)
                yield entry

    def purge(self) -> int:
        """Remove all waiting messages; returns how many."""
        count = 0
        while (entry := self.pop()) is not None:
            self.discard(entry)
            count += 1
        return count

    def take_deliverable(self) -> Iterator[tuple[Consumer, Entry]]:
        """Take messages for consumers that have room: in turns, or for the single active one alone."""
        while self.consumers and self.head() is not None:
            consumer = self._next_consumer()
            if consumer is None:
                return
            entry = self.pop()
            assert entry is not None
            if not consumer.no_ack:
                consumer.unacknowledged += 1
            yield consumer, entry

    def _next_consumer(self) -> Consumer | None:
        if self.arguments.single_active:
            return self.consumers[0] if self.consumers[0].has_room else None
        for number, consumer in enumerate(self.consumers):
            if consumer.has_room:
                if len(self.consumers) > 1:
                    self.consumers.append(self.consumers.pop(number))
                return consumer
        return None

    # ---- consumers

    def add(self, consumer: Consumer) -> None:
        self.consumers.append(consumer)
        self.unused_since = None

    def remove(self, consumer: Consumer, now: float) -> None:
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            if not self.consumers:
                self.unused_since = now

    def touch(self, now: float) -> None:
        """Note a use that puts off its expiry: it was declared again, or read by `basic.get`."""
        if self.unused_since is not None:
            self.unused_since = now

    def is_expired(self, now: float) -> bool:
        """True if it was unused for as long as `x-expires` says."""
        expires = self.arguments.expires
        return expires is not None and self.unused_since is not None and now - self.unused_since >= expires / 1000

    @property
    def is_timed(self) -> bool:
        """True if it, or a message in it, may expire."""
        head = self.head()
        return (
            self.arguments.expires is not None
            or self.arguments.message_ttl is not None
            or (head is not None and head.expires_at is not None)
        )
