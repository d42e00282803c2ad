"""What a durable actor has done, as its journal says: its commits, what does not count and why, and the state after each.

Whoever reads takes nothing from anybody, writes nothing, and decides what counts by the same rules as the owner does.
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
from actorhub.wire.codec import Signer
from actorhub.wire.envelope import decode as envelopes

PAGE = 1000  # records that are read at once

Verdict = Literal["counts", "late", "repeated", "early", "foreign"]


class HistoryEntry(BaseModel):
    """One record of a journal.

    `kind`: a commit, or an epoch: another owner took over. `verdict`: whether it counts; else it is skipped by everybody. It is
    late where another owner had taken over before, repeated where the same record came before, early where one before it is
    missing, and foreign where it is no record at all.

    Of a commit: the methods of the messages that were handled, how many answers, tells and dead letters it let go, the bytes of
    the state that it kept (None where nothing changed; `patch`: those of the changed fields only), and whether it has an image,
    which stands for all before it but the states of keyed classes. `keys`: of a keyed class, the instances whose states it has.
    `size` is that of the whole record. `time` is Unix time in seconds, by the owner's clock.
    """

    model_config = ConfigDict(defer_build=True, frozen=True)

    offset: int
    kind: Literal["commit", "epoch", "unknown"]
    verdict: Verdict
    size: int
    number: int | None = None
    epoch: int | None = None
    owner: str = ""
    time: float | None = None
    methods: tuple[str, ...] = ()
    answers: int = 0
    tells: int = 0
    letters: int = 0
    state_size: int | None = None
    patch: bool = False
    keys: tuple[str, ...] = ()
    image: bool = False


class ActorState(BaseModel):
    """A durable actor's state after the commit of that number: as JSON, or each attribute's `repr` where it is a pickle.
    `version` is that of its class, `time` that of the commit, by its owner's clock."""

    model_config = ConfigDict(defer_build=True, frozen=True)

    number: int
    epoch: int
    owner: str
    time: float
    version: int
    codec: Literal["json", "pickle"]
    value: Any


@dataclass(frozen=True, slots=True)
class _Found:
    offset: int
    size: int
    record: Record | None
    verdict: Verdict


class History:
    """Of one durable actor, or of all instances of a keyed class that share a mailbox."""

    def __init__(self, session: Session, ticket: ActorAddress) -> None:
        """Raises:
        ActorHubError: it is not durable.
        """
        self._who = ticket.name or ticket.actor_id
        if not ticket.durable:
            raise ActorHubError(f"{self._who} is not durable, so it has no journal; use @actor(durable=True)")
        self._session = session
        self._key = ticket.key or ""
        self._journal = session.names.journal(ticket.namespace, ticket.actor_id)
        self._dead = session.names.dead(ticket.namespace)

    async def read(self, limit: int = 100) -> list[HistoryEntry]:
        """The last `limit` records, in their order, without the marks of readers. All that the broker keeps is read for it.

        Raises:
            ActorNotFound: there is no journal.
        """
        last: deque[_Found] = deque(maxlen=limit)
        async for found, _ in self._records():
            if not isinstance(found.record, ReadMarker):
                last.append(found)
        return [self._entry(found) for found in last]

    async def owner(self) -> tuple[HistoryEntry | None, HistoryEntry | None]:
        """The epoch and the last commit that count; None where there is none, or it is older than what the broker keeps.

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
        """After the commit of this number, or the last one.

        Raises:
            ActorNotFound: there is no journal.
            ActorHubError: the journal has no such commit.
            UntrustedPayload: the state is a pickle, and there is no secret here, or another one.
            NotSerialisable: its classes cannot be imported here.
        """
        first: int | None = None
        keyed = False
        commit: Commit | None = None
        states: Sequence[StateRecord] = ()
        async for found, past in self._records():
            if found.verdict == "counts" and isinstance(found.record, Commit):
                first = first or found.record.seq
                keyed = bool(past.places)
                commit = found.record
                kept = [state for state in commit.states if state.key == self._key]
                states = (kept or states) if self._key else past.states
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
        """From the first one of which it is known whether it counts, each with all that counts up to it."""
        fold = _Replay()
        async for offset, body in self._bodies():
            for found in fold.read(offset, body):
                yield found, fold.past
        if fold.waits:
            raise ActorHubError(
                f"the journal of {self._who} begins at {fold.waits}, and nothing behind it stands for what is lost before; "
                "give journals more room by `journal_retention`"
            )

    async def _bodies(self) -> AsyncIterator[tuple[int, bytes]]:
        """Up to the end that it has now, however fast the owner goes on."""
        await self._check_there()
        offset, end = 0, await self._session.broker.end_offset(self._journal)
        while offset < end:
            page = await self._session.broker.peek(self._journal, limit=min(PAGE, end - offset), offset=offset)
            if page and offset and page[0][0] > offset + 1:  # one may be missing: RabbitMQ takes some for itself
                raise ActorHubError(f"the broker dropped the beginning of {self._journal} meanwhile; read it again")
            for at, message in page:
                if at < end:
                    yield at, message.body
            if not page:
                return
            offset = page[-1][0] + 1

    async def _check_there(self) -> None:
        link = await self._session.live_link()
        if await link.state(self._journal) is None:
            raise ActorNotFound(f"{self._who} has no journal: there is no such durable actor (any more)")

    # ---- telling

    def _entry(self, found: _Found) -> HistoryEntry:
        common: dict[str, Any] = {"offset": found.offset, "size": found.size, "verdict": found.verdict}
        record = found.record
        if isinstance(record, Epoch):
            return HistoryEntry(kind="epoch", epoch=record.epoch, owner=record.owner, **common)
        if not isinstance(record, Commit):
            return HistoryEntry(kind="unknown", **common)
        tells = [posting for posting in record.outbox if _is_tell(posting)]
        letters = [posting for posting in tells if posting.queue == self._dead]
        return HistoryEntry(
            kind="commit",
            number=record.seq,
            epoch=record.epoch,
            owner=record.owner,
            time=record.time,
            methods=tuple(method for method in record.methods if method),
            answers=sum(len(posting.replies) for posting in record.outbox),
            tells=sum(_envelopes_in(posting) for posting in tells if posting.queue != self._dead),
            letters=len(letters),
            state_size=sum(state.size for state in record.states) if record.states else None,
            patch=any(state.patch for state in record.states),
            keys=tuple(state.key for state in record.states if state.key),
            image=record.image is not None,
            **common,
        )


class _Replay:
    """Reads the records in their order. Where the beginning is lost, it waits for a record that names a commit to begin at, and
    passes over all before that one. `waits`: the first offset, while it does."""

    def __init__(self) -> None:
        self.past = JournalState(limit=0)
        self.waits: int | None = None
        self._early: list[tuple[int, int, Record | None]] = []
        self._commits: set[int] = set()
        self._begun = False

    def read(self, offset: int, body: bytes) -> Iterator[_Found]:
        try:
            record: Record | None = records.decode(body)
        except InvalidRecord:
            record = None
        if self._begun or offset == 0:
            self._begun = True
            yield self._judged(offset, len(body), record)
            return
        if self.waits is None:
            self.waits = offset
        self._early.append((offset, len(body), record))
        if isinstance(record, Commit):
            self._commits.add(offset)
        low = record.low if isinstance(record, Commit | Epoch) else 0
        if low in self._commits:
            self._begun, self.waits, self.past.low = True, None, low
            early, self._early = self._early, []
            for at, size, known in early:
                if at >= low:
                    yield self._judged(at, size, known)

    def _judged(self, offset: int, size: int, record: Record | None) -> _Found:
        validity = self.past.validity
        before = validity.epoch, validity.owner, validity.next
        if record is None:
            return _Found(offset, size, None, "foreign")
        verdict: Verdict = "counts" if self.past.read(offset, record, size) else _why_not(record, *before)
        return _Found(offset, size, record, verdict)


def _why_not(record: Record, epoch: int, owner: str, following: int) -> Verdict:
    if isinstance(record, ReadMarker) or record.epoch < epoch or (record.epoch == epoch and record.owner != owner):
        return "late"
    if isinstance(record, Epoch) or (record.epoch == epoch and record.seq < following):
        return "repeated"
    return "early"


def _is_tell(posting: OutboxEntry) -> bool:
    return not posting.replies and posting.due is None and posting.declares is None


def _envelopes_in(posting: OutboxEntry) -> int:
    try:
        return len(envelopes(posting.body, posting.content_type))
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
