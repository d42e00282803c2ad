"""History of a durable actor, read from its journal: its commits, records that do not count and why, and the state after each.

Reading changes nothing, and decides by the same rule as the owner which records count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict

from actorhub.core.addressing import ActorAddress
from actorhub.durable.protocol import records
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.records import Commit, Epoch, InvalidRecord, OutboxEntry, ReadMarker, Record, StateRecord
from actorhub.errors import ActorHubError, ActorNotFound, InvalidEnvelope
from actorhub.messaging.session import Session
from actorhub.wire.envelope import decode as envelopes
from actorhub.wire.signer import Signer

PAGE_RECORDS = 1000
"""Records that are read at once."""

Verdict = Literal["counts", "late", "repeated", "early", "foreign"]


class HistoryEntry(BaseModel):
    """Journal record as `history` shows it."""

    model_config = ConfigDict(defer_build=True, frozen=True)

    offset: int
    """Offset of the record in the journal."""

    kind: Literal["commit", "epoch", "unknown"]
    """A commit, or an epoch: another owner took over. Unknown if it is not a record."""

    verdict: Verdict
    """Whether the record counts. If not, every owner skips it, since it is late (another owner had taken over before), repeated
    (the same record came before), early (the one before it is missing) or foreign (it is not a record)."""

    size: int
    """Bytes of the whole record."""

    number: int | None = None
    """Number of the commit."""

    epoch: int | None = None
    owner: str = ""

    time: float | None = None
    """Of a commit, Unix time in seconds by the owner's clock."""

    methods: tuple[str, ...] = ()
    """Methods of the messages that the commit is about."""

    answers: int = 0
    """Replies that the commit released."""

    tells: int = 0
    """Tells that it released."""

    letters: int = 0
    """Dead letters that it released."""

    state_size: int | None = None
    """Bytes of the states in the commit; None if none has changed."""

    patch: bool = False
    """The state holds only the fields that have changed."""

    keys: tuple[str, ...] = ()
    """Instances of a keyed class whose states are in the commit."""

    image: bool = False
    """The commit has a checkpoint, which replaces all records before it, except states of keyed classes."""


class ActorState(BaseModel):
    """The state of a durable actor after a commit."""

    model_config = ConfigDict(defer_build=True, frozen=True)

    number: int
    """Number of the commit."""

    epoch: int
    owner: str

    time: float
    """Unix time of the commit in seconds, by its owner's clock."""

    version: int
    """State version of the class that wrote it."""

    codec: Literal["json", "pickle"]

    value: Any
    """The state as JSON; of a pickled one, the `repr` of each attribute."""


@dataclass(frozen=True, slots=True)
class _Found:
    offset: int
    size: int
    record: Record | None
    verdict: Verdict


class History:
    """History of one durable actor, or of all instances of a keyed class that share a mailbox."""

    def __init__(self, session: Session, address: ActorAddress) -> None:
        """Raises:
        ActorHubError: the actor is not durable.
        """
        self._who = address.name or address.actor_id
        if not address.durable:
            raise ActorHubError(f"{self._who} is not durable, so it has no journal; use @actor(durable=True)")
        self._session = session
        self._key = address.key or ""
        self._journal = session.names.journal(address.namespace, address.actor_id)
        self._dead = session.names.dead(address.namespace)

    async def read(self, limit: int = 100) -> list[HistoryEntry]:
        """The last `limit` records, in order, without read markers. It reads all that the broker keeps.

        Raises:
            ActorNotFound: there is no journal.
        """
        last: deque[_Found] = deque(maxlen=limit)
        async for found, _ in self._records():
            if not isinstance(found.record, ReadMarker):
                last.append(found)
        return [self._entry(found) for found in last]

    async def owner(self) -> tuple[HistoryEntry | None, HistoryEntry | None]:
        """The current epoch and the last commit; None if there is none, or the broker has dropped it.

        Raises:
            ActorNotFound: there is no journal.
        """
        epoch: _Found | None = None
        commit: _Found | None = None
        async for found, _ in self._records():
            if found.verdict == "counts":
                epoch = found if isinstance(found.record, Epoch) else epoch
                commit = found if isinstance(found.record, Commit) else commit
        return (self._entry(epoch) if epoch else None, self._entry(commit) if commit else None)

    async def state(self, number: int | None = None) -> ActorState:
        """The state after the commit with this number, or after the last one.

        Raises:
            ActorNotFound: there is no journal.
            ActorHubError: the journal has no such commit.
            UntrustedPayload: the state is a pickle, and this process has no secret, or another one.
            NotSerialisable: classes in it cannot be imported here.
        """
        first: int | None = None
        keyed = False
        commit: Commit | None = None
        states: Sequence[StateRecord] = ()
        async for found, journal_state in self._records():
            if found.verdict == "counts" and isinstance(found.record, Commit):
                first = first or found.record.seq
                keyed = bool(journal_state.positions)
                commit = found.record
                kept = [state for state in commit.states if state.key == self._key]
                states = (kept or states) if self._key else journal_state.states
                if commit.seq == number:
                    break
        if commit is None:
            raise ActorHubError(f"the journal of {self._who} has no commit yet; it has one when a message was handled")
        if number not in (None, commit.seq):
            raise ActorHubError(f"the journal of {self._who} has no commit {number}; it has {first} to {commit.seq}")
        if not states and keyed and not self._key:
            raise ActorHubError(f"{self._who} is the mailbox of many instances; say which by its handle or its key")
        return ActorState(
            number=commit.seq,
            epoch=commit.epoch,
            owner=commit.owner,
            time=commit.time,
            version=states[0].version if states else 1,
            codec=states[0].codec if states else "json",
            value=_value(states, self._session.signer),
        )

    # ---- reading

    async def _records(self) -> AsyncIterator[tuple[_Found, JournalState]]:
        """All records from the first for which it is known whether it counts, each with the journal's state after it."""
        replay = _Replay()
        async for offset, body in self._bodies():
            for found in replay.read(offset, body):
                yield found, replay.journal_state
        if replay.waits_since:
            raise ActorHubError(
                f"the journal of {self._who} begins at {replay.waits_since}, and no checkpoint behind that replaces what was "
                "dropped before; give journals more room by `journal_retention`"
            )

    async def _bodies(self) -> AsyncIterator[tuple[int, bytes]]:
        """Offsets and bodies of all messages up to the end that the journal has now, however fast it grows."""
        await self._check_exists()
        offset, end = 0, await self._session.broker.end_offset(self._journal)
        while offset < end:
            page = await self._session.broker.peek(self._journal, limit=min(PAGE_RECORDS, end - offset), offset=offset)
            # a single offset may be missing: RabbitMQ takes some for itself
            if page and offset and page[0][0] > offset + 1:
                raise ActorHubError(f"the broker dropped the beginning of {self._journal} meanwhile; read it again")
            for at, message in page:
                if at < end:
                    yield at, message.body
            if not page:
                return
            offset = page[-1][0] + 1

    async def _check_exists(self) -> None:
        link = await self._session.live_link()
        if await link.state(self._journal) is None:
            raise ActorNotFound(f"{self._who} has no journal: there is no such durable actor, or no longer")

    # ---- describing

    def _entry(self, found: _Found) -> HistoryEntry:
        common: dict[str, Any] = {"offset": found.offset, "size": found.size, "verdict": found.verdict}
        record = found.record
        if isinstance(record, Epoch):
            return HistoryEntry(kind="epoch", epoch=record.epoch, owner=record.owner, **common)
        if not isinstance(record, Commit):
            return HistoryEntry(kind="unknown", **common)
        tells = [entry for entry in record.outbox if _is_tell(entry)]
        dead_letters = [entry for entry in tells if entry.queue == self._dead]
        return HistoryEntry(
            kind="commit",
            number=record.seq,
            epoch=record.epoch,
            owner=record.owner,
            time=record.time,
            methods=tuple(method for method in record.methods if method),
            answers=sum(len(entry.replies) for entry in record.outbox),
            tells=sum(_count_envelopes(entry) for entry in tells if entry.queue != self._dead),
            letters=len(dead_letters),
            state_size=sum(state.size for state in record.states) if record.states else None,
            patch=any(state.patch for state in record.states),
            keys=tuple(state.key for state in record.states if state.key),
            image=record.image is not None,
            **common,
        )


class _Replay:
    """Reads records in order, and says which count. If the journal's beginning has been dropped, it waits for a record that
    names a commit to begin at, and skips all before that one."""

    def __init__(self) -> None:
        self.journal_state = JournalState(max_reply_bytes=0)
        self.waits_since: int | None = None
        """The first offset, as long as no commit to begin at is known."""

        self._waiting: list[tuple[int, int, Record | None]] = []
        self._waiting_commits: set[int] = set()
        self._has_begun = False

    def read(self, offset: int, body: bytes) -> Iterator[_Found]:
        try:
            record: Record | None = records.decode(body)
        except InvalidRecord:
            record = None
        if self._has_begun or offset == 0:
            self._has_begun = True
            yield self._judge(offset, len(body), record)
            return
        if self.waits_since is None:
            self.waits_since = offset
        self._waiting.append((offset, len(body), record))
        if isinstance(record, Commit):
            self._waiting_commits.add(offset)
        low = record.low if isinstance(record, Commit | Epoch) else 0
        if low in self._waiting_commits:
            self._has_begun, self.waits_since, self.journal_state.low = True, None, low
            waiting, self._waiting = self._waiting, []
            for at, size, known in waiting:
                if at >= low:
                    yield self._judge(at, size, known)

    def _judge(self, offset: int, size: int, record: Record | None) -> _Found:
        fencing = self.journal_state.fencing
        before = fencing.epoch, fencing.owner, fencing.next_seq
        if record is None:
            return _Found(offset, size, None, "foreign")
        counts = self.journal_state.read(offset, record, size)
        return _Found(offset, size, record, "counts" if counts else _why_skipped(record, *before))


def _why_skipped(record: Record, epoch: int, owner: str, next_seq: int) -> Verdict:
    if isinstance(record, ReadMarker) or record.epoch < epoch or (record.epoch == epoch and record.owner != owner):
        return "late"
    if isinstance(record, Epoch) or (record.epoch == epoch and record.seq < next_seq):
        return "repeated"
    return "early"


def _is_tell(entry: OutboxEntry) -> bool:
    return not entry.replies and entry.due is None and entry.declares is None


def _count_envelopes(entry: OutboxEntry) -> int:
    try:
        return len(envelopes(entry.body, entry.content_type))
    except InvalidEnvelope:
        return 1


def _value(states: Sequence[StateRecord], signer: Signer) -> Any:
    if not states:
        return None
    if states[0].codec == "json":
        value = pydantic_core.from_json(states[0].body)
        for patch in states[1:]:
            value.update(pydantic_core.from_json(patch.body))
        return value
    found = signer.loads(states[0].body)
    return {str(name): repr(part) for name, part in found.items()} if isinstance(found, dict) else repr(found)
