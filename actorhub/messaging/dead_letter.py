"""Dead letters as their stream keeps them: messages that could not be processed, with the reason, and marks of
replays."""

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

# characters of an error's line
MAX_LINE_CHARACTERS = 500
# type of a mark's message
REPLAYED = "replayed"
# fields that are not stored
_FOUND_OUT = {"id", "replayed", "arguments"}

Reason = Literal["malformed", "invalid", "exception", "poison", "expired", "actor died"]
_OF_THE_BROKER: dict[str, Reason] = {"expired": "expired", "delivery_limit": "poison"}


class DeadLetter(BaseModel):
    """Dead letter: a message that could not be processed, and why. Times are Unix time in seconds; 0 if unknown."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    id: int | None = None
    """Offset in the stream; None until the dead letter was read from there."""
    reason: Reason
    """"malformed" (no envelope), "invalid" (method, arguments or result do not fit), "exception" (it raised, and is not
    retried), "poison" (it kills its worker), "expired" (its deadline passed before it ran), "actor died"."""
    queue: str
    actor: str = ""
    method: str = ""
    call: str = ""
    error: str = ""
    """Error in one line."""
    exception: str = ""
    """Type of the exception, as `module:QualName`."""
    traceback: str = ""
    attempts: int = 0
    """Number of runs, as far as known; 0 if it was not run, or the runs were not counted."""
    time: float = Field(default_factory=time.time)
    replayed: float | None = None
    """Time of the last replay; None if it was not replayed, or the dead letter was not read from the stream."""
    body: bytes = b""
    """Whole message of one envelope and its payload, of `content_type`; of a malformed message, the bytes received."""
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
        """Dead letter of one envelope that was taken from `queue`. `attempts` defaults to the count of the envelope."""
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
        """Dead letter of a message from `queue` that is no envelope."""
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
        """Dead letter read from the stream at `offset`, also of a message that ActorHub did not put there."""
        try:
            letter = cls.model_validate_json(message.body)
        except ValidationError:
            letter = cls._foreign(message)
        return letter.model_copy(update={"id": offset})

    @classmethod
    def _foreign(cls, message: Message) -> DeadLetter:
        """Dead letter of a message that ActorHub did not store: the broker dead-lettered it, or a client published it
        here."""
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
        """Payload to show to people: the value if it is JSON; None without an envelope. Pickles are not loaded."""
        shown = [_shown(*parcel) for parcel in _parcels(self.body, self.content_type)]
        return shown[0] if len(shown) == 1 else shown or None

    def message(self) -> Message:
        """Message that stores the dead letter in the stream."""
        return Message(self.model_dump_json(exclude=_FOUND_OUT).encode(), "application/json", type=self.reason)

    def without_body(self) -> DeadLetter:
        """Copy without the message's body, for a broker that takes no message of its size."""
        error = f"{self.error} (its message of {len(self.body)} bytes is too large to be kept)"
        return self.model_copy(update={"error": error, "body": b"", "content_type": None})

    def to_message(self) -> Message:
        """Message to send for a replay: unnumbered, without a deadline or a receiver of its reply. A body that is no
        envelope is sent unchanged."""
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
            # a replayed stream has no reader
            changes["kind"] = Kind.TELL
        return envelope.model_copy(update=changes)


class ReplayMark(BaseModel):
    """Mark of a dead letter that was replayed."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    letter: int
    kept: float
    """Time of the dead letter itself. Offsets restart after a purge: the time tells apart dead letters of the same
    offset."""
    time: float = Field(default_factory=time.time)

    @classmethod
    def found(cls, message: Message) -> ReplayMark | None:
        """Mark in a message of the stream; None if the message is a dead letter."""
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
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[: MAX_LINE_CHARACTERS - 3]}..."


def _parcels(body: bytes, content_type: str | None) -> list[EncodedEnvelope]:
    """Envelopes of a message; empty if it holds none."""
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
    """Return the broker's reason for a dead letter, its queue, and the time. RabbitMQ keeps no lists in a stream: there
    only the first death is known, without its time."""
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason = last.get("reason") or headers.get("x-last-death-reason") or headers.get("x-first-death-reason")
    queue = last.get("queue") or headers.get("x-last-death-queue") or headers.get("x-first-death-queue")
    when = last.get("time")
    return str(reason or ""), str(queue or ""), when.timestamp() if isinstance(when, datetime) else 0.0
