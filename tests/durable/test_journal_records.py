"""Journal records, the sequence numbers applied per sender, and the replies kept for repeated calls."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub.durable.protocol.deduplication import AppliedSequences, ReplyCache
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
