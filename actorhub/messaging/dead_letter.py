"""Dead letters as they stand in their stream: messages that could not be processed, with the reason, and marks."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from actorhub.broker import Message
from actorhub.core.addressing import actor_id_of, new_id
from actorhub.errors import InvalidEnvelope
from actorhub.wire.envelope import Codec, EncodedEnvelope, Envelope, Kind, decode, encode
from actorhub.wire.failure import Failure

LINE = 500  # characters of an error's line
REPLAYED = "replayed"  # the type of a mark's message
_FOUND_OUT = {"id", "replayed", "arguments"}  # fields that are not part of what is kept

Reason = Literal["malformed", "invalid", "exception", "poison", "expired", "actor died"]
_OF_THE_BROKER: dict[str, Reason] = {"expired": "expired", "delivery_limit": "poison"}


class DeadLetter(BaseModel):
    """One message that nobody could process.

    - `reason`: "malformed" (no envelope), "invalid" (method, arguments or result do not fit), "exception" (it raised, and is
      not tried again), "poison" (it kills its worker), "expired" (its deadline passed before it ran), "actor died".
    - `error` is one line; `exception` its type as `module:QualName`.
    - `attempts`: how often it was run, as far as is known; 0 where it was not, or nobody counted.
    - `body` and `content_type` are a whole message of one envelope and its payload; of a malformed one, what came.
    - `id` is its place in the stream, and `replayed` when it was last sent again: both are known of a letter that was read.

    Times are Unix time in seconds; 0 where it is not known.
    """

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    id: int | None = None
    reason: Reason
    queue: str
    actor: str = ""
    method: str = ""
    call: str = ""
    error: str = ""
    exception: str = ""
    traceback: str = ""
    attempts: int = 0
    time: float = Field(default_factory=time.time)
    replayed: float | None = None
    body: bytes = b""
    content_type: str | None = None

    @classmethod
    def of(
        cls,
        reason: Reason,
        queue: str,
        envelope: Envelope,
        payload: bytes,
        failure: Failure,
        *,
        attempts: int | None = None,
    ) -> DeadLetter:
        """The letter of one envelope that was taken from `queue`. `attempts` is by default what the envelope says."""
        if attempts is None:
            attempts = envelope.attempt + (reason in ("exception", "invalid"))
        body, content_type = encode([(envelope.model_copy(update={"size": None}), payload)])
        return cls(
            reason=reason,
            queue=queue,
            actor=actor_id_of(queue),
            method=envelope.method,
            call=envelope.id,
            error=_line(failure.type.rpartition(":")[2], failure.message),
            exception=failure.type,
            traceback=failure.traceback,
            attempts=attempts,
            body=body,
            content_type=content_type,
        )

    @classmethod
    def malformed(cls, queue: str, message: Message, error: InvalidEnvelope) -> DeadLetter:
        """The letter of a message from `queue` that is no envelope."""
        kind = type(error)
        return cls(
            reason="malformed",
            queue=queue,
            actor=actor_id_of(queue),
            error=_line(kind.__name__, str(error)),
            exception=f"{kind.__module__}:{kind.__qualname__}",
            body=message.body,
            content_type=message.content_type,
        )

    @classmethod
    def found(cls, offset: int, message: Message) -> DeadLetter:
        """What stands in the stream, whoever put it there."""
        try:
            letter = cls.model_validate_json(message.body)
        except ValidationError:
            letter = cls._foreign(message)
        return letter.model_copy(update={"id": offset})

    @classmethod
    def _foreign(cls, message: Message) -> DeadLetter:
        """Nobody of ours kept it: the broker dead-lettered it, or somebody published it here."""
        cause, queue, when = _death(message.headers or {})
        parcels = _parcels(message.body, message.content_type)
        only = parcels[0][0] if len(parcels) == 1 else None
        return cls(
            reason=_OF_THE_BROKER.get(cause, "malformed"),
            queue=queue,
            actor=actor_id_of(queue),
            method=only.method if only is not None else "",
            call=only.id if only is not None else "",
            error=f"the broker dead-lettered it: {cause}" if cause else "not a dead letter, and not of the broker",
            time=when,
            body=message.body,
            content_type=message.content_type,
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def arguments(self) -> Any:
        """For people: the payload where it is JSON; None where there is no envelope. Pickles are not loaded."""
        shown = [_shown(*parcel) for parcel in _parcels(self.body, self.content_type)]
        return shown[0] if len(shown) == 1 else shown or None

    def message(self) -> Message:
        """As it is kept in the stream."""
        return Message(self.model_dump_json(exclude=_FOUND_OUT).encode(), "application/json", type=self.reason)

    def without_body(self) -> DeadLetter:
        """Where the broker takes no message as large as this."""
        error = f"{self.error} (its message of {len(self.body)} bytes is too large to be kept)"
        return self.model_copy(update={"error": error, "body": b"", "content_type": None})

    def again(self) -> Message:
        """The message to send so that it is handled once more: unnumbered, without a deadline, and nobody waits for an answer.
        What is no envelope stays as it is."""
        parcels = _parcels(self.body, self.content_type)
        if not parcels:
            return Message(self.body, self.content_type)
        body, content_type = encode([(self._as_new(envelope), payload) for envelope, payload in parcels])
        return Message(body, content_type)

    def _as_new(self, envelope: Envelope) -> Envelope:
        changes: dict[str, Any] = {
            "sender": "",
            "seq": 0,
            "acked_below": 0,
            "deadline": None,
            "reply_to": "",
            "attempt": 0,
            "since": None,
            "chain": (),
            "size": None,
        }
        if self.reason == "poison":
            changes["id"] = new_id()  # the actor's mailbox would withhold the old one
        if envelope.kind is Kind.STREAM:
            changes["kind"] = Kind.TELL  # nobody reads it
        return envelope.model_copy(update=changes)


class ReplayMark(BaseModel):
    """The mark of a letter that was sent again. After a purge, offsets begin anew: `kept`, the letter's own time, tells apart
    those that had the same."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    letter: int
    kept: float
    time: float = Field(default_factory=time.time)

    @classmethod
    def found(cls, message: Message) -> ReplayMark | None:
        """None where the message is no mark, but a letter."""
        if message.type != REPLAYED:
            return None
        try:
            return cls.model_validate_json(message.body)
        except ValidationError:
            return None

    def message(self) -> Message:
        return Message(self.model_dump_json().encode(), "application/json", type=REPLAYED)


def _line(kind: str, message: str) -> str:
    line = " ".join(f"{kind}: {message}".split())
    return line if len(line) <= LINE else f"{line[: LINE - 3]}..."


def _parcels(body: bytes, content_type: str | None) -> list[EncodedEnvelope]:
    """None where it is no envelope."""
    try:
        return decode(body, content_type)
    except InvalidEnvelope:
        return []


def _shown(envelope: Envelope, payload: bytes) -> Any:
    if envelope.codec is Codec.PICKLE:
        return f"<pickle of {len(payload)} bytes>"
    try:
        return pydantic_core.from_json(payload)
    except ValueError:
        return f"<{len(payload)} bytes that are not JSON>"


def _death(headers: dict[str, Any]) -> tuple[str, str, float]:
    """The broker's reason, the queue in which it died, and when. In a stream RabbitMQ keeps no lists: there only the first
    death is told, without its time."""
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason = last.get("reason") or headers.get("x-last-death-reason") or headers.get("x-first-death-reason")
    queue = last.get("queue") or headers.get("x-last-death-queue") or headers.get("x-first-death-queue")
    when = last.get("time")
    return str(reason or ""), str(queue or ""), when.timestamp() if isinstance(when, datetime) else 0.0
