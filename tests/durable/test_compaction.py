"""States of keyed actors in a journal that is small: what an owner does so that retention drops nothing that is needed.

`Keeping` does what `Ownership`, `Compactor` and `InstancePool` do, without a clock or a broker: each await is a place at which
others may go on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from actorhub.durable.journal import OVERHEAD
from actorhub.durable.protocol.journal_state import JournalState, RecordPosition
from actorhub.durable.protocol.owner import Intake, JournalOwner
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record, StateRecord, encode
from actorhub.durable.protocol.takeover import Append, ReadFrom, Takeover

RETENTION = 1 << 18
LARGEST = RETENTION // 16  # bytes of a state
KEYS = 8
LIVE = RETENTION // 8  # bytes that all states have together
BATCH_BYTES = RETENTION // 32
IN_HAND = 24  # messages
STEPS = 500


class Journal:
    """A stream that drops its oldest segments; none has more than `segment` bytes before its last record."""

    def __init__(self, segment: int) -> None:
        self.log: list[tuple[Record, int]] = []
        self.first = 0
        self._segment = segment
        self._segments = [[0, 0]]  # where each begins, and its bytes

    def append(self, record: Record) -> int:
        size = len(encode(record)) + OVERHEAD
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
        """What a new owner reads."""
        takeover, at = Takeover(me, f"mark of {me}", JournalState(limit=RETENTION // 8)), 0
        actions = takeover.start()
        while True:
            for action in actions:
                if isinstance(action, Append):
                    self.append(action.record)
                else:
                    at = self._where(action)
            if takeover.over:
                return takeover.past
            at = max(at, self.first)
            record, size = self.log[at]
            actions = takeover.read(at, record, size)
            at += 1

    def _where(self, action: ReadFrom) -> int:
        return len(self.log) - 1 if isinstance(action.offset, str) else action.offset


class Keeping:
    """An owner of keyed instances, and those of them that are in memory."""

    def __init__(self, journal: Journal, me: str) -> None:
        self.journal = journal
        self.past = journal.take_over(me)
        self.sealed = {key: self._kept_at(key, place) for key, place in self.past.places.items()}
        """The state of each, as the last commit has it."""
        self.owner: JournalOwner[str] = JournalOwner(
            "box", me, self.past, image_bytes=RETENTION // 8, room=RETENTION // 2, batch_bytes=BATCH_BYTES
        )
        self.unposted = [seq for seq, _ in self.owner.inherited]
        self.in_hand: dict[int, str] = {}
        self.carrier: Iterator[None] | None = None
        self._kept: dict[str, bytes] = {}
        self._committed: dict[str, bytes | None] = {}
        self._changed: dict[str, None] = {}
        self._outbox: list[OutboxEntry] = []
        self._seq = 0
        self._me = me
        self._carry_if_needed()

    def _kept_at(self, key: str, place: RecordPosition) -> bytes:
        (body,) = [state.body for state in self.journal.read(place.offset).states if state.key == key]
        return body

    # ---- messages

    def handle(self, key: str, size: int | None, posting: int | None) -> None:
        """One that changes its instance to a state of so many bytes, or does not change it; what it posts has so many."""
        if len(self.in_hand) >= IN_HAND:
            return
        self._seq += 1
        assert self.owner.take(self._me, self._seq, 0, key) == (Intake.RUN, None)
        self.in_hand[self._seq] = key
        if key not in self._kept:
            place = self.past.places.get(key)
            self._kept[key] = self._kept_at(key, place) if place is not None else b""
            self._committed[key] = self._kept[key] or None
            assert self._kept[key] == self.sealed.get(key, b""), "it comes back as it was"
        if size is not None:
            others = sum(len(body) for other, body in {**self.sealed, **self._kept}.items() if other != key)
            said = f"{key} {self._me} {self._seq}".encode()
            self._kept[key] = said.ljust(max(len(said), min(size, LIVE - others)), b"x")
        if posting is not None:
            self._outbox.append(OutboxEntry(queue="q", content_type="", body=b"x" * posting, size=posting))
        grown = (len(self._kept[key]) if key not in self._changed else 0) + (posting or 0)
        self._changed[key] = None
        self.owner.handled(self._me, self._seq, key, "m", grown)
        if self.owner.may_seal and self.owner.is_full:
            self.flush()
        elif self.owner.is_full:
            self._close()

    def passivate(self) -> None:
        for key in [key for key in self._kept if key not in self.in_hand.values()]:
            del self._kept[key], self._committed[key]

    def flush(self) -> None:
        while self.owner.may_seal:
            if not self.owner.has_closed:
                self._close()
            self._append(self.owner.seal())

    def _close(self) -> None:
        outbox, self._outbox = self._outbox, []
        self.owner.close(self._changes(), outbox)

    def _changes(self) -> list[StateRecord]:
        changed, self._changed = self._changed, {}
        bodies = {key: self._kept[key] for key in changed if self._kept[key] != self._committed[key]}
        self._committed |= bodies
        return [StateRecord(key=key, body=body, size=len(body)) for key, body in bodies.items()]

    def _append(self, commit: Commit) -> None:
        self.owner.record_size(commit, self.journal.append(commit))
        self.sealed |= {state.key: state.body for state in commit.states}
        needed = self.past.oldest.offset
        assert self.journal.first <= needed, f"{needed} is needed, and the journal begins at {self.journal.first}"

    # ---- what the broker brings

    def read_back(self) -> None:
        if self.past.end == len(self.journal.log):
            return
        record, size = self.journal.log[self.past.end]
        commit = self.owner.read(self.past.end, record, size)
        if commit is None:
            return
        if commit.outbox:
            self.unposted.append(commit.seq)
        else:
            self._posted(commit.seq)
        self.flush()
        self._carry_if_needed()

    def confirm(self) -> None:
        if self.unposted:
            self._posted(self.unposted.pop(0))
            self.flush()

    def _posted(self, seq: int) -> None:
        self.owner.posted(seq)
        handled = [number for number in self.in_hand if self.owner.take(self._me, number, 0, "")[0] is Intake.DONE]
        for number in handled:
            del self.in_hand[number]

    # ---- carrying

    @property
    def _oldest_is_far_back(self) -> bool:
        places = self.past.places
        return bool(places) and self.past.size - next(iter(places.values())).size > RETENTION // 4

    def _carry_if_needed(self) -> None:
        if self.carrier is None and self._oldest_is_far_back:
            self.carrier = self._carry_forward()

    def carry(self) -> None:
        if self.carrier is not None and next(self.carrier, self) is self:
            self.carrier = None

    def _carry_forward(self) -> Iterator[None]:
        while self._oldest_is_far_back:
            place = next(iter(self.past.places.values()))
            yield
            if self.journal.first > place.offset and place not in self.past.places.values():
                continue
            commit = self.journal.read(place.offset)
            while self.owner.in_flight:
                yield
            if there := [state for state in commit.states if self.past.places.get(state.key) == place]:
                self._append(self.owner.seal_rewritten(there))
            while self.owner.in_flight:
                yield
            self.flush()


def settle(keeping: Keeping) -> None:
    """Everything that may go on does, in turn."""
    for _ in range(1000):
        if keeping.owner.settled and keeping.carrier is None:
            return
        keeping.flush()
        keeping.read_back()
        keeping.confirm()
        keeping.carry()
    raise AssertionError("the owner has stalled")


class Habits(NamedTuple):
    """How often what happens: weights."""

    handle: int
    read_back: int
    confirm: int
    carry: int
    passivate: int
    take_over: int


weights = st.integers(1, 10)
habits = st.builds(Habits, weights, weights, weights, weights, st.integers(0, 2), st.sampled_from([0, 0, 1]))
largest = st.sampled_from([0, 100, LARGEST // 4, LARGEST])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), habits, st.integers(1, KEYS), largest, largest, st.sampled_from([1, RETENTION // 4]))
def test_nothing_that_is_needed_is_dropped_and_no_owner_stalls(
    seed: int, habits: Habits, used: int, state: int, posting: int, segment: int
) -> None:
    """Invariant: the journal always has what the owner may read again; whoever takes over finds each instance's last state;
    and all that was handled is committed in the end. `used` instances are called often; a state has at most `state` bytes, and
    what is posted `posting`."""
    chance = random.Random(seed)
    journal = Journal(segment)
    keeping = Keeping(journal, "owner 0")
    for number in range(1, STEPS):
        (step,) = chance.choices(Habits._fields, habits)
        if step == "handle":
            for _ in range(chance.randint(1, 8) if keeping.owner.may_handle else 0):
                key = chance.randrange(used if chance.random() < 0.98 else KEYS)
                size = chance.choice([None, *[chance.randint(0, state)] * 3])
                keeping.handle(str(key), size, chance.choice([None, chance.randint(0, posting)]))
            keeping.flush()
        elif step == "take_over":
            expected, keeping = keeping.sealed, Keeping(journal, f"owner {number}")
            assert keeping.sealed == expected
        else:
            getattr(keeping, step)()
    settle(keeping)
    assert Keeping(journal, "last").sealed == keeping.sealed
