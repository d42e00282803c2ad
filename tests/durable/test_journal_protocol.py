"""The pure parts of a durable mailbox's journal: records, what counts, what follows, and how an owner begins."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub.durable.protocol.deduplication import AppliedSequences, ReplyCache
from actorhub.durable.protocol.journal_state import FencingRule, JournalState
from actorhub.durable.protocol.owner import Intake, JournalOwner, OwnershipLost
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
def postings(draw: st.DrawFn) -> OutboxEntry:
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


images = st.builds(
    Checkpoint,
    windows=st.dictionaries(names, st.tuples(numbers, st.lists(numbers, max_size=3).map(tuple)), max_size=3),
    sent=st.dictionaries(names, numbers, max_size=3),
    lineage=st.integers(0, 5),
    postings=st.lists(postings(), max_size=3).map(tuple),
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
    outbox=st.lists(postings(), max_size=3).map(tuple),
    image=st.none() | images,
)
records = st.one_of(st.builds(ReadMarker, id=names), st.builds(Epoch, epoch=numbers, owner=names, low=numbers), commits)


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records, st.data())
def test_a_record_that_was_cut_off_or_went_on_is_none(record: Record, data: st.DataObject) -> None:
    body = encode(record)
    with pytest.raises(InvalidRecord):
        decode(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(InvalidRecord):
        decode(body + data.draw(st.binary(min_size=1, max_size=5)))


@given(records, st.data())
def test_a_record_with_a_wrong_byte_is_another_one_or_none(record: Record, data: st.DataObject) -> None:
    body = bytearray(encode(record))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidRecord):
        decode(bytes(body))


@given(bodies)
def test_arbitrary_bytes_are_no_record(body: bytes) -> None:
    with suppress(InvalidRecord):
        decode(body)


@given(commits, commits)
def test_the_key_tells_commits_apart_by_who_wrote_them_and_where(one: Commit, other: Commit) -> None:
    same = (one.epoch, one.owner, one.seq) == (other.epoch, other.owner, other.seq)
    assert (one.key == other.key) == same


# ---- numbers


class Model:
    """All numbers up to `skipped` are no longer waited for, and `seen` have come."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.next = 1


spans = st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(st.one_of(spans, st.integers(1, 40)), max_size=30))
def test_applied_numbers_are_a_set_with_a_next_one(steps: list[tuple[int, int] | int]) -> None:
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


# ---- answers


def answer(call: tuple[str, int], size: int = 10) -> OutboxEntry:
    return OutboxEntry(queue="replies", content_type="", body=b"x" * size, size=size, replies=(call,))


calls = st.tuples(st.sampled_from("abc"), st.integers(1, 30))


@given(st.lists(st.tuples(calls, st.integers(0, 60)), max_size=40, unique_by=lambda one: one[0]))
def test_answers_take_no_more_than_their_limit_and_the_latest_stay(given: list[tuple[tuple[str, int], int]]) -> None:
    answers = ReplyCache(limit=100)
    for call, size in given:
        answers.add(answer(call, size))
    kept: list[tuple[str, int]] = []
    room = 100
    for call, size in reversed(given):
        room -= size
        if room < 0:
            break
        kept.append(call)
    assert sum(posting.size for posting in answers.postings) <= 100
    assert {call for call, _ in given if answers.find(*call)} == set(kept)


@given(st.lists(calls, max_size=30, unique=True), st.sampled_from("abc"), st.integers(1, 31))
def test_answers_are_kept_until_their_sender_lets_them_go(given: list[tuple[str, int]], who: str, below: int) -> None:
    answers = ReplyCache(answer(call) for call in given)
    answers.forget_below(who, below)
    left = [call for call in given if call[0] != who or call[1] >= below]
    assert [call for call in given if answers.find(*call)] == left
    assert [posting.replies[0] for posting in answers.postings] == left
    answers.forget_sender(who)
    assert [posting.replies[0] for posting in answers.postings] == [call for call in left if call[0] != who]


def test_a_posting_with_several_answers_stays_until_the_last_of_them_is_let_go() -> None:
    posting = OutboxEntry(queue="q", content_type="", replies=(("a", 1), ("b", 7), ("a", 2)))
    answers = ReplyCache([posting])
    assert answers.find("b", 7) == (posting, 1)
    answers.forget_below("a", 2)
    assert answers.find("a", 1) is None
    assert answers.find("a", 2) == (posting, 2)
    answers.forget_sender("a")
    assert answers.postings == (posting,)
    answers.forget_below("b", 8)
    assert not answers.postings


# ---- validity


def epoch(number: int, owner: str, low: int = 0) -> Epoch:
    return Epoch(epoch=number, owner=owner, low=low)


def commit(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return Commit(epoch=number, owner=owner, seq=seq, **fields)


owners = st.sampled_from("AB")
small_epochs = st.builds(epoch, st.integers(1, 4), owners)
small_commits = st.builds(commit, st.integers(1, 4), owners, st.integers(1, 6))
logs = st.lists(st.one_of(small_epochs, small_commits, small_commits, st.builds(ReadMarker, id=owners)), max_size=40)


def valid(log: Iterable[Record]) -> list[bool]:
    validity = FencingRule()
    return [validity.counts(record) for record in log]


@given(logs, logs)
def test_what_counts_does_not_change_by_what_comes_later(log: list[Record], later: list[Record]) -> None:
    assert valid([*log, *later])[: len(log)] == valid(log)


@given(logs)
def test_what_does_not_count_changes_nothing(log: list[Record]) -> None:
    counting = [record for record, counts in zip(log, valid(log), strict=True) if counts]
    assert valid(counting) == [True] * len(counting)


@given(logs)
def test_commits_that_count_are_numbered_without_gaps_and_epochs_that_count_rise(log: list[Record]) -> None:
    counting = [record for record, counts in zip(log, valid(log), strict=True) if counts]
    assert [one.seq for one in counting if isinstance(one, Commit)] == list(
        range(1, sum(isinstance(one, Commit) for one in counting) + 1)
    )
    epochs = [one.epoch for one in counting if isinstance(one, Epoch)]
    assert epochs == sorted(set(epochs))


# ---- histories, written by owners in turn


def seal(owner: JournalOwner[str], states: list[StateRecord], outbox: list[OutboxEntry]) -> Commit:
    owner.close(states, outbox)
    return owner.seal()


class Writer:
    """A journal, and one owner after another; each reads what it and those before have written."""

    def __init__(self, image_after: int) -> None:
        self.log: list[Record] = []
        self._image_after = image_after
        self.begin("A")

    def begin(self, who: str) -> None:
        self._past = JournalState()
        for offset, record in enumerate(self.log):
            self._past.read(offset, record)
        self._append(epoch(self._past.validity.epoch + 1, f"{who}{len(self.log)}", self._past.low))
        owner: JournalOwner[str] = JournalOwner(
            "box", f"{who}{len(self.log) - 1}", self._past, image_after=self._image_after
        )
        self.owner = owner
        for seq, _ in owner.inherited:
            owner.posted(seq)

    def _append(self, record: Record) -> None:
        self.log.append(record)
        self._past.read(len(self.log) - 1, record)

    def handle(self, sender: str, seq: int, *, posts: bool) -> None:
        verdict, _ = self.owner.take(sender, seq, 0, "work")
        if verdict is not Intake.RUN:
            return
        self.owner.handled(sender, seq, "work", "m")
        for _ in self.owner.released(sender):
            pass
        outbox = []
        if posts:
            name, number = self.owner.number("q")
            outbox.append(OutboxEntry(queue="q", content_type=f"{name} {number}", replies=((sender, seq),)))
        state = json.dumps([sender, seq]).encode()
        sealed = seal(self.owner, [StateRecord(body=state, size=len(state))], outbox)
        self.log.append(sealed)
        assert self.owner.read(len(self.log) - 1, sealed) is sealed
        self.owner.posted(sealed.seq)


steps = st.lists(
    st.one_of(
        st.sampled_from("BC"),
        st.tuples(st.sampled_from(("s", "t")), st.integers(1, 9), st.booleans()),
        st.tuples(st.sampled_from(("s", "t")), st.integers(1, 9), st.booleans()),
        small_commits,
    ),
    max_size=40,
)


def history(steps: list[Any], image_after: int) -> list[Record]:
    writer = Writer(image_after)
    for step in steps:
        if isinstance(step, str):
            writer.begin(step)
        elif isinstance(step, Commit):
            writer.log.append(step)  # somebody who is late
            writer.owner.read(len(writer.log) - 1, step)
        else:
            writer.handle(step[0], step[1], posts=step[2])
    return writer.log


def facts(past: JournalState) -> dict[str, Any]:
    return {
        "validity": (past.validity.epoch, past.validity.owner, past.validity.next),
        "states": past.states,
        "windows": {sender: window.numbers for sender, window in past.windows.items()},
        "sent": past.sent,
        "lineage": past.lineage,
        "unflushed": dict(past.unconfirmed_outboxes),
        "low": past.low,
        "answers": past.answers.postings,
        "commits": past.commits,
        "end": past.end,
    }


@given(steps, st.integers(1, 4))
def test_reading_from_low_gives_the_same_as_reading_all(steps: list[Any], image_after: int) -> None:
    log = history(steps, image_after)
    whole = JournalState()
    for offset, record in enumerate(log):
        whole.read(offset, record)
    lows = {record.low for record in log if isinstance(record, Epoch | Commit)} | {whole.low}
    for low in lows:
        part = JournalState().anew(low)
        for offset in range(low, len(log)):
            part.read(offset, log[offset])
        assert facts(part) == facts(whole)


# ---- the owner


def own(past: JournalState | None = None, **options: Any) -> JournalOwner[str]:
    past = past if past is not None else JournalState()
    past.read(past.end, epoch(past.validity.epoch + 1, "me"))
    return JournalOwner("box", "me", past, **options)


def test_messages_run_in_their_senders_order_and_each_once() -> None:
    owner = own()
    assert owner.take("s", 2, 0, "two") == (Intake.HELD, None)
    assert owner.holds_back
    assert owner.take("s", 2, 0, "two again") == (Intake.IN_HAND, "two")
    assert owner.take("s", 1, 0, "one") == (Intake.RUN, None)
    assert list(owner.released("s")) == ["two"]
    assert owner.take("s", 1, 0, "one again") == (Intake.IN_HAND, "one")
    assert owner.take("", 0, 0, "from a stranger") == (Intake.RUN, None)


def test_what_was_skipped_is_handled_late_and_once() -> None:
    owner = own()
    owner.take("s", 4, 0, "four")
    assert owner.skip_gaps() == [("s", range(1, 4))]
    assert list(owner.released("s")) == ["four"]
    assert owner.take("s", 2, 0, "two") == (Intake.RUN, None)
    assert owner.take("s", 2, 0, "two again") == (Intake.IN_HAND, "two")


def handle(owner: JournalOwner[str], seq: int) -> None:
    assert owner.take("s", seq, 0, f"work {seq}") == (Intake.RUN, None)
    owner.handled("s", seq, f"work {seq}", "method")


def test_work_is_given_back_only_when_its_commit_is_read_back_and_posted() -> None:
    owner = own()
    handle(owner, 1)
    sealed = seal(owner, [], [OutboxEntry(queue="q", content_type="")])
    assert owner.own(sealed.key) is sealed
    assert owner.read(owner.past.end, sealed) is sealed
    assert owner.take("s", 1, 0, "again") == (Intake.IN_HAND, "work 1")
    assert not owner.settled
    assert owner.posted(sealed.seq) == ["work 1"]
    assert owner.settled
    assert owner.take("s", 1, 0, "again") == (Intake.DONE, None)
    assert owner.read(owner.past.end, sealed) is None, "the second copy counts for nothing"


def test_an_owner_that_reads_a_higher_epoch_is_the_owner_no_longer() -> None:
    owner = own()
    with pytest.raises(OwnershipLost, match="other has taken over with epoch 2"):
        owner.read(owner.past.end, epoch(2, "other"))


def test_an_owner_that_misses_offsets_is_the_owner_no_longer() -> None:
    owner = own()
    assert owner.read(1, None) is None, "a message that is no record is not missed"
    with pytest.raises(OwnershipLost, match="goes on at 3, and 2 was never read"):
        owner.read(3, commit(7, "other", 1))


def test_an_image_waits_until_all_before_it_is_confirmed() -> None:
    owner = own(image_after=1)
    handle(owner, 1)
    first = seal(owner, [], [])
    assert first.image is None
    owner.read(owner.past.end, first)
    handle(owner, 2)
    assert owner.wants_image
    assert not owner.may_seal, "what the first one releases is not confirmed"
    owner.posted(first.seq)
    assert owner.may_seal
    second = seal(owner, [], [])
    assert second.image is not None
    assert second.image.windows == {"s": (2, ())}
    assert second.low == 0
    owner.read(owner.past.end, second)
    assert owner.past.low == owner.past.end - 1


def test_an_image_is_due_however_often_owners_change() -> None:
    past = JournalState()
    for seq in (1, 2):
        past.read(past.end, epoch(seq, f"owner {seq}"))
        past.read(past.end, commit(seq, f"owner {seq}", seq))
    owner = own(past, image_after=3)
    assert not owner.wants_image
    handle(owner, 1)
    seal(owner, [], [])
    assert owner.wants_image


def test_inherited_postings_hold_back_what_is_said_to_be_flushed() -> None:
    past = JournalState()
    past.read(0, epoch(1, "before"))
    past.read(1, commit(1, "before", 1, outbox=(OutboxEntry(queue="q", content_type=""),)))
    owner = own(past)
    assert [seq for seq, _ in owner.inherited] == [1]
    handle(owner, 1)
    assert seal(owner, [], []).flushed == 0
    owner.posted(1)
    handle(owner, 2)
    assert seal(owner, [], []).flushed == 1


def test_destinations_are_numbered_on_from_the_journal() -> None:
    past = JournalState()
    past.read(0, epoch(1, "before"))
    past.read(1, commit(1, "before", 1, sent={"q": 4}))
    owner = own(past)
    assert owner.number("q") == ("box.0", 5)
    assert owner.number("other") == ("box.0", 1)


# ---- succession


class Stream:
    """A journal that retention cuts off, for a succession that reads it one record after the other."""

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
        while not takeover.over:
            self.next(takeover)


def begin(stream: Stream, me: str = "me") -> Takeover:
    takeover = Takeover(me, f"mark of {me}", JournalState())
    stream.do(takeover.start())
    return takeover


def imaged(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return commit(number, owner, seq, image=Checkpoint(windows={}, sent={}, lineage=0, postings=()), **fields)


def test_a_successor_reads_all_of_a_journal_without_images_and_takes_over() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    takeover = begin(stream)
    stream.finish(takeover)
    assert stream.asked == ["last", 0]
    assert stream.log[-1] == epoch(2, "me")
    assert takeover.past.last == 2
    assert takeover.past.validity.owner == "me"


def test_what_the_last_owner_appends_until_the_epoch_counts_is_read() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1)])
    takeover = begin(stream)
    while not takeover.caught_up:
        stream.next(takeover)
    stream.log.insert(-1, commit(1, "A", 2))
    stream.log.append(commit(1, "A", 3))
    stream.finish(takeover)
    assert takeover.past.last == 2


def test_a_successor_yields_to_another_that_was_quicker() -> None:
    stream = Stream([epoch(1, "A")])
    takeover = begin(stream)
    while not takeover.caught_up:
        stream.next(takeover)
    stream.log.insert(-1, epoch(2, "B"))
    with pytest.raises(OwnershipContested, match="B has taken over with epoch 2"):
        stream.finish(takeover)


def test_a_successor_finds_low_though_the_last_records_do_not_name_it() -> None:
    log: list[Record] = [
        epoch(1, "A"),
        commit(1, "A", 1),
        imaged(1, "A", 2),
        commit(1, "A", 3, low=2),
        ReadMarker(id="of one that died"),
    ]
    stream = Stream(log)
    stream.first = 2
    takeover = begin(stream)
    stream.finish(takeover)
    assert takeover.past.last == 3
    assert takeover.past.low == 2


def test_a_successor_whose_low_is_gone_while_it_reads_begins_again_at_the_new_one() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    takeover = begin(stream)
    while stream.at < 2 or stream.asked[-1] == "last":
        stream.next(takeover)
    stream.log += [imaged(1, "A", 3), commit(1, "A", 4, low=4)]
    stream.first = 4
    stream.finish(takeover)
    assert takeover.past.last == 4
    assert takeover.past.low == 4


def test_a_search_for_low_that_retention_overtakes_begins_again() -> None:
    log: list[Record] = [
        epoch(1, "A"),
        commit(1, "A", 1),
        imaged(1, "A", 2),
        commit(1, "A", 3, low=2),
        ReadMarker(id="of the dead"),
    ]
    stream = Stream(log)
    stream.first = 2
    takeover = begin(stream)
    while stream.asked != ["last", 0, 0] or stream.at < 3:
        stream.next(takeover)
    image = len(stream.log)
    stream.log += [imaged(1, "A", 4), commit(1, "A", 5, low=image)]
    stream.first = image - 1
    stream.finish(takeover)
    assert stream.asked == ["last", 0, 0, 0, image]
    assert takeover.past.last == 5


def test_offsets_that_nobody_can_read_do_not_stop_a_successor() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2), commit(1, "A", 3)])
    takeover = begin(stream)
    skipped = 2  # as RabbitMQ takes it for itself
    stream.log.insert(skipped, None)
    while not takeover.over:
        if stream.at == skipped:
            stream.at += 1
        stream.next(takeover)
    assert takeover.past.last == 3


def test_a_journal_whose_beginning_is_lost_is_an_error_that_says_what_to_do() -> None:
    stream = Stream([epoch(1, "A"), commit(1, "A", 1), commit(1, "A", 2)])
    stream.first = 1
    takeover = begin(stream)
    with pytest.raises(JournalLost, match=r"begins at 1, and its state follows from 0 .* `journal_retention`"):
        stream.finish(takeover)
