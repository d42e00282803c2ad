"""A client: sends numbered messages with the real outbox, and sends them again over a new link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Channel

from actorhub.broker import Message, Outcome
from actorhub.messaging.outbox import ActorOutbox, OutgoingMessage
from actorhub.wire.envelope import Kind, decode
from tests.simulation.clock import Clock, Loop
from tests.simulation.network import INBOX, Arrival, Confirms, Connection, Server
from tests.simulation.process import Process

PUBLISH, REPLIES = 1, 2


@dataclass
class Sent:
    """A message, and what its sender knows about it."""

    id: str
    amount: int
    is_call: bool
    outgoing: OutgoingMessage | None = None
    stored: bool = False
    replies: list[str] = field(default_factory=list)


class _Link:
    """The part of a link that an outbox uses."""

    def __init__(self, confirms: Confirms) -> None:
        self._confirms = confirms
        self._settlers: dict[int, Callable[[Outcome], None]] = {}
        self._count = 0

    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        self._count += 1
        number = self._count
        self._settlers[number] = settled
        self._confirms.publish(
            queue,
            message.body,
            lambda: self._settlers.pop(number)(Outcome.STORED),
            content_type=message.content_type or "",
            persistent=message.persistent,
        )

    def lost(self) -> None:
        settlers, self._settlers = self._settlers, {}
        for settled in settlers.values():
            settled(Outcome.LOST)


class Client(Process):
    def __init__(self, name: str, clock: Clock, server: Server, lag: Callable[[], int]) -> None:
        super().__init__(name, clock)
        self.sent: list[Sent] = []
        self.queue = f"replies.{name}"
        self.forgotten = False
        """Its reply queue will have expired when it connects again."""
        self._server = server
        self._lag = lag
        self._outbox = ActorOutbox(INBOX, Loop(clock), numbered=True, limited=False)  # type: ignore[arg-type]
        self._connection: Connection | None = None
        self._confirms: Confirms | None = None
        self._link: _Link | None = None
        self._by_id: dict[str, Sent] = {}
        server.declare(self.queue)
        self.connect()

    # ---- sending

    def send(self, amount: int, is_call: bool) -> None:
        sent = Sent(f"{self.name}:{len(self.sent) + 1}", amount, is_call)
        self.sent.append(sent)
        self._by_id[sent.id] = sent
        fields: dict[str, Any] = {
            "id": sent.id,
            "kind": Kind.CALL if is_call else Kind.TELL,
            "method": "move",
            "sender": self.name,
            "reply_to": self.queue if is_call else "",
        }

        def settled(outcome: Outcome) -> None:
            sent.stored = outcome is Outcome.STORED

        sent.outgoing = OutgoingMessage(fields, str(amount).encode(), settled)
        self._outbox.put(sent.outgoing)

    # ---- the connection

    def connect(self) -> None:
        if self.forgotten:
            self.forgotten = False
            self._server.purge(self.queue)
        connection = self._connection = self._server.connect(self, self, self._lag())
        self._confirms = Confirms(connection, PUBLISH)
        connection.say(REPLIES, Channel.Open(), Basic.Consume(0, self.queue, "replies"))
        self._link = _Link(self._confirms)
        self._outbox.attach(self._link)  # type: ignore[arg-type]

    def break_off(self) -> None:
        """Lose the connection: what was sent may or may not have arrived, and its confirms are lost."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
            self.lost(self._connection)

    def lost(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._outbox.detach()
        if self._link is not None:
            self._link.lost()
        self.later(self._server.chance.randint(5, 60), self.connect)

    def answered(self, connection: Connection, channel: int, method: Frame) -> None:
        if isinstance(method, Basic.Ack) and connection is self._connection and self._confirms is not None:
            self._confirms.settle(method)

    def arrived(self, connection: Connection, arrival: Arrival) -> None:
        connection.say(REPLIES, Basic.Ack(arrival.tag))
        for envelope, payload in decode(arrival.body, arrival.content_type):
            sent = self._by_id[envelope.call]
            sent.replies.append(f"{envelope.kind} {payload.decode()}")
            if sent.outgoing is not None:
                self._outbox.on_reply(sent.outgoing)
