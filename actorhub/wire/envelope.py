"""Messages on the wire.

One envelope with a JSON payload is one plain JSON body, so that any AMQP client can call an actor. Many envelopes to
one destination travel as one AMQP message, a batch: four bytes (big endian) with the length of a JSON header, the
header (a list of envelopes with the size of each one's payload), then the payloads' bytes one after the other.

A client in another language sends, with the properties `reply_to` and `correlation_id`:

    {"method": "add", "payload": {"amount": 5}}

and receives `{"kind": "reply", "call": "<its correlation_id>", "payload": 15}` or
`{"kind": "failure", "call": ..., "payload": {"type": ..., "message": ..., "traceback": ...}}`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, TypedDict

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actorhub.errors import InvalidEnvelope

SINGLE = "application/json"
BATCH = "application/x-actorhub-batch"
_LENGTH = struct.Struct(">I")


class Kind(StrEnum):
    # wants a reply
    CALL = "call"
    # wants a stream of items, then a reply
    STREAM = "stream"
    # wants no reply
    TELL = "tell"
    REPLY = "reply"
    FAILURE = "failure"
    # one item of a stream
    ITEM = "item"
    # the reader takes items up to an index
    CREDIT = "credit"
    CANCEL = "cancel"
    # a tell that comes later, or repeatedly
    TIMER = "timer"
    # the time of a timer has come
    DUE = "due"


class Codec(StrEnum):
    JSON = "json"
    # signed; see codec.py
    PICKLE = "pickle"
    # like PICKLE, with placeholders for values that are kept in a store; see object_ref.py
    STORED = "stored"


class Hop(BaseModel):
    """Step of a call chain: an actor that waits, and the id of the call that it is handling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str
    call: str


class ChainStep(BaseModel):
    """A task that goes on with the result of the one before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    method: str
    queue: str
    priority: int = 0
    code: bytes | None = None
    """Its function by value, signed."""


class FanInTarget(BaseModel):
    """Target of the result of one of `count` tasks: a queue that gathers them for the task `step`, whose reply goes on
    as the reply to the call `call`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str
    index: int
    count: int
    step: ChainStep
    call: str
    reply_to: str
    sender: str


class TimerSpec(BaseModel):
    """Time of a message, once or repeatedly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    due: float = Field(allow_inf_nan=False)
    """Unix time in seconds at which the message comes first."""
    every: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds between two times."""
    cron: str | None = None
    """Cron expression of the further times, in UTC."""
    catch_up: Literal["skip", "once", "all"] = "once"
    """Treatment of missed times: each comes late (all), one for all of them (once), or none (skip)."""


class Envelope(BaseModel):
    """Envelope of a message: all of it but the payload."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    v: Literal[1] = 1
    id: str = ""
    kind: Kind = Kind.CALL
    method: str = ""
    codec: Codec = Codec.JSON
    call: str = ""
    """Call that a reply, item, credit or cancel belongs to."""
    sender: str = ""
    seq: int = Field(default=0, ge=0)
    """Number among one sender's envelopes to one destination, from 1; 0 if unnumbered."""
    acked_below: int = Field(default=0, ge=0)
    """The sender will not repeat a call with a lower number."""
    reply_to: str = ""
    deadline: float | None = None
    """Unix time in seconds."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of a task, from 1."""
    priority: int = 0
    index: int = 0
    """Number of an item in its stream."""
    chain: tuple[Hop, ...] = ()
    trace: dict[str, str] | None = None
    key: str | None = None
    size: int | None = Field(default=None, ge=0)
    """Bytes of the payload, inside a batch."""
    since: float | None = None
    """Unix time in seconds at which the first attempt of a task began."""
    code: bytes | None = None
    """Function of a task by value, signed."""
    then: tuple[ChainStep, ...] = ()
    """Steps that go on with the result of a task."""
    into: FanInTarget | None = None
    """Place in the list that gathers the result of a task with others."""
    alone: bool = False
    """True if the payload is the one argument itself."""
    took: float | None = None
    """Seconds that the task ran whose reply this is."""
    timer: TimerSpec | None = None
    """Times of a timer; of a DUE envelope, the time that has come."""


class EnvelopeDraft(TypedDict, total=False):
    """An envelope that its sender writes: the fields of `Envelope` without those of its place in a message.

    A typed dictionary, so that a type checker sees each field, and the model is built and validated once, when the
    sequence number is known.
    """

    id: str
    kind: Kind
    method: str
    codec: Codec
    call: str
    sender: str
    reply_to: str
    deadline: float | None
    attempt: int
    priority: int
    index: int
    chain: tuple[Hop, ...]
    key: str | None
    since: float | None
    code: bytes | None
    then: tuple[ChainStep, ...]
    into: FanInTarget | None
    alone: bool
    took: float | None
    timer: TimerSpec | None


class _Single(Envelope):
    payload: Any = None


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    envelopes: list[Envelope]


_header = TypeAdapter(_Header)
_single = TypeAdapter(_Single)
_envelope = TypeAdapter(Envelope)

EncodedEnvelope = tuple[Envelope, bytes]
"""An envelope and its payload's bytes."""


def encode(parcels: Sequence[EncodedEnvelope]) -> tuple[bytes, str]:
    """Encode envelopes, in order, as one message: its body and its content type."""
    if len(parcels) == 1 and parcels[0][0].codec is Codec.JSON:
        return _encode_single(*parcels[0]), SINGLE
    return _encode_batch(parcels), BATCH


def _encode_single(envelope: Envelope, payload: bytes) -> bytes:
    head = _envelope.dump_json(envelope, exclude_defaults=True)
    comma = b"," if len(head) > 2 else b""
    return b"".join((head[:-1], comma, b'"payload":', payload or b"null", b"}"))


def _encode_batch(parcels: Sequence[EncodedEnvelope]) -> bytes:
    rows = [_envelope.dump_json(envelope, exclude_defaults=True) for envelope, _ in parcels]
    sized = [
        b'%b,"size":%d}' % (row[:-1], len(payload)) if len(row) > 2 else b'{"size":%d}' % len(payload)
        for row, (_, payload) in zip(rows, parcels, strict=True)
    ]
    header = b'{"envelopes":[' + b",".join(sized) + b"]}"
    return b"".join((_LENGTH.pack(len(header)), header, *(payload for _, payload in parcels)))


def decode(body: bytes, content_type: str | None) -> list[EncodedEnvelope]:
    """The parcels of one message.

    Raises:
        InvalidEnvelope: the body is not of the format that its content type names.
    """
    try:
        if content_type == BATCH:
            return _decode_batch(body)
        single = _single.validate_json(body)
    except (ValidationError, struct.error, ValueError) as exc:
        raise InvalidEnvelope(f"a message of {len(body)} bytes is not an envelope: {exc}") from exc
    return [(single, pydantic_core.to_json(single.payload))]


def _decode_batch(body: bytes) -> list[EncodedEnvelope]:
    (length,) = _LENGTH.unpack_from(body)
    header = _header.validate_json(body[4 : 4 + length])
    if not header.envelopes:
        raise ValueError("the batch is empty")
    parcels: list[EncodedEnvelope] = []
    start = 4 + length
    for envelope in header.envelopes:
        end = start + (envelope.size or 0)
        parcels.append((envelope, body[start:end]))
        start = end
    if start != len(body):
        raise ValueError(f"its header announces {start} bytes of payload, and it has {len(body)}")
    return parcels
