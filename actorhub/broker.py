"""The port: what ActorHub asks of a broker.

A `Broker` knows where its server is. `connect` gives a `Link`: one life of the connection, for data. A link that is lost
stays lost; the session opens another. Administration (purge, peek, list) opens short-lived connections of its own, so
that it never shares a fate with data. Adapters are found by URL scheme among the entry points of the group `actorhub.brokers`.

Everything runs on one event loop and its callbacks never block. A callback that raises is a defect: it is logged and the
link goes on.
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
    CLASSIC = "classic"
    QUORUM = "quorum"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Queue:
    """What a queue shall be; the adapter chooses the arguments by the server's version. Every queue is durable.

    `expires` and `message_ttl` are seconds, `limit` counts messages (the next publish is refused; a quorum queue may take
    hundreds that are under way), `retention` is bytes (streams only), `delivery_limit` bounds redeliveries (quorum only; None:
    without limit). What a quorum queue sends to `dead_letter_to` is not lost on the way: it stays until the other queue has
    it. A classic queue does not wait for that.
    """

    name: str
    kind: QueueKind = QueueKind.CLASSIC
    single_active: bool = False
    limit: int | None = None
    expires: float | None = None
    message_ttl: float | None = None
    dead_letter_to: str | None = None  # a queue's name
    delivery_limit: int | None = None
    retention: int | None = None


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many messages wait (those delivered and not acknowledged are not counted), and how many consumers there are."""

    messages: int
    consumers: int


@dataclass(slots=True)
class Message:
    """A message's body and the AMQP properties that we use. `expiration` is seconds. Not every client writes floats into
    headers; put them there as text."""

    body: bytes
    content_type: str | None = None
    persistent: bool = True
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    type: str | None = None
    priority: int | None = None
    expiration: float | None = None
    headers: dict[str, Any] | None = None


class Outcome(Enum):
    """What became of a publish. Only STORED means that the broker has taken responsibility."""

    STORED = "stored"
    UNROUTABLE = "unroutable"  # no queue is there; of a broadcast: its exchange cannot be had
    REFUSED = "refused"  # the queue is at its limit
    LOST = "lost"  # the link was lost before the broker said: it may or may not have the message


class Delivery(ABC):
    """A message that this consumer holds until it acknowledges it."""

    __slots__ = ("message", "offset", "redelivered")

    message: Message
    redelivered: bool
    offset: int | None  # in a stream

    @abstractmethod
    def ack(self) -> None:
        """Done with it. Does nothing once the consumer has ended: the broker has taken the message back."""

    @abstractmethod
    def reject(self, *, requeue: bool) -> None:
        """Give it back (requeue), or let the broker drop or dead-letter it. Does nothing once the consumer has ended."""


class Consumer(ABC):
    """Takes messages of one queue, on a channel of its own."""

    @abstractmethod
    async def stop(self) -> None:
        """Take no more messages. Those in hand can still be acknowledged, or given back, until `close`. Not for a single active
        consumer, whose successor would begin before what is in hand is acknowledged."""

    @abstractmethod
    async def close(self) -> None:
        """End without `basic.cancel`: what is not acknowledged goes back to the queue, in order, before the next
        consumer starts. `on_end` is not called. Does nothing the second time."""


class Link(ABC):
    """One life of the connection, with a publishing and a consuming side that fail as one."""

    server: str  # product and version, for people
    max_message: int  # bytes of a body
    priorities: (
        int  # that a quorum queue tells apart; 1: all are alike. Where there are 2, those above 4 are the high ones
    )
    lost: BaseException | None  # why, once it is

    @abstractmethod
    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Send, with `mandatory` and a confirm. `settled` is called once, later, in the order of publishing where the
        broker confirms in order; at the latest when the link ends (LOST)."""

    @abstractmethod
    def broadcast(self, exchange: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Send to every queue that is subscribed to the exchange, with a confirm; where none is, it is STORED all the same.
        REFUSED where one of them refused it: others may have it. Broadcasts to one exchange keep their order; the first over
        a link leaves once the exchange is known to be there, so a `publish` that comes later may overtake it."""

    @abstractmethod
    async def subscribe(self, queue: str, exchange: str) -> None:
        """The queue from now on also gets what is broadcast to this durable fanout exchange, which is made where it is
        missing. Once is enough, for as long as the queue lives.

        Raises:
            ActorNotFound: no such queue.
            BrokerUnavailable: the link was lost.
            ValueError: the exchange exists and is another kind of exchange.
        """

    @abstractmethod
    async def declare(self, queue: Queue) -> None:
        """Make the queue, or find it as it is.

        Raises:
            BrokerUnavailable: the link was lost.
            ValueError: the queue exists with other arguments.
        """

    @abstractmethod
    async def delete(self, queue: str, *, only_if_empty: bool = False) -> bool:
        """True once the queue is not there. False where it was to be deleted only if empty, and is not; that is for classic
        queues: RabbitMQ closes the connection of who asks it of another."""

    @abstractmethod
    async def state(self, queue: str) -> QueueState | None:
        """None where there is no such queue."""

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
        """Take messages with manual acknowledgement, at most `prefetch` unacknowledged.

        `on_end(reason)` is called once if the consumer ends and nobody here closed it: its queue was deleted, the broker
        cancelled it, its channel or its link was lost. `offset` (`first`, `last`, `next` or a number) is for streams.

        Raises:
            ActorNotFound: no such queue.
            BrokerUnavailable: the link was lost.
        """

    @abstractmethod
    async def close(self) -> None:
        """Send what is buffered and close; `on_lost` is not called. Publishes without a confirm settle as LOST."""


async def publish_confirmed(link: Link, queue: str, message: Message) -> Outcome:
    """Publish, and wait for the outcome."""
    confirmed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settled(outcome: Outcome) -> None:
        if not confirmed.done():  # the caller may have been cancelled
            confirmed.set_result(outcome)

    link.publish(queue, message, settled)
    return await confirmed


class Broker(ABC):
    """A broker by URL. Making one connects to nothing."""

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
        """One attempt, without retry. `name` is shown by the broker's tools. `on_lost` is called once when the link ends
        and nobody here closed it; after all its publishes have been settled and all its consumers ended. `on_blocked` has
        the broker's reason while it takes no publishes (memory or disk alarm), and None when it does again.

        Raises:
            BrokerUnavailable: with the URL (password hidden), the cause and what to do. `exc.permanent` is True where
                trying again is of no use: wrong password, wrong vhost.
        """

    @abstractmethod
    async def purge(self, queue: str) -> int:
        """Drop what waits in the queue; returns how many.

        Raises:
            ActorNotFound: no such queue.
        """

    @abstractmethod
    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[tuple[int, Message]]:
        """The oldest messages of a stream that have this offset or a later one, each with its offset. They stay where they
        are. What comes while one looks may be missing. Empty where there is no such queue.

        Raises:
            BrokerUnavailable: it cannot be reached, or the connection was lost.
        """

    @abstractmethod
    async def end_offset(self, queue: str) -> int:
        """The offset that a stream's next message would have had while one looked, however fast it grows; 0 where there is
        no such queue.

        Raises:
            BrokerUnavailable: it cannot be reached, or the connection was lost.
        """


def open_broker(url: str) -> Broker:
    """The adapter for the URL's scheme.

    Raises:
        BrokerUnavailable: no adapter speaks it.
    """
    scheme = urlsplit(url).scheme
    found = {entry.name: entry for entry in entry_points(group="actorhub.brokers")}
    if scheme not in found:
        known = ", ".join(f"{name}://" for name in sorted(found)) or "none is installed"
        raise BrokerUnavailable(f"no broker speaks {scheme!r}; use one of: {known}")
    adapter: type[Broker] = found[scheme].load()
    return adapter(url)


class LocalServer(ABC):
    """A broker of one's own on this machine, for tests and local clusters. Found among the entry points of the group
    `actorhub.servers`. It ends with the process that started it, at the latest. Calls block; use a thread from async code."""

    url: str  # once started

    @staticmethod
    def available() -> bool:
        """Whether this machine has what it needs."""
        return True

    @abstractmethod
    def start(self) -> None:
        """Returns when it takes connections.

        Raises:
            BrokerUnavailable: it is not installed, or did not start.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it and remove what it kept."""


def open_server(name: str) -> LocalServer:
    """A server by name, not started.

    Raises:
        BrokerUnavailable: none has the name.
    """
    found = {entry.name: entry for entry in entry_points(group="actorhub.servers")}
    if name not in found:
        raise BrokerUnavailable(f"no server is called {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
    server: type[LocalServer] = found[name].load()
    return server()
