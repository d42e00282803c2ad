"""Decisions of a journal's owner: what runs, what is committed, what may be acknowledged."""

from __future__ import annotations

import pytest

from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner, NextStep, OwnershipLost
from actorhub.durable.protocol.records import OutboxEntry, StateRecord
from tests.durable.journals import commit, epoch, own, seal


def test_each_senders_messages_run_in_order_and_once() -> None:
    owner = own()
    assert owner.take("s", 2, 0, "two") == (Intake.HELD, None)
    assert owner.intake.holds_back
    assert owner.take("s", 2, 0, "two again") == (Intake.IN_HAND, "two")
    assert owner.take("s", 1, 0, "one") == (Intake.RUN, None)
    assert list(owner.intake.take_held("s")) == ["two"]
    assert owner.take("s", 1, 0, "one again") == (Intake.IN_HAND, "one")
    assert owner.take("", 0, 0, "of a foreign client") == (Intake.RUN, None)


def test_a_skipped_message_is_handled_late_and_once() -> None:
    owner = own()
    owner.take("s", 4, 0, "four")
    assert owner.intake.skip_gaps() == [("s", range(1, 4))]
    assert list(owner.intake.take_held("s")) == ["four"]
    assert owner.take("s", 2, 0, "two") == (Intake.RUN, None)
    assert owner.take("s", 2, 0, "two again") == (Intake.IN_HAND, "two")


def handle(owner: JournalOwner[str], seq: int) -> None:
    assert owner.take("s", seq, 0, f"request {seq}") == (Intake.RUN, None)
    owner.handled("s", seq, f"request {seq}", "method")


def test_a_request_is_acknowledged_only_when_its_commit_is_read_back_and_its_outbox_confirmed() -> None:
    owner = own()
    handle(owner, 1)
    sealed = seal(owner, [], [OutboxEntry(queue="q", content_type="")])
    assert owner.find_appended(sealed.key) is sealed
    assert owner.read(owner.journal_state.next_offset, sealed) is sealed
    assert owner.take("s", 1, 0, "again") == (Intake.IN_HAND, "request 1")
    assert not owner.settled
    assert owner.confirmed(sealed.seq) == ["request 1"]
    assert owner.settled
    assert owner.take("s", 1, 0, "again") == (Intake.DONE, None)
    assert owner.read(owner.journal_state.next_offset, sealed) is None, "a second copy of a commit does not count"


def test_an_owner_that_reads_a_higher_epoch_has_lost_its_ownership() -> None:
    owner = own()
    with pytest.raises(OwnershipLost, match="other has taken over with epoch 2"):
        owner.read(owner.journal_state.next_offset, epoch(2, "other"))


def test_an_owner_that_misses_offsets_has_lost_its_ownership() -> None:
    owner = own()
    assert owner.read(1, None) is None, "a message that is not a record leaves no hole"
    with pytest.raises(OwnershipLost, match="goes on at 3, and 2 was never read"):
        owner.read(3, commit(7, "other", 1))


def test_a_checkpoint_waits_until_all_commits_before_it_are_confirmed() -> None:
    owner = own(checkpoint_after=1)
    handle(owner, 1)
    first = seal(owner, [], [])
    assert first.image is None
    owner.read(owner.journal_state.next_offset, first)
    handle(owner, 2)
    assert owner.next_step() is NextStep.WAIT_FOR_CHECKPOINT, "the outbox of the first commit is not confirmed"
    owner.confirmed(first.seq)
    assert owner.next_step() is NextStep.COMMIT_WITH_CHECKPOINT
    second = seal(owner, [], [])
    assert second.image is not None
    assert second.image.windows == {"s": (2, ())}
    assert second.low == 0
    owner.read(owner.journal_state.next_offset, second)
    assert owner.journal_state.low == owner.journal_state.next_offset - 1


def test_commits_of_former_owners_count_towards_the_next_checkpoint() -> None:
    state = JournalState()
    for seq in (1, 2):
        state.read(state.next_offset, epoch(seq, f"owner {seq}"))
        state.read(state.next_offset, commit(seq, f"owner {seq}", seq))
    owner = own(state, checkpoint_after=3)
    handle(owner, 1)
    assert owner.next_step() is NextStep.COMMIT
    seal(owner, [], [])
    handle(owner, 2)
    assert owner.next_step() is NextStep.WAIT_FOR_CHECKPOINT


def test_no_commit_is_flushed_before_inherited_outboxes_are_confirmed() -> None:
    state = JournalState()
    state.read(0, epoch(1, "before"))
    state.read(1, commit(1, "before", 1, outbox=(OutboxEntry(queue="q", content_type=""),)))
    owner = own(state)
    assert [seq for seq, _ in owner.inherited] == [1]
    handle(owner, 1)
    assert seal(owner, [], []).flushed == 0
    owner.confirmed(1)
    handle(owner, 2)
    assert seal(owner, [], []).flushed == 1


def test_numbers_for_destinations_continue_those_in_the_journal() -> None:
    state = JournalState()
    state.read(0, epoch(1, "before"))
    state.read(1, commit(1, "before", 1, sent={"q": 4}))
    owner = own(state)
    assert owner.number("q") == ("box.0", 5)
    assert owner.number("other") == ("box.0", 1)


def test_a_confirmation_gets_no_checkpoint_even_if_one_is_due() -> None:
    """A new owner begins to read at the checkpoint, and the state of an only instance is not in a confirmation."""
    owner = own(checkpoint_after=1)
    handle(owner, 1)
    sealed = seal(owner, [StateRecord(body=b"1", size=1)], [OutboxEntry(queue="q")])
    owner.read(owner.journal_state.next_offset, sealed)
    owner.confirmed(sealed.seq)
    confirmation = owner.seal_confirmation()
    assert confirmation.image is None
    owner.read(owner.journal_state.next_offset, confirmation)
    assert not owner.journal_state.unconfirmed_outboxes
    assert owner.journal_state.low == 0
