"""Messages and records in the hands of a simulated owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorhub.durable.protocol import records
from actorhub.durable.protocol.records import Commit, InvalidRecord, OutboxEntry, Record
from actorhub.wire.envelope import Envelope, encode


class Receipt:
    """Acknowledges a delivery when all its envelopes are done."""

    def __init__(self, acknowledge: Callable[[], None], left: int) -> None:
        self._acknowledge = acknowledge
        self._left = left

    def done(self) -> None:
        self._left -= 1
        if not self._left:
            self._acknowledge()


class Request:
    """A message. `receipts`: its copies; `late`: copies that came after its reply was published, which get the reply once
    more."""

    def __init__(self, envelope: Envelope, payload: bytes, receipt: Receipt) -> None:
        self.envelope = envelope
        self.payload = payload
        self.receipts = [receipt]
        self.late: list[Receipt] = []
        self.is_released = False

    @property
    def key(self) -> tuple[str, int]:
        return self.envelope.sender, self.envelope.seq


def outbox_entry(
    queue: str, parcels: list[tuple[Envelope, bytes]], replies: tuple[tuple[str, int], ...] = ()
) -> OutboxEntry:
    body, content_type = encode(parcels)
    return OutboxEntry(
        queue=queue,
        content_type=content_type,
        body=body,
        size=len(body),
        persistent=not replies,
        replies=replies,
    )


def describe(record: Any) -> str:
    if isinstance(record, Commit):
        checkpoint = " with a checkpoint" if record.image is not None else ""
        methods = " ".join(record.methods)
        return f"commit {record.epoch}/{record.seq}{checkpoint} low {record.low} flushed {record.flushed}: {methods}"
    return f"{record.kind} {getattr(record, 'epoch', '')}"


def read_record(body: bytes) -> Record | None:
    try:
        return records.decode(body)
    except InvalidRecord:
        return None
