"""What the broker has of the bank when something is wrong: each journal as a file of lines, and what waits in which queue."""

from __future__ import annotations

from pathlib import Path

from actorhub.broker import open_broker
from actorhub.durable.protocol import records
from actorhub.durable.protocol.records import Commit, InvalidRecord, OutboxEntry
from actorhub.errors import ActorHubError, InvalidEnvelope
from actorhub.wire.envelope import decode

ALL = 10**6
HISTORY = 300  # characters of a state's end


async def keep(url: str, directory: Path, counts: dict[str, int], names: dict[str, str]) -> None:
    """`counts`: messages by queue. `names`: of actors, by their ids."""
    lines = [f"{count:6} {queue} {names.get(_id(queue), '')}" for queue, count in sorted(counts.items())]
    (directory / "queues").write_text("\n".join(lines))
    for queue in counts:
        if ".journal." in queue:
            name = names.get(_id(queue), _id(queue))
            (directory / f"{name}.journal").write_text("\n".join([queue, *await _journal(url, queue)]))


def _id(queue: str) -> str:
    return queue.rpartition(".")[2]


async def _journal(url: str, queue: str) -> list[str]:
    try:
        found = await open_broker(url).peek(queue, limit=ALL)
    except ActorHubError as exc:
        return [repr(exc)]
    return [f"{offset:6} {_line(message.body)}" for offset, message in found]


def _line(body: bytes) -> str:
    try:
        record = records.decode(body)
    except InvalidRecord as exc:
        return repr(exc)
    if not isinstance(record, Commit):
        return repr(record)
    plain = record.model_dump(exclude={"states", "outbox", "image", "time"}, exclude_defaults=True)
    states = [f"{state.key} ...{state.body[-HISTORY:].decode(errors='replace')}" for state in record.states]
    checkpoint = record.image.model_dump(exclude={"postings"}) if record.image is not None else None
    return f"{plain} releases {[_entry(one) for one in record.outbox]} states {states} checkpoint {checkpoint}"


def _entry(entry: OutboxEntry) -> str:
    try:
        ids = [envelope.id or envelope.call for envelope, _ in decode(entry.body, entry.content_type)]
    except InvalidEnvelope as exc:
        ids = [repr(exc)]
    return f"to {entry.queue}: {', '.join(ids)}"
