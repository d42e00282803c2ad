"""Takeover of a journal by a new owner, while others append and retention drops records."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.records import ReadMarker, Record
from actorhub.durable.protocol.takeover import Append, JournalLost, OwnershipContested, ReadFrom, Takeover
from tests.durable.journals import commit, epoch, with_checkpoint


class Stream:
    """A journal whose beginning retention drops, read by a takeover one record after another."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.log: list[Record | None] = list(records)
        self.first = 0
        self.at = 0
        self.asked: list[int | str] = []

    def do(self, actions: list[ReadFrom | Append]) -> None:
        for action in actions:
            if isinstance(action, Append):
                self.log.append(action.record)
            else:
                self.asked.append(action.offset)
                if isinstance(action.offset, str):
                    self.at = max(len(self.log) - 1, self.first)
                else:
                    self.at = max(action.offset, self.first)

    def next(self, takeover: Takeover) -> None:
        self.at = max(self.at, self.first)
        offset, self.at = self.at, self.at + 1
        self.do(takeover.read(offset, self.log[offset]))

    def finish(self, takeover: Takeover) -> None:
        while not takeover.is_done:
            self.next(takeover)


def begin(stream: Stream, me: str = "me") -> Takeover:
    takeover = Takeover(me, f"marker of {me}", JournalState())
    stream.do(takeover.start())
    return takeover


def test_a_new_owner_reads_all_of_a_journal_without_checkpoints_and_takes_over() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    takeover = begin(stream)
    stream.finish(takeover)
    assert stream.asked == ["last", 0]
    assert stream.log[-1] == epoch(2, "me")
    assert takeover.journal_state.last_seq == 2
    assert takeover.journal_state.fencing.owner == "me"


def test_a_new_owner_reads_what_the_former_one_appends_before_the_epoch_counts() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1)])
    takeover = begin(stream)
    while not takeover.has_caught_up:
        stream.next(takeover)
    stream.log.insert(-1, commit(1, "A", 2))
    stream.log.append(commit(1, "A", 3))
    stream.finish(takeover)
    assert takeover.journal_state.last_seq == 2


def test_a_new_owner_yields_to_another_that_was_quicker() -> None:
    stream = Stream([epoch(1, "A")])
    takeover = begin(stream)
    while not takeover.has_caught_up:
        stream.next(takeover)
    stream.log.insert(-1, epoch(2, "B"))
    with pytest.raises(OwnershipContested, match="B has taken over with epoch 2"):
        stream.finish(takeover)


def test_a_new_owner_finds_low_even_if_the_last_records_do_not_name_it() -> None:
    log: list[Record] = [
        epoch(1, "A"),
        commit(1, "A", 1),
        with_checkpoint(1, "A", 2),
        commit(1, "A", 3, low=2),
        ReadMarker(id="of a dead owner"),
    ]
    stream = Stream(log)
    stream.first = 2
    takeover = begin(stream)
    stream.finish(takeover)
    assert takeover.journal_state.last_seq == 3
    assert takeover.journal_state.low == 2


def test_a_new_owner_begins_again_at_a_higher_low_if_retention_drops_what_it_reads() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    takeover = begin(stream)
    while stream.at < 2 or stream.asked[-1] == "last":
        stream.next(takeover)
    stream.log += [with_checkpoint(1, "A", 3), commit(1, "A", 4, low=4)]
    stream.first = 4
    stream.finish(takeover)
    assert takeover.journal_state.last_seq == 4
    assert takeover.journal_state.low == 4


def test_a_search_for_low_that_retention_overtakes_begins_again() -> None:
    log: list[Record] = [
        epoch(1, "A"),
        commit(1, "A", 1),
        with_checkpoint(1, "A", 2),
        commit(1, "A", 3, low=2),
        ReadMarker(id="of a dead owner"),
    ]
    stream = Stream(log)
    stream.first = 2
    takeover = begin(stream)
    while stream.asked != ["last", 0, 0] or stream.at < 3:
        stream.next(takeover)
    checkpoint = len(stream.log)
    stream.log += [with_checkpoint(1, "A", 4), commit(1, "A", 5, low=checkpoint)]
    stream.first = checkpoint - 1
    stream.finish(takeover)
    assert stream.asked == ["last", 0, 0, 0, checkpoint]
    assert takeover.journal_state.last_seq == 5


def test_offsets_that_the_broker_took_for_itself_do_not_stop_a_new_owner() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2), commit(1, "A", 3)])
    takeover = begin(stream)
    skipped = 2  # RabbitMQ takes it for itself
    stream.log.insert(skipped, None)
    while not takeover.is_done:
        if stream.at == skipped:
            stream.at += 1
        stream.next(takeover)
    assert takeover.journal_state.last_seq == 3


def test_the_error_for_a_journal_whose_beginning_is_lost_says_what_to_do() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    stream.first = 1
    takeover = begin(stream)
    with pytest.raises(JournalLost, match=r"begins at 1, and its state follows from 0 .* `journal_retention`"):
        stream.finish(takeover)
