"""State of a journal: the fold of the records that count. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from actorhub.durable.protocol.deduplication import KEPT_REPLY_BYTES, AppliedSequences, ReplyCache
from actorhub.durable.protocol.fencing import FencingRule
from actorhub.durable.protocol.records import (
    Checkpoint,
    Commit,
    Epoch,
    OutboxEntry,
    Record,
    StateRecord,
    StoredTimer,
)

MAX_SENDERS = 10_000
"""Senders whose numbers are kept, and as many senders of a single message; the one silent for longest is forgotten first."""


class RecordPosition(NamedTuple):
    """Position of a record in a journal."""

    offset: int

    bytes_read: int
    """Bytes read up to the end of the record."""


class JournalState:
    """The fold of a journal's records, read in order.

    Args:
        max_reply_bytes: bytes of replies that are kept for repeated calls.
        in_parts: the actor's state consists of parts, each under its key, and all of them are wanted.
    """

    def __init__(self, *, max_reply_bytes: int = KEPT_REPLY_BYTES, in_parts: bool = False) -> None:
        self.fencing = FencingRule()

        self.states: list[StateRecord] = []
        """State of the only instance: the last whole one, and the patches since."""

        self.positions: OrderedDict[str, RecordPosition] = OrderedDict()
        """For each key, the commit that has its state, oldest first."""

        self.parts: dict[str, StateRecord] | None = {} if in_parts else None
        """All parts of the state, by key, until `take_parts`."""

        self.senders: OrderedDict[str, AppliedSequences] = OrderedDict()
        """Applied numbers of each sender, the one silent for longest first."""

        self.single_message_senders: OrderedDict[str, AppliedSequences] = OrderedDict()
        """The same for messages that have an id in place of a number, each with a sender name of its own that begins with
        `~`."""

        self.replies = ReplyCache(max_bytes=max_reply_bytes)
        self.timers: dict[str, StoredTimer] = {}

        self.sent: dict[str, int] = {}
        """The last number used for each queue, by senders of the current lineage."""

        self.lineage = 0

        self.unconfirmed_outboxes: OrderedDict[int, tuple[OutboxEntry, ...]] = OrderedDict()
        """By number of the commit, outboxes of which no record says that they are confirmed."""

        self.low = 0
        """Offset from which the journal can be read without losing anything. See `restarted_at`."""

        self.next_offset = 0
        """Offset behind the last record read."""

        self.bytes_read = 0
        """Bytes of all records read, whether they count or not."""

        self.commits_since_checkpoint = 0

        self.state_version = 0
        """The latest version that a state in the journal has."""

        self._max_reply_bytes = max_reply_bytes
        self._checkpoint = RecordPosition(0, 0)

    def restarted_at(self, low: int) -> JournalState:
        """A state in which nothing has been read yet, for a reader that begins at the offset `low`."""
        state = type(self)(max_reply_bytes=self._max_reply_bytes, in_parts=self.parts is not None)
        state.low = state.next_offset = low
        return state

    # ---- reading

    def read(self, offset: int, record: Record | None, size: int = 0) -> bool:
        """Read the next record; True if it counts. None stands for a message that is not a record, `size` is its bytes."""
        self.next_offset = offset + 1
        self.bytes_read += size
        if record is None:
            return False
        if offset == self.low and not self.fencing.epoch and isinstance(record, Commit):
            self.fencing.begin_at(record)
        if not self.fencing.counts(record):
            return False
        if isinstance(record, Commit):
            self._apply(offset, record)
        elif isinstance(record, Epoch):
            self.low = max(self.low, record.low)
        return True

    def _apply(self, offset: int, commit: Commit) -> None:
        self.commits_since_checkpoint += 1
        if commit.image is not None:
            self.commits_since_checkpoint = 0
            self._restore(commit.image)
            self._checkpoint = RecordPosition(offset, self.bytes_read)
        for sender, first, last in commit.applied:
            self._sender(sender).add(first, last)
        for sender, seq in commit.acked.items():
            self.replies.forget_below(sender, seq)
        if commit.lineage != self.lineage:
            self.lineage, self.sent = commit.lineage, {}
        self.sent.update(commit.sent)
        for timer_id, timer in commit.timers.items():
            if timer is None:
                self.timers.pop(timer_id, None)
            else:
                self.timers[timer_id] = timer
        for state in commit.states:
            self._apply_state(offset, state)
        self.low = max(self.low, commit.low, self.oldest_needed.offset)
        for entry in commit.outbox:
            self.replies.add(entry)
        if commit.outbox:
            self.unconfirmed_outboxes[commit.seq] = commit.outbox
        while self.unconfirmed_outboxes and next(iter(self.unconfirmed_outboxes)) <= commit.flushed:
            self.unconfirmed_outboxes.popitem(last=False)

    def _apply_state(self, offset: int, state: StateRecord) -> None:
        self.state_version = max(self.state_version, state.version)
        if state.gone:
            self.positions.pop(state.key, None)
            if self.parts is not None:
                self.parts.pop(state.key, None)
        elif state.key:
            self.positions[state.key] = RecordPosition(offset, self.bytes_read)
            self.positions.move_to_end(state.key)
            if self.parts is not None:
                self.parts[state.key] = state
        else:
            self.states = [*self.states, state] if state.patch else [state]

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.senders.clear()
        self.single_message_senders.clear()
        for sender, numbers in checkpoint.windows.items():
            self._senders_like(sender)[sender] = AppliedSequences(numbers)
        self.sent, self.lineage = dict(checkpoint.sent), checkpoint.lineage
        self.timers = dict(checkpoint.timers)
        self.replies = ReplyCache(checkpoint.postings, max_bytes=self._max_reply_bytes)

    def _sender(self, sender: str) -> AppliedSequences:
        senders = self._senders_like(sender)
        applied = senders.get(sender)
        if applied is None:
            applied = senders[sender] = AppliedSequences()
            if len(senders) > MAX_SENDERS:
                forgotten, _ = senders.popitem(last=False)
                self.replies.forget_sender(forgotten)
        else:
            senders.move_to_end(sender)
        return applied

    def _senders_like(self, sender: str) -> OrderedDict[str, AppliedSequences]:
        return self.single_message_senders if sender.startswith("~") else self.senders

    # ---- what was read

    @property
    def last_seq(self) -> int:
        """Number of the last commit; 0 if there is none."""
        return self.fencing.next_seq - 1

    def applied(self, sender: str) -> AppliedSequences | None:
        """The applied numbers of a sender; None if it is not known."""
        return self._senders_like(sender).get(sender)

    def take_parts(self) -> list[StateRecord]:
        """All parts of the state. From now on only their positions are kept."""
        parts, self.parts = self.parts or {}, None
        return list(parts.values())

    def checkpoint(self) -> Checkpoint:
        """All that was read, except states."""
        applied = (*self.senders.items(), *self.single_message_senders.items())
        return Checkpoint(
            windows={sender: sequences.numbers for sender, sequences in applied},
            sent=dict(self.sent),
            lineage=self.lineage,
            postings=self.replies.entries,
            timers=dict(self.timers),
        )

    # ---- retention

    @property
    def oldest_needed(self) -> RecordPosition:
        """The first record that must not be dropped."""
        return min(self._checkpoint, next(iter(self.positions.values()), self._checkpoint))

    @property
    def bytes_needed(self) -> int:
        """Bytes from there to the end."""
        return self.bytes_read - self.oldest_needed.bytes_read

    @property
    def bytes_since_checkpoint(self) -> int:
        return self.bytes_read - self._checkpoint.bytes_read

    @property
    def checkpoint_frees_room(self) -> bool:
        """After another checkpoint, fewer bytes would be needed."""
        return self.oldest_needed == self._checkpoint


def named_low(record: Record | None) -> int:
    """Offset to begin reading at, according to a record; 0 if it names none.

    The highest one that any record names is right, even if that record does not count: its writer had seen that the commit at
    the offset counts, and everything from there on is read.
    """
    return record.low if isinstance(record, Epoch | Commit) else 0
