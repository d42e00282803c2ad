"""Request: one envelope in a mailbox's hands, from its delivery to its acknowledgement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from actorhub.broker import Delivery, Message
from actorhub.core.addressing import new_id
from actorhub.errors import ActorDied, RemoteError
from actorhub.messaging.context import Effects
from actorhub.messaging.dead_letter import Reason
from actorhub.wire.envelope import EncodedEnvelope, Envelope, EnvelopeDraft, Kind
from actorhub.wire.failure import Failure
from actorhub.wire.signer import Signer


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply or a failure: the envelope's fields and its payload."""

    draft: EnvelopeDraft
    payload: bytes
    failure: Failure | None = None
    reason: Reason = "exception"
    """Reason for which the message of a failure is kept as a dead letter."""

    @classmethod
    def failed(cls, call_id: str, error: BaseException, signer: Signer, reason: Reason = "exception") -> Reply:
        """The failure of a call."""
        failure = Failure.of(error, signer)
        return cls({"kind": Kind.FAILURE, "call": call_id}, failure.encode(), failure, reason)

    @classmethod
    def poisoned(cls, envelope: Envelope, signer: Signer) -> Reply:
        """The failure of a call that has killed its workers too often to be run again."""
        error = ActorDied(f"{envelope.method} (call {envelope.id}) killed its worker too often and is not run again")
        return cls.failed(envelope.id, error, signer, "poison")

    @classmethod
    def no_longer_kept(cls, envelope: Envelope, signer: Signer) -> Reply:
        """The failure of a repeated call whose reply is no longer kept."""
        error = RemoteError(
            f"{envelope.method} ran, and its reply is no longer kept; ask the actor for its state instead"
        )
        return cls.failed(envelope.id, error, signer)


def complete_foreign(envelope: Envelope, message: Message) -> tuple[Envelope, str]:
    """Complete an envelope of a client that is not a session from its message's properties. Returns it with the
    correlation id of its reply."""
    reply_to = envelope.reply_to or message.reply_to or ""
    correlation = message.correlation_id or envelope.id or message.message_id or new_id()
    known = envelope.model_copy(
        update={
            "id": envelope.id or correlation,
            "reply_to": reply_to,
            "kind": envelope.kind if reply_to or envelope.kind is not Kind.CALL else Kind.TELL,
        }
    )
    return known, correlation


def foreign_key(envelope: Envelope, message: Message) -> str:
    """Key of a message of a foreign client, the same each time it comes. Ids do not serve: foreign clients may choose
    the same one, or none."""
    said = (envelope.id, envelope.reply_to, message.message_id, message.correlation_id, message.reply_to)
    return blake2b(message.body + repr(said).encode(), digest_size=12).hexdigest()


class DeliveryAck:
    """Acknowledgement of one delivery, sent when the last of its envelopes is done."""

    __slots__ = ("_delivery", "_left", "_on_acked")

    def __init__(self, delivery: Delivery, envelopes: int, on_acked: Callable[[], None] = lambda: None) -> None:
        self._delivery = delivery
        self._left = envelopes
        self._on_acked = on_acked

    def done(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._delivery.ack()
            self._on_acked()


class Request:
    """An envelope, its payload, and the deliveries that brought it: more than one if the broker delivered it again
    while it was in hand.

    Args:
        envelope: the message without its payload.
        payload: its payload.
        receipt: the delivery that brought it; None if it needs no acknowledgement.
        on_finished: called with the request and its reply at the end.
        foreign: correlation id of a caller that is not a session: it gets its reply as plain JSON, with that id.
        queue: the queue that it came from.
        key: tells the request from every other; by default its id, which does not serve if a foreign client chose it.
    """

    __slots__ = ("_on_finished", "_receipts", "effects", "envelope", "foreign", "key", "origin", "payload", "queue")

    def __init__(
        self,
        envelope: Envelope,
        payload: bytes,
        receipt: DeliveryAck | None,
        on_finished: Callable[[Request, Reply], None],
        foreign: str | None = None,
        queue: str = "",
        key: str = "",
    ) -> None:
        self.envelope = envelope
        self.key = key or envelope.id
        self.payload = payload
        self.foreign = foreign
        self.queue = queue
        # for a durable mailbox: the sender, and the number by which the journal knows the message
        self.origin: tuple[str, int] = ("", 0)
        # for a durable mailbox: the effects beside the change of the state
        self.effects: Effects | None = None
        self._receipts = [receipt] if receipt is not None else []
        self._on_finished = on_finished

    def also(self, receipt: DeliveryAck) -> None:
        """Acknowledge a further delivery of the same message, too."""
        self._receipts.append(receipt)

    def join(self, other: Request) -> None:
        """Acknowledge the deliveries of `other`, which is the same message, too."""
        self._receipts += other._receipts

    def finish(self, reply: Reply) -> None:
        """End the request: send the reply if one is wanted, then acknowledge."""
        self._on_finished(self, reply)

    def done(self) -> None:
        for receipt in self._receipts:
            receipt.done()


def task_request(
    parcel: EncodedEnvelope,
    message: Message,
    receipt: DeliveryAck | None,
    on_finished: Callable[[Request, Reply], None],
    queue: str,
) -> Request:
    """Request for one task of a message from a task queue."""
    envelope, payload = parcel
    foreign, key = None, envelope.id
    if not envelope.sender:
        key = foreign_key(envelope, message)
        envelope, foreign = complete_foreign(envelope, message)
    return Request(envelope, payload, receipt, on_finished, foreign, queue=queue, key=key)
