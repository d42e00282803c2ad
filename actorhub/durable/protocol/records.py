"""Records of a journal, on the wire: four bytes (big endian) with the length of a JSON header, the header, then the bytes of
the state and of the postings, one after the other."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actorhub.broker import Queue
from actorhub.errors import ActorHubError
from actorhub.wire.envelope import Codec, TimerSpec

RECORD_SHARE = (
    6  # a state, the kept answers, a new one, the tells of one message: none has more than this part of a record
)
_LENGTH = struct.Struct(">I")


class InvalidRecord(ActorHubError):
    """A message in a journal that is none of its records."""


class _Model(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class ReadMarker(_Model):
    """Changes nothing. Whoever reads writes one, to know when it has come to the end."""

    kind: Literal["mark"] = "mark"
    id: str


class Epoch(_Model):
    """`owner` takes over. `low` is the offset of a record from which a recovery can read; 0 means from the beginning."""

    kind: Literal["epoch"] = "epoch"
    epoch: int
    owner: str
    low: int = 0


class OutboxEntry(_Model):
    """One message that a commit releases, or a queue. `replies`: the sender and the number of each call that it answers, in the
    order of its envelopes; none where it is a tell. `due`: the Unix time until which it waits at the broker. `keyed`:
    the class of which an instance gets it, whose mailbox may have to be made. `declares`: the queue that shall be there before
    anything else that the commit releases leaves; then there is no message."""

    queue: str
    content_type: str = ""
    body: bytes = Field(b"", exclude=True)
    size: int = 0
    persistent: bool = True
    due: float | None = None
    keyed: str = ""
    correlation_id: str | None = None
    replies: tuple[tuple[str, int], ...] = ()
    declares: Queue | None = None


class StateRecord(_Model):
    """An actor's state: whole, or as a patch the fields that changed. `version` is that of its class, `key` that of the
    instance of a keyed class, or of one part of a state that is kept in parts. `gone`: there is none of this key any more."""

    key: str = ""
    gone: bool = False
    codec: Literal["json", "pickle"] = "json"
    version: int = 1
    patch: bool = False
    body: bytes = Field(b"", exclude=True)
    size: int = 0


SequenceSet = tuple[int, tuple[int, ...]]
"""All numbers below the first one have been applied, but those in the second."""


class StoredTimer(_Model):
    """A timer, and the message that comes when it is due."""

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )

    timer: TimerSpec
    method: str
    key: str | None = None
    codec: Codec = Codec.JSON
    payload: bytes


class Checkpoint(_Model):
    """All that earlier records said, so that nobody needs to read them any more. `sent`: the last number used for each
    queue, by the sender `lineage`."""

    windows: dict[str, SequenceSet]
    sent: dict[str, int]
    lineage: int
    postings: tuple[OutboxEntry, ...]
    timers: dict[str, StoredTimer] = Field(default_factory=dict)


class Commit(_Model):
    """Messages have been handled, and this is what follows from them. `applied`: runs of numbers by sender, both ends included.
    `acked`: what senders will not ask for again. `flushed`: the highest commit of which all postings are confirmed, and so
    are those of all before it. `timers`: those that were set, and those that are over. `image` stands for all before it."""

    kind: Literal["commit"] = "commit"
    epoch: int
    owner: str
    seq: int
    low: int = 0
    flushed: int = 0
    time: float = 0.0
    applied: tuple[tuple[str, int, int], ...] = ()
    acked: dict[str, int] = Field(default_factory=dict)
    methods: tuple[str, ...] = ()
    sent: dict[str, int] = Field(default_factory=dict)
    lineage: int = 0
    timers: dict[str, StoredTimer | None] = Field(default_factory=dict)
    states: tuple[StateRecord, ...] = ()
    outbox: tuple[OutboxEntry, ...] = ()
    image: Checkpoint | None = None

    @property
    def key(self) -> str:
        """The same for every copy of it, and for nothing else."""
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
        blobs += [posting.body for posting in _postings(record)]
    return b"".join((_LENGTH.pack(len(header)), header, *blobs))


def decode(data: bytes) -> Record:
    """Raises:
    InvalidRecord: it is none, or cut off.
    """
    try:
        (length,) = _LENGTH.unpack_from(data)
        record = _record.validate_json(data[4 : 4 + length])
        cursor = _Cursor(data, 4 + length)
        if isinstance(record, Commit):
            record = _with_bodies(record, cursor)
        cursor.end()
    except (ValidationError, struct.error, ValueError) as exc:
        raise InvalidRecord(f"a message of {len(data)} bytes is no record of a journal: {exc}") from exc
    return record


def _postings(commit: Commit) -> tuple[OutboxEntry, ...]:
    return commit.outbox if commit.image is None else (*commit.outbox, *commit.image.postings)


def _with_bodies(commit: Commit, cursor: _Cursor) -> Commit:
    changes: dict[str, object] = {}
    if commit.states:
        changes["states"] = tuple(state.model_copy(update={"body": cursor.take(state.size)}) for state in commit.states)
    if commit.outbox:
        changes["outbox"] = tuple(_filled(posting, cursor) for posting in commit.outbox)
    if commit.image is not None:
        filled = tuple(_filled(posting, cursor) for posting in commit.image.postings)
        changes["image"] = commit.image.model_copy(update={"postings": filled})
    return commit.model_copy(update=changes) if changes else commit


def _filled(posting: OutboxEntry, cursor: _Cursor) -> OutboxEntry:
    return posting.model_copy(update={"body": cursor.take(posting.size)})
