"""The pure protocol of a durable mailbox: records, fencing, checkpoints, the owner's decisions, takeover."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub.durable.protocol.deduplication import AppliedSequences, ReplyCache
from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.journal_state import FencingRule, JournalState
from actorhub.durable.protocol.owner import JournalOwner, NextStep, OwnershipLost
from actorhub.durable.protocol.records import (
    Checkpoint,
    Commit,
    Epoch,
    InvalidRecord,
    OutboxEntry,
    ReadMarker,
    Record,
    StateRecord,
    decode,
    encode,
)
from actorhub.durable.protocol.takeover import Append, JournalLost, OwnershipContested, ReadFrom, Takeover

# ---- records

names = st.text(max_size=8)
numbers = st.integers(1, 2**63)
bodies = st.binary(max_size=40)


@st.composite
def outbox_entries(draw: st.DrawFn) -> OutboxEntry:
    body = draw(bodies)
    replies = draw(st.lists(st.tuples(names, numbers), max_size=3).map(tuple))
    return OutboxEntry(
        queue=draw(names),
        content_type=draw(names),
        body=body,
        size=len(body),
        persistent=draw(st.booleans()),
        correlation_id=draw(st.none() | names),
        replies=replies,
    )


@st.composite
def states(draw: st.DrawFn) -> StateRecord:
    body = draw(bodies)
    return StateRecord(
        codec=draw(st.sampled_from(("json", "pickle"))), patch=draw(st.booleans()), body=body, size=len(body)
    )


checkpoints = st.builds(
    Checkpoint,
    windows=st.dictionaries(names, st.tuples(numbers, st.lists(numbers, max_size=3).map(tuple)), max_size=3),
    sent=st.dictionaries(names, numbers, max_size=3),
    lineage=st.integers(0, 5),
    postings=st.lists(outbox_entries(), max_size=3).map(tuple),
)
commits = st.builds(
    Commit,
    epoch=numbers,
    owner=names,
    seq=numbers,
    low=st.integers(0, 100),
    flushed=st.integers(0, 100),
    time=st.floats(0, 2e9),
    applied=st.lists(st.tuples(names, numbers, numbers), max_size=3).map(tuple),
    acked=st.dictionaries(names, numbers, max_size=2),
    methods=st.lists(names, max_size=3).map(tuple),
    sent=st.dictionaries(names, numbers, max_size=2),
    lineage=st.integers(0, 5),
    states=st.lists(states(), max_size=3).map(tuple),
    outbox=st.lists(outbox_entries(), max_size=3).map(tuple),
    image=st.none() | checkpoints,
)
records = st.one_of(st.builds(ReadMarker, id=names), st.builds(Epoch, epoch=numbers, owner=names, low=numbers), commits)


@given(records)
def test_a_decoded_record_equals_the_encoded_one(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records, st.data())
def test_a_record_that_is_cut_off_or_too_long_is_invalid(record: Record, data: st.DataObject) -> None:
    body = encode(record)
    with pytest.raises(InvalidRecord):
        decode(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(InvalidRecord):
        decode(body + data.draw(st.binary(min_size=1, max_size=5)))


@given(records, st.data())
def test_a_record_with_a_wrong_byte_is_another_record_or_invalid(record: Record, data: st.DataObject) -> None:
    body = bytearray(encode(record))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidRecord):
        decode(bytes(body))


@given(bodies)
def test_decoding_arbitrary_bytes_raises_nothing_but_invalid_record(body: bytes) -> None:
    with suppress(InvalidRecord):
        decode(body)


@given(commits, commits)
def test_the_key_of_a_commit_is_unique_to_its_epoch_owner_and_number(one: Commit, other: Commit) -> None:
    same = (one.epoch, one.owner, one.seq) == (other.epoch, other.owner, other.seq)
    assert (one.key == other.key) == same


# ---- numbers


class Model:
    """The same as a plain set: `seen` have come, and none below `next` is waited for."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.next = 1


spans = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(st.one_of(spans, st.integers(1, 40)), max_size=30))
def test_applied_sequences_are_a_set_of_numbers_and_the_next_number(steps: list[tuple[int, int] | int]) -> None:
    applied, model = AppliedSequences(), Model()
    for step in steps:
        if isinstance(step, int):
            assert applied.skip_to(step) == range(model.next, max(step, model.next)) or step <= model.next
            model.next = max(model.next, step)
        else:
            applied.add(*step)
            model.seen.update(range(step[0], step[1] + 1))
            model.next = max(model.next, step[1] + 1)
        assert applied.next == model.next
        for seq in range(1, 50):
            assert applied.has(seq) == (seq in model.seen)
            assert applied.is_late(seq) == (seq < model.next and seq not in model.seen)
        copy = AppliedSequences(applied.numbers)
        assert copy.numbers == applied.numbers
        assert [copy.has(seq) for seq in range(50)] == [applied.has(seq) for seq in range(50)]


# ---- kept replies


def reply(call: tuple[str, int], size: int = 10) -> OutboxEntry:
    return OutboxEntry(queue="replies", content_type="", body=b"x" * size, size=size, replies=(call,))


calls = st.tuples(st.sampled_from("abc"), st.integers(1, 30))


@given(st.lists(st.tuples(calls, st.integers(0, 60)), max_size=40, unique_by=lambda one: one[0]))
def test_kept_replies_stay_within_their_limit_and_the_latest_are_kept(given: list[tuple[tuple[str, int], int]]) -> None:
    cache = ReplyCache(max_bytes=100)
    for call, size in given:
        cache.add(reply(call, size))
    kept: list[tuple[str, int]] = []
    room = 100
    for call, size in reversed(given):
        room -= size
        if room < 0:
            break
        kept.append(call)
    assert sum(entry.size for entry in cache.entries) <= 100
    assert {call for call, _ in given if cache.find(*call)} == set(kept)


@given(st.lists(calls, max_size=30, unique=True), st.sampled_from("abc"), st.integers(1, 31))
def test_replies_are_kept_until_their_sender_has_acknowledged_them(
    given: list[tuple[str, int]], who: str, below: int
) -> None:
    cache = ReplyCache(reply(call) for call in given)
    cache.forget_below(who, below)
    left = [call for call in given if call[0] != who or call[1] >= below]
    assert [call for call in given if cache.find(*call)] == left
    assert [entry.replies[0] for entry in cache.entries] == left
    cache.forget_sender(who)
    assert [entry.replies[0] for entry in cache.entries] == [call for call in left if call[0] != who]


def test_an_entry_with_several_replies_is_kept_until_all_of_them_are_acknowledged() -> None:
    entry = OutboxEntry(queue="q", content_type="", replies=(("a", 1), ("b", 7), ("a", 2)))
    cache = ReplyCache([entry])
    assert cache.find("b", 7) == (entry, 1)
    cache.forget_below("a", 2)
    assert cache.find("a", 1) is None
    assert cache.find("a", 2) == (entry, 2)
    cache.forget_sender("a")
    assert cache.entries == (entry,)
    cache.forget_below("b", 8)
    assert not cache.entries


# ---- fencing


def epoch(number: int, owner: str, low: int = 0) -> Epoch:
    return Epoch(epoch=number, owner=owner, low=low)


def commit(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return Commit(epoch=number, owner=owner, seq=seq, **fields)


owners = st.sampled_from("AB")
small_epochs = st.builds(epoch, st.integers(1, 4), owners)
small_commits = st.builds(commit, st.integers(1, 4), owners, st.integers(1, 6))
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


# ---- histories, written by owners in turn


def seal(owner: JournalOwner[str], states: list[StateRecord], outbox: list[OutboxEntry]) -> Commit:
    owner.close_batch(states, outbox)
    return owner.seal()


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


# ---- the owner


def own(state: JournalState | None = None, **options: Any) -> JournalOwner[str]:
    state = state if state is not None else JournalState()
    state.read(state.next_offset, epoch(state.fencing.epoch + 1, "me"))
    return JournalOwner("box", "me", state, **options)


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


# ---- takeover


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


def with_checkpoint(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return commit(number, owner, seq, image=Checkpoint(windows={}, sent={}, lineage=0, postings=()), **fields)


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
