"""Records of a journal, and their encoding.

A record is four bytes (big endian) with the length of a JSON header, the header, then the bodies of its states and outbox
entries, one after the other. Field names are the keys of the header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actorhub.broker import Queue
from actorhub.errors import ActorHubError
from actorhub.wire.envelope import Codec, TimerSpec

RECORD_SHARE = 6
"""A state, the replies that are kept, a new reply, the tells of one message: none of these takes more than this part of a
record."""

_LENGTH = struct.Struct(">I")


class InvalidRecord(ActorHubError):
    """A message in a journal that is not a record, or cut off."""


class _Model(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class ReadMarker(_Model):
    """Changes nothing. A reader appends one to know when it has read to the end."""

    kind: Literal["mark"] = "mark"
    id: str


class Epoch(_Model):
    """An owner takes over."""

    kind: Literal["epoch"] = "epoch"
    epoch: int
    owner: str

    low: int = 0
    """Offset from which the journal can be read without losing anything; 0: from the beginning."""


class OutboxEntry(_Model):
    """One message that a commit releases, or one queue that it declares."""

    queue: str
    content_type: str = ""
    body: bytes = Field(b"", exclude=True)
    size: int = 0
    persistent: bool = True

    due: float | None = None
    """Unix time in seconds until which the broker keeps the message back."""

    keyed: str = ""
    """Class of the receiver if it is keyed: its mailbox may have to be created."""

    correlation_id: str | None = None

    replies: tuple[tuple[str, int], ...] = ()
    """Sender and number of each call that the message replies to, in the order of its envelopes. Empty for tells."""

    declares: Queue | None = None
    """The queue to declare before anything else of the commit leaves. Then there is no message."""


class StateRecord(_Model):
    """The state of an instance, or of one part of it."""

    key: str = ""
    """Key of the instance of a keyed class, or of the part. Empty for a state that is neither."""

    gone: bool = False
    """The key has no state any more."""

    codec: Literal["json", "pickle"] = "json"

    version: int = 1
    """State version of the class that wrote it."""

    patch: bool = False
    """Only the fields that have changed since the state before."""

    body: bytes = Field(b"", exclude=True)
    size: int = 0


SequenceSet = tuple[int, tuple[int, ...]]
"""Sequence numbers: all below the first element, except those in the second."""


class StoredTimer(_Model):
    """A timer, and the message to handle when it is due."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    timer: TimerSpec
    method: str
    key: str | None = None
    codec: Codec = Codec.JSON
    payload: bytes


class Checkpoint(_Model):
    """All that earlier records say, except states, so that they need not be read."""

    windows: dict[str, SequenceSet]
    """Applied sequence numbers, by sender."""

    sent: dict[str, int]
    """The last sequence number used for each queue."""

    lineage: int
    """Part of the sender name under which messages are numbered; see `JournalOwner.number`."""

    postings: tuple[OutboxEntry, ...]
    """Replies that callers may ask for again."""

    timers: dict[str, StoredTimer] = Field(default_factory=dict)


class Commit(_Model):
    """Messages have been handled, with these effects."""

    kind: Literal["commit"] = "commit"
    epoch: int
    owner: str

    seq: int
    """Number of the commit: one more than that of the commit before, also if another owner wrote that one."""

    low: int = 0
    """As in `Epoch`."""

    flushed: int = 0
    """The highest commit up to which all outboxes are confirmed."""

    time: float = 0.0
    """Unix time in seconds, by the owner's clock."""

    applied: tuple[tuple[str, int, int], ...] = ()
    """Messages handled: runs of sequence numbers by sender, first and last included."""

    acked: dict[str, int] = Field(default_factory=dict)
    """For each sender, the number below which it will not ask for a reply again."""

    methods: tuple[str, ...] = ()
    """Method of each message handled; empty for messages that run none."""

    sent: dict[str, int] = Field(default_factory=dict)
    """As in `Checkpoint`, for queues to which this commit sends."""

    lineage: int = 0

    timers: dict[str, StoredTimer | None] = Field(default_factory=dict)
    """Timers that were set, by id; None: cancelled, or fired for the last time."""

    states: tuple[StateRecord, ...] = ()
    outbox: tuple[OutboxEntry, ...] = ()

    image: Checkpoint | None = None
    """State of the journal before this commit."""

    @property
    def key(self) -> str:
        """The same for every copy of this commit, and different for all others."""
        return f"{self.epoch}.{self.owner}.{self.seq}"


Record = ReadMarker | Epoch | Commit

_record: TypeAdapter[Record] = TypeAdapter(Record, config=ConfigDict(defer_build=True))


@dataclass
class _Cursor:
    data: bytes
    at: int

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise ValueError(f"{size} bytes are named at {self.at}, and it has {len(self.data)}")
        found, self.at = self.data[self.at : end], end
        return found

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"its parts take {self.at} bytes, and it has {len(self.data)}")


def encode(record: Record) -> bytes:
    if not isinstance(record, Commit):
        header, blobs = record.model_dump_json().encode(), list[bytes]()
    else:
        header = record.model_dump_json(exclude_defaults=True, exclude={"kind"}).encode()
        header = b'{"kind":"commit",' + header[1:]
        blobs = [state.body for state in record.states]
        blobs += [entry.body for entry in _outbox_entries(record)]
    return b"".join((_LENGTH.pack(len(header)), header, *blobs))


def decode(data: bytes) -> Record:
    """Raises:
    InvalidRecord: the data is not a record, or cut off.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        record = _record.validate_json(data[4 : 4 + length])
        cursor = _Cursor(data, 4 + length)
        if isinstance(record, Commit):
            record = _with_bodies(record, cursor)
        cursor.end()
    except (ValidationError, struct.error, ValueError) as exc:
        raise InvalidRecord(f"a message of {len(data)} bytes is not a record of a journal: {exc}") from exc
    return record


def _outbox_entries(commit: Commit) -> tuple[OutboxEntry, ...]:
    return commit.outbox if commit.image is None else (*commit.outbox, *commit.image.postings)


def _with_bodies(commit: Commit, cursor: _Cursor) -> Commit:
    changes: dict[str, object] = {}
    if commit.states:
        changes["states"] = tuple(state.model_copy(update={"body": cursor.take(state.size)}) for state in commit.states)
    if commit.outbox:
        changes["outbox"] = tuple(_filled(entry, cursor) for entry in commit.outbox)
    if commit.image is not None:
        filled = tuple(_filled(entry, cursor) for entry in commit.image.postings)
        changes["image"] = commit.image.model_copy(update={"postings": filled})
    return commit.model_copy(update=changes) if changes else commit


def _filled(entry: OutboxEntry, cursor: _Cursor) -> OutboxEntry:
    return entry.model_copy(update={"body": cursor.take(entry.size)})
