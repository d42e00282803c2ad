"""Port for message brokers: the interface that an adapter implements.

A `Broker` has the server's URL. Its `connect` opens a `Link`, a connection for data. A lost link stays lost; the session opens
another one. Administration (purge, peek) uses short-lived connections of its own, so that neither side disturbs the other.
Adapters are found by URL scheme among the entry points of the group `actorhub.brokers`.

Everything runs on one event loop, and callbacks never block. A callback that raises is a defect: it is logged, and the link
stays open.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from actorhub.errors import BrokerUnavailable


class QueueKind(StrEnum):
    """Type of a queue, as RabbitMQ names it."""

    CLASSIC = "classic"
    QUORUM = "quorum"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Queue:
    """Declaration of a durable queue. The adapter chooses the arguments by the server's version."""

    name: str
    kind: QueueKind = QueueKind.CLASSIC
    single_active: bool = False
    """True if only one consumer at a time gets messages; the others stand by."""
    limit: int | None = None
    """Most waiting messages; further publishes are refused. A quorum queue may store hundreds more that were published before
    it refused one."""
    expires: float | None = None
    """Seconds without use after which the queue is deleted."""
    message_ttl: float | None = None
    """Seconds after which a waiting message dies."""
    dead_letter_to: str | None = None
    """Name of the queue that gets dead messages. A quorum queue keeps each until that queue has it; a classic queue may lose
    it on the way."""
    delivery_limit: int | None = None
    """Redeliveries after which a message dies; None is without limit. Quorum queues only."""
    retention: int | None = None
    """Bytes that are kept. Streams only."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """Depth and consumers of a queue."""

    messages: int
    """Waiting messages; delivered and unacknowledged ones are not counted."""
    consumers: int


@dataclass(slots=True)
class Message:
    """A message: its body and the AMQP properties in use."""

    body: bytes
    content_type: str | None = None
    persistent: bool = True
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    type: str | None = None
    priority: int | None = None
    expiration: float | None = None
    """Seconds after which it dies in a queue."""
    headers: dict[str, Any] | None = None
    """Floats go in as text: not every client can read or write them."""


class Outcome(Enum):
    """Result of a publish. Only STORED means that the broker has taken responsibility for the message."""

    STORED = "stored"
    UNROUTABLE = "unroutable"
    """There is no such queue; for a broadcast: its exchange cannot be declared."""
    REFUSED = "refused"
    """The queue is at its limit."""
    LOST = "lost"
    """The link was lost before the broker confirmed: it may or may not have the message."""


class Delivery(ABC):
    """A delivered message, to be acknowledged or rejected."""

    __slots__ = ("message", "offset", "redelivered")

    message: Message
    redelivered: bool
    offset: int | None
    """Its offset, if the queue is a stream."""

    @abstractmethod
    def ack(self) -> None:
        """Acknowledge the message. Does nothing after the consumer has ended: the broker has taken the message back."""

    @abstractmethod
    def reject(self, *, requeue: bool) -> None:
        """Return the message to its queue, or let the broker drop or dead-letter it.

        Does nothing after the consumer has ended.
        """


class Consumer(ABC):
    """A consumer of one queue, on a channel of its own."""

    @abstractmethod
    async def stop(self) -> None:
        """Take no more messages. Delivered ones can still be acknowledged or rejected, until `close`.

        Not for a single active consumer: its successor would start before the delivered messages are acknowledged.
        """

    @abstractmethod
    async def close(self) -> None:
        """End without `basic.cancel`: unacknowledged messages return to the queue, in order, before the next consumer starts.

        `on_end` is not called. A second call does nothing.
        """


class Link(ABC):
    """A connection for data. Its publishing and its consuming side fail as one."""

    server: str
    """The server's product and version, for people."""
    max_message: int
    """Largest body in bytes."""
    priorities: int
    """Priority levels of a quorum queue: 1 if all are alike, 2 if priorities above 4 are high ones."""
    lost: BaseException | None
    """The cause, once the link is lost."""

    @abstractmethod
    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Publish to a queue, with a confirm.

        Args:
            queue: the queue's name.
            message: the message.
            settled: called once with the outcome, never before this method returns; in the order of publishing as far as the
                broker confirms in order, and with LOST if the link ends first.
        """

    @abstractmethod
    def broadcast(self, exchange: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Publish to all queues that are subscribed to an exchange, with a confirm.

        Broadcasts to one exchange keep their order. A link's first one waits for the exchange's declaration, so a later
        `publish` may overtake it.

        Args:
            exchange: the exchange's name.
            message: the message.
            settled: called once with the outcome, as for `publish`: STORED also if no queue is subscribed, REFUSED if one of
                the queues refused it, while others may have it.
        """

    @abstractmethod
    async def subscribe(self, queue: str, exchange: str) -> None:
        """Bind a queue to a durable fanout exchange, which is declared if it is missing.

        The binding lasts as long as the queue; binding again changes nothing.

        Raises:
            ActorNotFound: no such queue.
            BrokerUnavailable: the link was lost.
            ValueError: the exchange exists with another type.
        """

    @abstractmethod
    async def declare(self, queue: Queue) -> None:
        """Create a queue; does nothing if it exists with the same arguments.

        Raises:
            BrokerUnavailable: the link was lost.
            ValueError: the queue exists with other arguments.
        """

    @abstractmethod
    async def delete(self, queue: str, *, only_if_empty: bool = False) -> bool:
        """Delete a queue; True also if there was none.

        Args:
            queue: the queue's name.
            only_if_empty: leave a queue that is not empty and return False. Classic queues only: for others, RabbitMQ closes
                the connection.
        """

    @abstractmethod
    async def state(self, queue: str) -> QueueState | None:
        """Depth and consumers of a queue; None if there is no such queue."""

    @abstractmethod
    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        on_end: Callable[[str], None],
        *,
        prefetch: int,
        offset: int | str | None = None,
    ) -> Consumer:
        """Consume a queue with manual acknowledgement.

        Args:
            queue: the queue's name.
            on_delivery: called with each message.
            on_end: called once with the reason if the consumer ends before `Consumer.close`: its queue was deleted, the broker
                cancelled it, or its channel or link was lost.
            prefetch: most unacknowledged messages; 0 is without limit.
            offset: where to begin in a stream: `first`, `last`, `next` or a number.

        Raises:
            ActorNotFound: no such queue.
            BrokerUnavailable: the link was lost.
        """

    @abstractmethod
    async def close(self) -> None:
        """Send what is buffered and close. Unconfirmed publishes settle as LOST; `on_lost` is not called."""


async def publish_confirmed(link: Link, queue: str, message: Message) -> Outcome:
    """Publish to a queue, and wait for the outcome."""
    confirmed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settled(outcome: Outcome) -> None:
        if not confirmed.done():  # the caller may have been cancelled
            confirmed.set_result(outcome)

    link.publish(queue, message, settled)
    return await confirmed


class Broker(ABC):
    """A broker, by its URL. Creating one opens no connection."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def connect(
        self,
        *,
        name: str,
        on_lost: Callable[[BaseException], None],
        on_blocked: Callable[[str | None], None],
    ) -> Link:
        """Open a link: one attempt, without retries.

        Args:
            name: shown by the broker's tools.
            on_lost: called once with the cause if the link ends before `Link.close`, after all its publishes were settled and
                all its consumers have ended.
            on_blocked: called with the broker's reason while it takes no publishes (memory or disk alarm), and with None when
                it takes them again.

        Raises:
            BrokerUnavailable: with the URL (password hidden), the cause and what to do. `exc.permanent` is True if another
                attempt would fail too: wrong password or virtual host.
        """

    @abstractmethod
    async def purge(self, queue: str) -> int:
        """Remove all waiting messages of a queue; returns how many.

        Raises:
            ActorNotFound: no such queue.
        """

    @abstractmethod
    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[tuple[int, Message]]:
        """Read a stream without a consumer of one's own; removes nothing.

        Args:
            queue: the stream's name.
            limit: most messages.
            offset: the offset to begin at.

        Returns:
            The oldest messages from that offset on, each with its offset. Messages published during the call may be missing.
            Empty if there is no such queue.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or the connection was lost.
        """

    @abstractmethod
    async def end_offset(self, queue: str) -> int:
        """The offset after a stream's last message, at a moment of the call; 0 if there is no such queue.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or the connection was lost.
        """


def open_broker(url: str) -> Broker:
    """The broker at a URL, by the adapter for its scheme.

    Raises:
        BrokerUnavailable: no adapter for the scheme is installed.
    """
    scheme = urlsplit(url).scheme
    found = {entry.name: entry for entry in entry_points(group="actorhub.brokers")}
    if scheme not in found:
        known = ", ".join(f"{name}://" for name in sorted(found)) or "none"
        raise BrokerUnavailable(f"no installed adapter supports {scheme!r} URLs; installed: {known}")
    adapter: type[Broker] = found[scheme].load()
    return adapter(url)


class LocalServer(ABC):
    """A private broker on this machine, for tests and local clusters.

    It ends at the latest with the process that started it. Its methods block; call them in a thread from async code. Found
    among the entry points of the group `actorhub.servers`.
    """

    url: str
    """Its URL, after `start`."""

    @staticmethod
    def available() -> bool:
        """True if this machine has the software that it needs."""
        return True

    @abstractmethod
    def start(self) -> None:
        """Start the broker; returns when it accepts connections.

        Raises:
            BrokerUnavailable: the software is not installed, or the broker did not start.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop the broker and delete its data."""


def open_server(name: str) -> LocalServer:
    """A private broker by its kind's name, not started.

    Raises:
        BrokerUnavailable: no kind has the name.
    """
    found = {entry.name: entry for entry in entry_points(group="actorhub.servers")}
    if name not in found:
        raise BrokerUnavailable(f"no server is called {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
    server: type[LocalServer] = found[name].load()
    return server()
