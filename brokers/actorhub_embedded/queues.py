"""Classic and quorum queues: what waits, in order, and who gets it next. Pure; `now` is seconds.

A queue knows nothing of connections. It hands `(consumer, entry)` out, and takes entries back.
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
HIGH = 5  # the lowest priority that goes first in a quorum queue
TURNS = 3  # of which a normal message has one where high ones wait, too


class QueueArguments(BaseModel):
    """The arguments of `queue.declare` that are supported; any other is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Literal["classic", "quorum", "stream"] = Field("classic", alias="x-queue-type")
    expires: int | None = Field(None, alias="x-expires", gt=0)
    message_ttl: int | None = Field(None, alias="x-message-ttl", ge=0)
    max_length: int | None = Field(None, alias="x-max-length", ge=0)
    max_length_bytes: int | None = Field(None, alias="x-max-length-bytes", ge=0)
    max_segment_size: int | None = Field(
        None, alias="x-stream-max-segment-size-bytes", gt=0
    )  # there are no segments here
    overflow: Overflow = Field("drop-head", alias="x-overflow")
    dead_letter_exchange: str | None = Field(None, alias="x-dead-letter-exchange")
    dead_letter_routing_key: str | None = Field(None, alias="x-dead-letter-routing-key")
    dead_letter_strategy: Strategy = Field("at-most-once", alias="x-dead-letter-strategy")
    single_active: bool = Field(False, alias="x-single-active-consumer")
    delivery_limit: int | None = Field(None, alias="x-delivery-limit")
    max_priority: int | None = Field(None, alias="x-max-priority", ge=1, le=255)
    consumer_timeout: int | None = Field(None, alias="x-consumer-timeout", gt=0)

    @property
    def keeps_letters(self) -> bool:
        """Whether dead letters stay until somebody has taken them. RabbitMQ, too, needs all three for it."""
        return (self.kind, self.dead_letter_strategy, self.overflow) == ("quorum", "at-least-once", "reject-publish")

    @property
    def is_limited(self) -> bool:
        return self.max_length is not None or self.max_length_bytes is not None


class Entry:
    """One message in one queue. `position` keeps its place when it comes back."""

    __slots__ = ("deliveries", "expires_at", "message", "position", "redelivered")

    def __init__(self, message: Message, position: int, expires_at: float | None) -> None:
        self.message = message
        self.position = position
        self.expires_at = expires_at
        self.redelivered = False
        self.deliveries = 0  # that ended without an acknowledgement


class Consumer:
    """One subscription. `prefetch` 0 is without limit."""

    __slots__ = ("at", "channel", "connection", "exclusive", "in_hand", "no_ack", "paused", "prefetch", "queue", "tag")

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
        self.in_hand = 0
        self.paused = False  # its connection does not read
        self.at = 0  # the offset of a stream's next message

    @property
    def has_room(self) -> bool:
        return not self.paused and (not self.prefetch or self.in_hand < self.prefetch)


class Queue:
    """`size` is the bytes of all that it holds, with what is in consumers' hands."""

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
        self.unused_since: float | None = now
        self._ready: dict[int, deque[Entry]] = {0: deque()}  # by priority
        self._levels = [0]  # the priorities that there are, highest first
        self._next = 0
        self._turn = 0  # of TURNS, in a quorum queue
        self._waiting_bytes = 0

    def __len__(self) -> int:
        """Messages that wait; those in hand are not counted."""
        return sum(len(entries) for entries in self._ready.values())

    # ---- in

    def is_full(self) -> bool:
        """Whether one more would be past a limit."""
        arguments = self.arguments
        if arguments.max_length is not None and len(self) >= arguments.max_length:
            return True
        return arguments.max_length_bytes is not None and self._waiting_bytes >= arguments.max_length_bytes

    def is_overfull(self) -> bool:
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

    def give_back(self, entry: Entry, *, last: bool = False) -> None:
        """It was not acknowledged. It takes its old place, or the last one."""
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
    def refused_go_last(self) -> bool:
        """What a consumer gives back goes behind all that waits, as in RabbitMQ's quorum queues without a delivery limit.
        What comes back because its consumer is gone takes its old place there, too."""
        return self.arguments.kind == "quorum" and self._delivery_limit is None

    def done(self, entry: Entry) -> None:
        """It has left for good."""
        self.size -= entry.message.size

    def is_spent(self, entry: Entry) -> bool:
        """Whether it has come back more often than the delivery limit allows."""
        limit = self._delivery_limit
        return self.arguments.kind == "quorum" and limit is not None and entry.deliveries > limit

    @property
    def _delivery_limit(self) -> int | None:
        """20 where nothing was said, as in RabbitMQ 4; -1 is none."""
        if self.arguments.kind != "quorum":
            return None
        limit = 20 if self.arguments.delivery_limit is None else self.arguments.delivery_limit
        return None if limit < 0 else limit

    def _level_of(self, message: Message) -> deque[Entry]:
        highest = self.arguments.max_priority
        if self.arguments.kind == "quorum":
            level = int(message.priority >= HIGH)
        elif highest is None:
            return self._ready[0]
        else:
            level = min(message.priority, highest)
        if level not in self._ready:
            self._ready[level] = deque()
            self._levels = sorted(self._ready, reverse=True)
        return self._ready[level]

    # ---- out

    def head(self) -> Entry | None:
        entries = self._front()
        return entries[0] if entries else None

    def pop(self) -> Entry | None:
        entries = self._front()
        if not entries:
            return None
        self._turn = (self._turn + 1) % TURNS
        entry = entries.popleft()
        self._waiting_bytes -= len(entry.message.body)
        return entry

    def _front(self) -> deque[Entry] | None:
        """Where the next message is: at the highest level; in a quorum queue each third turn is that of the older one."""
        filled = (entries for level in self._levels if (entries := self._ready[level]))
        if self.arguments.kind == "quorum" and self._turn == TURNS - 1:
            return min(filled, key=lambda entries: entries[0].position, default=None)
        return next(filled, None)

    def pop_expired(self, now: float) -> Iterator[Entry]:
        """Those at the head whose time is over."""
        for level in self._levels:
            entries = self._ready[level]
            while entries and (expires_at := entries[0].expires_at) is not None and expires_at <= now:
                entry = entries.popleft()
                self._waiting_bytes -= len(entry.message.body)
                yield entry

    def purge(self) -> int:
        count = 0
        while (entry := self.pop()) is not None:
            self.done(entry)
            count += 1
        return count

    def deliver(self) -> Iterator[tuple[Consumer, Entry]]:
        """Messages for consumers that have room, in turns; for the active one alone where there is to be one."""
        while self.consumers and self.head() is not None:
            consumer = self._next_consumer()
            if consumer is None:
                return
            entry = self.pop()
            assert entry is not None
            if not consumer.no_ack:
                consumer.in_hand += 1
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
        """It was declared again or looked into: it is in use."""
        if self.unused_since is not None:
            self.unused_since = now

    def is_expired(self, now: float) -> bool:
        expires = self.arguments.expires
        return expires is not None and self.unused_since is not None and now - self.unused_since >= expires / 1000

    @property
    def is_timed(self) -> bool:
        """Whether time alone can change it."""
        head = self.head()
        return (
            self.arguments.expires is not None
            or self.arguments.message_ttl is not None
            or (head is not None and head.expires_at is not None)
        )
