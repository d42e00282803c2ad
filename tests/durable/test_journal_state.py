"""The fencing rule, and the state that a journal's records add up to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actorhub.durable.protocol.fencing import FencingRule
from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Commit, Epoch, OutboxEntry, ReadMarker, Record, StateRecord
from tests.durable.journals import epoch, owners, seal, small_commits, small_epochs

logs = st.lists(st.one_of(small_epochs, small_commits, small_commits, st.builds(ReadMarker, id=owners)), max_size=40)


def valid(log: Iterable[Record]) -> list[bool]:
    rule = FencingRule()
    return [rule.counts(record) for record in log]


@given(logs, logs)
def test_later_records_do_not_change_which_earlier_ones_count(log: list[Record], later: list[Record]) -> None:
    assert valid([*log, *later])[: len(log)] == valid(log)


@given(logs)
def test_records_that_do_not_count_change_nothing(log: list[Record]) -> None:
    counting = [record for record, counts in zip(log, valid(log), strict=True) if counts]
    assert valid(counting) == [True] * len(counting)


@given(logs)
def test_counting_commits_have_no_gaps_and_counting_epochs_rise(log: list[Record]) -> None:
    counting = [record for record, counts in zip(log, valid(log), strict=True) if counts]
    assert [one.seq for one in counting if isinstance(one, Commit)] == list(
        range(1, sum(isinstance(one, Commit) for one in counting) + 1)
    )
    epochs = [one.epoch for one in counting if isinstance(one, Epoch)]
    assert epochs == sorted(set(epochs))


class Writer:
    """A journal, and its owners one after another, each of which reads what the former ones have written."""

    def __init__(self, checkpoint_after: int) -> None:
        self.log: list[Record] = []
        self._checkpoint_after = checkpoint_after
        self.begin("A")

    def begin(self, who: str) -> None:
        self._state = JournalState()
        for offset, record in enumerate(self.log):
            self._state.read(offset, record)
        self._append(epoch(self._state.fencing.epoch + 1, f"{who}{len(self.log)}", self._state.low))
        owner: JournalOwner[str] = JournalOwner(
            "box", f"{who}{len(self.log) - 1}", self._state, checkpoint_after=self._checkpoint_after
        )
        self.owner = owner
        for seq, _ in owner.inherited:
            owner.confirmed(seq)

    def _append(self, record: Record) -> None:
        self.log.append(record)
        self._state.read(len(self.log) - 1, record)

    def handle(self, sender: str, seq: int, *, posts: bool) -> None:
        intake, _ = self.owner.take(sender, seq, 0, "request")
        if intake is not Intake.RUN:
            return
        self.owner.handled(sender, seq, "request", "m")
        for _ in self.owner.intake.take_held(sender):
            pass
        outbox = []
        if posts:
            name, number = self.owner.number("q")
            outbox.append(OutboxEntry(queue="q", content_type=f"{name} {number}", replies=((sender, seq),)))
        state = json.dumps([sender, seq]).encode()
        sealed = seal(self.owner, [StateRecord(body=state, size=len(state))], outbox)
        self.log.append(sealed)
        assert self.owner.read(len(self.log) - 1, sealed) is sealed
        self.owner.confirmed(sealed.seq)


steps = st.lists(
    st.one_of(
        st.sampled_from("BC"),
        st.tuples(st.sampled_from(("s", "t")), st.integers(1, 9), st.booleans()),
        st.tuples(st.sampled_from(("s", "t")), st.integers(1, 9), st.booleans()),
        small_commits,
    ),
    max_size=40,
)


def history(steps: list[Any], checkpoint_after: int) -> list[Record]:
    writer = Writer(checkpoint_after)
    for step in steps:
        if isinstance(step, str):
            writer.begin(step)
        elif isinstance(step, Commit):
            writer.log.append(step)  # of an owner that has lost the journal
            writer.owner.read(len(writer.log) - 1, step)
        else:
            writer.handle(step[0], step[1], posts=step[2])
    return writer.log


def facts(state: JournalState) -> dict[str, Any]:
    return {
        "fencing": (state.fencing.epoch, state.fencing.owner, state.fencing.next_seq),
        "states": state.states,
        "senders": {sender: applied.numbers for sender, applied in state.senders.items()},
        "sent": state.sent,
        "lineage": state.lineage,
        "unconfirmed outboxes": dict(state.unconfirmed_outboxes),
        "low": state.low,
        "replies": state.replies.entries,
        "commits since checkpoint": state.commits_since_checkpoint,
        "next offset": state.next_offset,
    }


@given(steps, st.integers(1, 4))
def test_reading_from_low_gives_the_same_state_as_reading_everything(steps: list[Any], checkpoint_after: int) -> None:
    log = history(steps, checkpoint_after)
    whole = JournalState()
    for offset, record in enumerate(log):
        whole.read(offset, record)
    lows = {record.low for record in log if isinstance(record, Epoch | Commit)} | {whole.low}
    for low in lows:
        part = JournalState().restarted_at(low)
        for offset in range(low, len(log)):
            part.read(offset, log[offset])
        assert facts(part) == facts(whole)
