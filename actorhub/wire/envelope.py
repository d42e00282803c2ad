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
    CALL = "call"  # wants an answer
    STREAM = "stream"  # wants a stream of items, then an answer
    TELL = "tell"  # wants none
    REPLY = "reply"
    FAILURE = "failure"
    ITEM = "item"  # one item of a stream
    CREDIT = "credit"  # the reader takes items up to an index
    CANCEL = "cancel"
    TIMER = "timer"  # a tell that comes later, or again and again
    DUE = "due"  # a timer's time has come


class Codec(StrEnum):
    JSON = "json"
    PICKLE = "pickle"  # signed; see codec.py
    STORED = "stored"  # the same, and stand-ins in it for values that are kept in a store; see object_ref.py


class Hop(BaseModel):
    """One actor that waits in a chain of calls, and the id of the call that it is handling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actor: str
    call: str


class ChainStep(BaseModel):
    """A task that goes on with the result of the one before it. `code`: its function by value, signed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    method: str
    queue: str
    priority: int = 0
    code: bytes | None = None


class FanInTarget(BaseModel):
    """Where the result of one of `count` tasks goes: to a queue that gathers them for the task `step`, whose answer goes on as
    that of the call `call`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str
    index: int
    count: int
    step: ChainStep
    call: str
    reply_to: str
    sender: str


class TimerSpec(BaseModel):
    """When a message comes: at `due`, in Unix time, and then again `every` so many seconds, or as the `cron` expression says
    (in UTC). `catch_up`: what becomes of times that have passed by: each comes late (all), one for all of them (once), none
    (skip)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    due: float = Field(allow_inf_nan=False)
    every: float | None = Field(None, gt=0, allow_inf_nan=False)
    cron: str | None = None
    catch_up: Literal["skip", "once", "all"] = "once"


class Envelope(BaseModel):
    """One message, without its payload.

    `seq` numbers what one sender sends to one destination, from 1; 0 means unnumbered. `acked_below`: the sender will
    not ask again about anything numbered lower. `deadline` is Unix time in seconds. `index` counts a stream's items.

    For tasks: `attempt` counts from 1, `since` is the Unix time at which the first attempt began, `code` the function by value,
    signed; `then` goes on with the result, or it is gathered `into` a list. `alone`: the payload is the one argument itself.
    `took`: the seconds that the task ran whose answer this is.

    `timer` says when; of a DUE envelope, which time has come.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    v: Literal[1] = 1
    id: str = ""
    kind: Kind = Kind.CALL
    method: str = ""
    codec: Codec = Codec.JSON
    call: str = ""  # the call that a reply, item, credit or cancel belongs to
    sender: str = ""
    seq: int = Field(default=0, ge=0)
    acked_below: int = Field(default=0, ge=0)
    reply_to: str = ""
    deadline: float | None = None
    attempt: int = Field(default=0, ge=0)
    priority: int = 0
    index: int = 0
    chain: tuple[Hop, ...] = ()
    trace: dict[str, str] | None = None
    key: str | None = None
    size: int | None = Field(default=None, ge=0)  # of the payload, inside a batch
    since: float | None = None
    code: bytes | None = None
    then: tuple[ChainStep, ...] = ()
    into: FanInTarget | None = None
    alone: bool = False
    took: float | None = None
    timer: TimerSpec | None = None


class EnvelopeDraft(TypedDict, total=False):
    """An envelope that its sender writes: the fields of `Envelope`, but for those of its place in a message.

    A typed dictionary, so that a type checker sees each field, and the model is built and validated once, when the sequence
    number is known.
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
    """One message's body and content type for these parcels, in order."""
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
        raise ValueError("it is a batch of nothing")
    parcels: list[EncodedEnvelope] = []
    start = 4 + length
    for envelope in header.envelopes:
        end = start + (envelope.size or 0)
        parcels.append((envelope, body[start:end]))
        start = end
    if start != len(body):
        raise ValueError(f"its payloads take {start} bytes, and it has {len(body)}")
    return parcels
