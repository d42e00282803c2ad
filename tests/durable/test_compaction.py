"""States of keyed actors in a small journal: an owner rewrites them in time, so that retention drops nothing that is needed.

`Keeper` does what `Ownership`, `Compactor` and `InstancePool` do, without a clock or a broker: where they await something,
other steps may come in between.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from actorhub.durable.journal import RECORD_OVERHEAD_BYTES
from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.journal_state import JournalState, RecordPosition
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record, StateRecord, encode
from actorhub.durable.protocol.takeover import Append, ReadFrom, Takeover

RETENTION = 1 << 18
MAX_STATE_BYTES = RETENTION // 16
KEYS = 8
ALL_STATES_BYTES = RETENTION // 8
BATCH_BYTES = RETENTION // 32
MAX_IN_HAND = 24
STEPS = 500


class Journal:
    """A stream that drops its oldest segments. Before its last record, a segment has at most `segment` bytes."""

    def __init__(self, segment: int) -> None:
        self.log: list[tuple[Record, int]] = []
        self.first = 0
        self._segment = segment
        self._segments = [[0, 0]]  # first offset and bytes of each

    def append(self, record: Record) -> int:
        size = len(encode(record)) + RECORD_OVERHEAD_BYTES
        if self._segments[-1][1] + size > self._segment and self._segments[-1][1]:
            self._segments.append([len(self.log), 0])
        self.log.append((record, size))
        self._segments[-1][1] += size
        while sum(bytes_ for _, bytes_ in self._segments) > RETENTION and len(self._segments) > 1:
            del self._segments[0]
            self.first = self._segments[0][0]
        return size

    def read(self, offset: int) -> Commit:
        assert offset >= self.first, f"{offset} is needed, and the journal begins at {self.first}"
        record, _ = self.log[offset]
        assert isinstance(record, Commit)
        return record

    def take_over(self, me: str) -> JournalState:
        """The state that a new owner has read."""
        takeover, at = Takeover(me, f"marker of {me}", JournalState(max_reply_bytes=RETENTION // 8)), 0
        actions = takeover.start()
        while True:
            for action in actions:
                if isinstance(action, Append):
                    self.append(action.record)
                else:
                    at = self._where(action)
            if takeover.is_done:
                return takeover.journal_state
            at = max(at, self.first)
            record, size = self.log[at]
            actions = takeover.read(at, record, size)
            at += 1

    def _where(self, action: ReadFrom) -> int:
        return len(self.log) - 1 if isinstance(action.offset, str) else action.offset


class Keeper:
    """An owner of keyed instances, and the instances in memory."""

    def __init__(self, journal: Journal, me: str) -> None:
        self.journal = journal
        self.journal_state = journal.take_over(me)
        self.sealed = {key: self._state_at(key, position) for key, position in self.journal_state.positions.items()}
        """The state of each key in its last commit."""
        self.owner: JournalOwner[str] = JournalOwner(
            "box", me, self.journal_state, checkpoint_bytes=RETENTION // 8, room=RETENTION // 2, batch_bytes=BATCH_BYTES
        )
        self.unconfirmed = [seq for seq, _ in self.owner.inherited]
        self.in_hand: dict[int, str] = {}
        self.compaction: Iterator[None] | None = None
        self._kept: dict[str, bytes] = {}
        self._committed: dict[str, bytes | None] = {}
        self._changed: dict[str, None] = {}
        self._outbox: list[OutboxEntry] = []
        self._seq = 0
        self._me = me
        self._compact_if_due()

    def _state_at(self, key: str, position: RecordPosition) -> bytes:
        (body,) = [state.body for state in self.journal.read(position.offset).states if state.key == key]
        return body

    # ---- messages

    def handle(self, key: str, size: int | None, tell: int | None) -> None:
        """Handle a message. `size`: bytes of its instance's state afterwards, if it changes it; `tell`: those of its tell."""
        if len(self.in_hand) >= MAX_IN_HAND:
            return
        self._seq += 1
        assert self.owner.take(self._me, self._seq, 0, key) == (Intake.RUN, None)
        self.in_hand[self._seq] = key
        if key not in self._kept:
            position = self.journal_state.positions.get(key)
            self._kept[key] = self._state_at(key, position) if position is not None else b""
            self._committed[key] = self._kept[key] or None
            assert self._kept[key] == self.sealed.get(key, b""), "a passivated instance comes back as it was"
        if size is not None:
            others = sum(len(body) for other, body in {**self.sealed, **self._kept}.items() if other != key)
            said = f"{key} {self._me} {self._seq}".encode()
            self._kept[key] = said.ljust(max(len(said), min(size, ALL_STATES_BYTES - others)), b"x")
        if tell is not None:
            self._outbox.append(OutboxEntry(queue="q", content_type="", body=b"x" * tell, size=tell))
        grown = (len(self._kept[key]) if key not in self._changed else 0) + (tell or 0)
        self._changed[key] = None
        self.owner.handled(self._me, self._seq, key, "m", grown)
        if self.owner.next_step().commits and self.owner.is_full:
            self.flush()
        elif self.owner.is_full:
            self._close()

    def passivate(self) -> None:
        for key in [key for key in self._kept if key not in self.in_hand.values()]:
            del self._kept[key], self._committed[key]

    def flush(self) -> None:
        while self.owner.next_step().commits:
            if not self.owner.has_closed_batch:
                self._close()
            self._append(self.owner.seal())

    def _close(self) -> None:
        outbox, self._outbox = self._outbox, []
        self.owner.close_batch(self._changes(), outbox)

    def _changes(self) -> list[StateRecord]:
        changed, self._changed = self._changed, {}
        bodies = {key: self._kept[key] for key in changed if self._kept[key] != self._committed[key]}
        self._committed |= bodies
        return [StateRecord(key=key, body=body, size=len(body)) for key, body in bodies.items()]

    def _append(self, commit: Commit) -> None:
        self.owner.record_size(commit, self.journal.append(commit))
        self.sealed |= {state.key: state.body for state in commit.states}
        needed = self.journal_state.oldest_needed.offset
        assert self.journal.first <= needed, f"{needed} is needed, and the journal begins at {self.journal.first}"

    # ---- from the broker

    def read_back(self) -> None:
        if self.journal_state.next_offset == len(self.journal.log):
            return
        record, size = self.journal.log[self.journal_state.next_offset]
        commit = self.owner.read(self.journal_state.next_offset, record, size)
        if commit is None:
            return
        if commit.outbox:
            self.unconfirmed.append(commit.seq)
        else:
            self._confirmed(commit.seq)
        self.flush()
        self._compact_if_due()

    def confirm(self) -> None:
        if self.unconfirmed:
            self._confirmed(self.unconfirmed.pop(0))
            self.flush()

    def _confirmed(self, seq: int) -> None:
        self.owner.confirmed(seq)
        handled = [number for number in self.in_hand if self.owner.take(self._me, number, 0, "")[0] is Intake.DONE]
        for number in handled:
            del self.in_hand[number]

    # ---- compaction

    @property
    def _is_compaction_due(self) -> bool:
        positions = self.journal_state.positions
        if not positions:
            return False
        return self.journal_state.bytes_read - next(iter(positions.values())).bytes_read > RETENTION // 4

    def _compact_if_due(self) -> None:
        if self.compaction is None and self._is_compaction_due:
            self.compaction = self._compact()

    def compact(self) -> None:
        if self.compaction is not None and next(self.compaction, self) is self:
            self.compaction = None

    def _compact(self) -> Iterator[None]:
        while self._is_compaction_due:
            position = next(iter(self.journal_state.positions.values()))
            yield
            if self.journal.first > position.offset and position not in self.journal_state.positions.values():
                continue
            commit = self.journal.read(position.offset)
            while self.owner.in_flight:
                yield
            if current := [state for state in commit.states if self.journal_state.positions.get(state.key) == position]:
                self._append(self.owner.seal_rewritten(current))
            while self.owner.in_flight:
                yield
            self.flush()


def settle(keeper: Keeper) -> None:
    """Let everything go on in turn that can."""
    for _ in range(1000):
        if keeper.owner.settled and keeper.compaction is None:
            return
        keeper.flush()
        keeper.read_back()
        keeper.confirm()
        keeper.compact()
    raise AssertionError("the owner has stalled")


class Weights(NamedTuple):
    """Weights: how often each step happens."""

    handle: int
    read_back: int
    confirm: int
    compact: int
    passivate: int
    take_over: int


weights = st.integers(1, 10)
mixes = st.builds(Weights, weights, weights, weights, weights, st.integers(0, 2), st.sampled_from([0, 0, 1]))
largest = st.sampled_from([0, 100, MAX_STATE_BYTES // 4, MAX_STATE_BYTES])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), mixes, st.integers(1, KEYS), largest, largest, st.sampled_from([1, RETENTION // 4]))
def test_retention_drops_nothing_that_is_needed_and_no_owner_stalls(
    seed: int, likely: Weights, used: int, state: int, tell: int, segment: int
) -> None:
    """Invariant: the journal always has what the owner may read again; a new owner finds the last state of each instance; and
    all that was handled is committed in the end.

    `used` instances are called often; a state has at most `state` bytes, and a tell at most `tell`."""
    chance = random.Random(seed)
    journal = Journal(segment)
    keeper = Keeper(journal, "owner 0")
    for number in range(1, STEPS):
        (step,) = chance.choices(Weights._fields, likely)
        if step == "handle":
            for _ in range(chance.randint(1, 8) if keeper.owner.may_handle else 0):
                key = chance.randrange(used if chance.random() < 0.98 else KEYS)
                size = chance.choice([None, *[chance.randint(0, state)] * 3])
                keeper.handle(str(key), size, chance.choice([None, chance.randint(0, tell)]))
            keeper.flush()
        elif step == "take_over":
            expected, keeper = keeper.sealed, Keeper(journal, f"owner {number}")
            assert keeper.sealed == expected
        else:
            getattr(keeper, step)()
    settle(keeper)
    assert Keeper(journal, "last").sealed == keeper.sealed
