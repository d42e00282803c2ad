"""The owner of a durable mailbox: decides what is handled, committed, released and acknowledged, and when. Pure.

Each sender's messages are taken in order, each once. Handled messages gather in a batch, which becomes one commit, appended
to the journal; meanwhile more is handled, on a state that is not committed yet. Only a commit that has been read back and
counts releases its outbox, and its messages are acknowledged only when that is confirmed. An owner that reads a higher epoch
is the owner no longer: it drops all that was not read back, sends nothing, and acknowledges nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from actorhub.durable.protocol.intake import Intake, MessageIntake
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record, StateRecord, StoredTimer
from actorhub.errors import ActorHubError

RequestT = TypeVar("RequestT")

MAX_COMMITS_IN_FLIGHT = 8
"""Commits that wait to be read back; beyond that, more messages gather in the next one."""

BATCH_MESSAGES = 256
"""Handled messages that are worth another commit while others are in flight."""

BATCH_BYTES = 1024 * 1024
"""Bytes of states and effects that are worth one, however many are in flight."""

MAX_DESTINATIONS = 10_000
"""Queues that are numbered under one lineage; then numbering starts again, under the next lineage."""


class OwnershipLost(ActorHubError):
    """Another owner has taken over, or may have."""


class NextStep(Enum):
    """Next step with the messages handled since the last commit; see `JournalOwner.next_step`."""

    NOTHING = "nothing"
    WAIT_FOR_ROOM = "wait for room"
    WAIT_FOR_CHECKPOINT = "wait for checkpoint"
    GATHER = "gather"
    COMMIT = "commit"
    COMMIT_WITH_CHECKPOINT = "commit with checkpoint"

    @property
    def commits(self) -> bool:
        return self in (NextStep.COMMIT, NextStep.COMMIT_WITH_CHECKPOINT)


@dataclass(eq=False)
class _Batch(Generic[RequestT]):
    """Content of one commit."""

    requests: list[tuple[str, int, RequestT]] = field(default_factory=list)
    acked: dict[str, int] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    timers: dict[str, StoredTimer | None] = field(default_factory=dict)
    size: int = 0
    lineage: int = 0
    states: Sequence[StateRecord] = ()
    outbox: Sequence[OutboxEntry] = ()


@dataclass(eq=False)
class _Appended(Generic[RequestT]):
    """A commit that waits to be read back. `size` is that of its record in bytes."""

    commit: Commit
    batch: _Batch[RequestT]
    size: int = 0


def read_as_owner(me: str, journal_state: JournalState, offset: int, record: Record | None, size: int = 0) -> bool:
    """Read the journal's next record as its current owner; True if the record counts.

    Raises:
        OwnershipLost: another owner has taken over, or may have.
    """
    if offset > journal_state.next_offset:
        # retention has overtaken this reader, and an epoch may be among what was dropped
        raise OwnershipLost(
            f"the journal goes on at {offset}, and {journal_state.next_offset} was never read: another may have taken over"
        )
    counts = journal_state.read(offset, record, size)
    fencing = journal_state.fencing
    if fencing.owner != me:
        raise OwnershipLost(f"{fencing.owner} has taken over with epoch {fencing.epoch}")
    return counts


class JournalOwner(Generic[RequestT]):
    """One owner, from the moment at which its epoch counts. A `RequestT` stands for a message.

    Args:
        name: the mailbox's, the same for all its owners.
        me: this owner's name, unique.
        journal_state: the journal up to this owner's epoch; it is read on here.
        checkpoint_after: commits after which a checkpoint is due.
        checkpoint_bytes: bytes of commits after which a checkpoint is due.
        room: bytes of the journal that the broker keeps for sure: nothing is appended that pushes out what is needed.
        batch_bytes: bytes of states and effects that are worth a commit of their own.
    """

    def __init__(
        self,
        name: str,
        me: str,
        journal_state: JournalState,
        *,
        checkpoint_after: int = 1000,
        checkpoint_bytes: int = 8 * 1024 * 1024,
        room: int = 64 * 1024 * 1024,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.me = me
        self.journal_state = journal_state
        self.epoch = journal_state.fencing.epoch

        self.inherited = list(journal_state.unconfirmed_outboxes.items())
        """By commit, outboxes of former owners that may not have been published: to be published again, before all else."""

        self.timers = dict(journal_state.timers)
        """As they are after all that has been handled."""

        self.intake: MessageIntake[RequestT] = MessageIntake(journal_state)
        self._name = name
        self._checkpoint_after = checkpoint_after
        self._checkpoint_bytes = checkpoint_bytes
        self._room = room
        self._batch_bytes = batch_bytes
        self._seq = journal_state.last_seq
        self._sent = dict(journal_state.sent)
        self._lineage = journal_state.lineage
        self._batch: _Batch[RequestT] = _Batch()
        """Open: what is handled goes into it."""

        self._closed: deque[_Batch[RequestT]] = deque()
        """To be sealed and appended."""

        self._appended: OrderedDict[int, _Appended[RequestT]] = OrderedDict()
        """To be read back."""

        self._counted: dict[int, _Batch[RequestT]] = {}
        """Read back; their outboxes are not confirmed."""

        self._unconfirmed = set(journal_state.unconfirmed_outboxes)
        """Numbers of inherited, appended and counted commits."""

        self._commits_since_checkpoint = journal_state.commits_since_checkpoint
        self._bytes_since_checkpoint = journal_state.bytes_since_checkpoint

    # ---- handling

    def take(self, sender: str, seq: int, acked_below: int, request: RequestT) -> tuple[Intake, RequestT | None]:
        """Decide on a message that has come; see `MessageIntake.take`.

        Args:
            acked_below: number below which the sender will not ask for a reply again; 0 if it does not say.
        """
        if sender and acked_below:
            self._batch.acked[sender] = max(acked_below, self._batch.acked.get(sender, 0))
        return self.intake.take(sender, seq, request)

    def number(self, queue: str) -> tuple[str, int]:
        """Sender and number of the next message to a queue. They are the same if another owner handles the same again."""
        if len(self._sent) >= MAX_DESTINATIONS and queue not in self._sent and not self._batch.sent:
            self._lineage, self._sent = self._lineage + 1, {}
        seq = self._sent[queue] = self._sent.get(queue, 0) + 1
        self._batch.sent[queue] = seq
        return f"{self._name}.{self._lineage}", seq

    def set_timer(self, timer: StoredTimer) -> None:
        self.timers[timer.timer.id] = self._batch.timers[timer.timer.id] = timer

    def drop_timer(self, timer_id: str) -> bool:
        """False if there is no such timer."""
        found = self.timers.pop(timer_id, None) is not None
        if found:
            self._batch.timers[timer_id] = None
        return found

    def handled(self, sender: str, seq: int, request: RequestT, method: str, size: int = 0) -> None:
        """Add a message to the open batch. `size`: bytes of its state and effects, about."""
        self._batch.size += size
        self._batch.requests.append((sender, seq, request))
        self._batch.methods.append(method)

    # ---- committing

    def next_step(self) -> NextStep:
        """Next step with the messages handled since the last commit. The first row that holds decides:

        | holds                                                                         | step                   |
        |-------------------------------------------------------------------------------|------------------------|
        | no message has been handled                                                   | NOTHING                |
        | a checkpoint is due, and would miss a commit that is in flight or unconfirmed | WAIT_FOR_CHECKPOINT    |
        | the journal has no room for a commit, and no checkpoint is due to free some   | WAIT_FOR_ROOM          |
        | a checkpoint is due                                                           | COMMIT_WITH_CHECKPOINT |
        | a batch is full or closed                                                     | COMMIT                 |
        | no commit waits to be read back                                               | COMMIT                 |
        | BATCH_MESSAGES are handled, fewer than MAX_COMMITS_IN_FLIGHT wait             | COMMIT                 |
        | none of these                                                                 | GATHER                 |
        """
        if not self._batch.requests and not self._closed:
            return NextStep.NOTHING
        if self._wants_checkpoint and not self._may_checkpoint:
            return NextStep.WAIT_FOR_CHECKPOINT
        if not self._has_room and not (self._wants_checkpoint and self.journal_state.checkpoint_frees_room):
            return NextStep.WAIT_FOR_ROOM
        if self._wants_checkpoint:
            return NextStep.COMMIT_WITH_CHECKPOINT
        if not self.may_handle or not self._appended:
            return NextStep.COMMIT
        if len(self._batch.requests) >= BATCH_MESSAGES and len(self._appended) < MAX_COMMITS_IN_FLIGHT:
            return NextStep.COMMIT
        return NextStep.GATHER

    @property
    def is_full(self) -> bool:
        """The open batch is large enough for a commit of its own: `close_batch` it."""
        return self._batch.size >= self._batch_bytes

    @property
    def has_closed_batch(self) -> bool:
        """A batch waits to be sealed."""
        return bool(self._closed)

    @property
    def may_handle(self) -> bool:
        """False while a full or a closed batch waits to be appended: handling must pause."""
        return not self._closed and not self.is_full

    @property
    def _has_room(self) -> bool:
        """Another commit pushes nothing that is needed out of the journal."""
        in_flight = sum(appended.size for appended in self._appended.values())
        return self.journal_state.bytes_needed + in_flight <= self._room

    @property
    def _wants_checkpoint(self) -> bool:
        return (
            self._commits_since_checkpoint >= self._checkpoint_after
            or self._bytes_since_checkpoint >= self._checkpoint_bytes
        )

    @property
    def _may_checkpoint(self) -> bool:
        """Nothing is in flight that a checkpoint would miss."""
        return not self._appended and not self._unconfirmed

    def close_batch(self, states: Sequence[StateRecord], outbox: Sequence[OutboxEntry]) -> None:
        """Close the open batch, to be sealed in its turn; what is handled from now on goes into another one.

        Args:
            states: the states that it changed; that of an only instance must be whole if the commit may get a checkpoint.
            outbox: the messages that its commit releases.
        """
        batch, self._batch = self._batch, _Batch()
        batch.states, batch.outbox, batch.lineage = states, outbox, self._lineage
        self._closed.append(batch)

    def seal(self, *, time: float = 0.0) -> Commit:
        """The commit of the oldest closed batch, to be appended now."""
        return self._seal(self._closed.popleft(), time, with_checkpoint=self._may_have_checkpoint)

    def seal_rewritten(self, states: Sequence[StateRecord], *, time: float = 0.0) -> Commit:
        """A commit that writes states of keys again, before the journal loses the records that have them. To be appended now.
        Nothing may be in flight."""
        batch: _Batch[RequestT] = _Batch(states=states, lineage=self.journal_state.lineage)
        return self._seal(batch, time, with_checkpoint=self._may_have_checkpoint)

    def seal_confirmation(self, *, time: float = 0.0) -> Commit:
        """A commit that says only that all outboxes are confirmed. To be appended now. Nothing may be in flight.

        It has no checkpoint: readers begin at one, so the state of an only instance would have to be in it.
        """
        return self._seal(_Batch(lineage=self.journal_state.lineage), time, with_checkpoint=False)

    @property
    def _may_have_checkpoint(self) -> bool:
        return self._wants_checkpoint and self._may_checkpoint

    def _seal(self, batch: _Batch[RequestT], time: float, *, with_checkpoint: bool) -> Commit:
        self._seq += 1
        commit = Commit(
            epoch=self.epoch,
            owner=self.me,
            seq=self._seq,
            low=self.journal_state.low,
            flushed=min(self._unconfirmed, default=self._seq) - 1,
            time=time,
            applied=_runs(batch.requests),
            acked=batch.acked,
            methods=tuple(batch.methods),
            sent=batch.sent,
            lineage=batch.lineage,
            timers=batch.timers,
            states=tuple(batch.states),
            outbox=tuple(batch.outbox),
            image=self.journal_state.checkpoint() if with_checkpoint else None,
        )
        self._appended[self._seq] = _Appended(commit, batch)
        self._unconfirmed.add(self._seq)
        self._commits_since_checkpoint = 0 if with_checkpoint else self._commits_since_checkpoint + 1
        if with_checkpoint:
            self._bytes_since_checkpoint = 0
        return commit

    def record_size(self, commit: Commit, size: int) -> None:
        """Note how many bytes an appended commit has."""
        self._appended[commit.seq].size = size
        self._bytes_since_checkpoint += size

    # ---- after the append

    def find_appended(self, key: str) -> Commit | None:
        """The commit with this key, if it is the next that should be read back."""
        oldest = next((appended.commit for appended in self._appended.values()), None)
        return oldest if oldest is not None and oldest.key == key else None

    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        """Read the journal's next record; None stands for a message that is not a record. Returns a commit of this owner that
        counts: now its outbox may be published.

        Raises:
            OwnershipLost: another owner has taken over, or may have.
        """
        counts = read_as_owner(self.me, self.journal_state, offset, record, size)
        if not counts or not isinstance(record, Commit):
            return None
        appended = self._appended.pop(record.seq)
        self._counted[record.seq] = appended.batch
        return appended.commit

    def confirmed(self, seq: int) -> list[RequestT]:
        """The outbox of a commit, of this owner or inherited, is confirmed. Returns the requests to be acknowledged now."""
        self._unconfirmed.discard(seq)
        batch = self._counted.pop(seq, None)
        if batch is None:
            return []
        for sender, number, _ in batch.requests:
            self.intake.settled(sender, number)
        return [request for _, _, request in batch.requests]

    @property
    def settled(self) -> bool:
        """All that has been handled is committed, and its effects are confirmed."""
        return not self._batch.requests and not self._closed and not self.in_flight

    @property
    def in_flight(self) -> bool:
        """Effects of a commit are not confirmed."""
        return bool(self._appended or self._counted or self._unconfirmed)

    @property
    def waiting_since(self) -> float | None:
        """Time of the oldest commit that waits to be read back; None if there is none."""
        return next((appended.commit.time for appended in self._appended.values()), None)


def _runs(requests: Sequence[tuple[str, int, object]]) -> tuple[tuple[str, int, int], ...]:
    """Consecutive numbers of a sender, joined."""
    runs: dict[str, list[list[int]]] = {}
    for sender, seq, _ in requests:
        if not sender:
            continue
        of_sender = runs.setdefault(sender, [])
        if of_sender and of_sender[-1][1] == seq - 1:
            of_sender[-1][1] = seq
        else:
            of_sender.append([seq, seq])
    return tuple((sender, first, last) for sender, of_sender in runs.items() for first, last in of_sender)
