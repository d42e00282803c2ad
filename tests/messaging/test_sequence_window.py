"""Sequence windows: each number once, in order, whatever the broker does. Pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actorhub.messaging.sequence_window import Admission, SequenceWindow, SequenceWindows


def _deliver(window: SequenceWindow[int, str], seq: int) -> list[int]:
    """What is handled when `seq` is delivered."""
    if window.admit(seq, seq) is not Admission.NEXT:
        return []
    return [seq, *window.released()]


def test_numbers_in_order_are_handled_at_once() -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    assert [n for seq in range(1, 6) for n in _deliver(window, seq)] == [1, 2, 3, 4, 5]


def test_a_later_number_waits_for_the_earlier_one() -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    assert _deliver(window, 1) == [1]
    assert _deliver(window, 3) == []
    assert window.waiting
    assert _deliver(window, 2) == [2, 3]
    assert not window.waiting


def test_a_repetition_is_seen() -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    _deliver(window, 1)
    _deliver(window, 2)
    assert window.admit(1, 1) is Admission.SEEN
    assert window.admit(2, 2) is Admission.SEEN


def test_a_new_instance_begins_at_the_first_number_it_sees_and_drops_no_earlier_one() -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    assert _deliver(window, 57) == [57]
    assert _deliver(window, 55) == [55], "its predecessor may not have handled it"
    assert window.admit(55, 55) is Admission.SEEN
    assert _deliver(window, 58) == [58]


def test_a_number_that_comes_after_its_gap_was_given_up_is_handled_late() -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    _deliver(window, 1)
    _deliver(window, 4)
    assert window.skip_gap() == range(2, 4)
    assert list(window.released()) == [4]
    assert _deliver(window, 2) == [2]
    assert window.admit(2, 2) is Admission.SEEN
    assert _deliver(window, 5) == [5]


def test_answers_are_kept_until_the_sender_lets_them_go() -> None:
    windows: SequenceWindows[int, str] = SequenceWindows()
    for seq in range(1, 6):
        windows.of("s").admit(seq, seq)
        windows.remember("s", seq, f"answer {seq}", 10)
    windows.forget_below("s", 4)
    window = windows.of("s")
    assert [window.reply(seq) for seq in range(1, 6)] == [None, None, None, "answer 4", "answer 5"]


def test_answers_past_the_limit_are_not_kept_and_room_comes_back() -> None:
    windows: SequenceWindows[int, str] = SequenceWindows(kept_limit=25)
    for seq in range(1, 5):
        windows.of("s").admit(seq, seq)
        windows.remember("s", seq, "answer", 10)
    assert windows.of("s").reply(3) is None
    windows.forget_below("s", 3)
    windows.remember("s", 4, "answer", 10)
    assert windows.of("s").reply(4) == "answer"


def test_the_window_longest_unused_goes_first_but_not_one_that_waits() -> None:
    windows: SequenceWindows[int, str] = SequenceWindows(limit=2)
    windows.of("waits").admit(1, 1)
    windows.of("waits").admit(3, 3)
    windows.of("old").admit(1, 1)
    windows.of("new").admit(1, 1)
    assert [sender for sender, _ in windows.with_gaps()] == ["waits"]
    assert windows.of("old").admit(1, 1) is Admission.NEXT, "it was forgotten"


@given(st.permutations(list(range(1, 9))), st.lists(st.integers(1, 8), max_size=8))
def test_any_order_with_repetitions_after_the_first_handles_each_once_in_order(
    order: list[int], again: list[int]
) -> None:
    window: SequenceWindow[int, str] = SequenceWindow()
    handled = _deliver(window, 1)
    for seq in [*order, *again]:
        handled += _deliver(window, seq)
    assert handled == list(range(1, 9))


@given(st.lists(st.one_of(st.integers(1, 12), st.just(0)), max_size=40))
def test_no_number_is_handled_twice_or_dropped_even_when_gaps_are_given_up(steps: list[int]) -> None:
    """A step of 0 gives the gap up. At the end every delivered number was handled exactly once."""
    window: SequenceWindow[int, str] = SequenceWindow()
    handled: list[int] = []
    for step in steps:
        if step:
            handled += _deliver(window, step)
        else:
            window.skip_gap()
            handled += list(window.released())
    while window.waiting:
        window.skip_gap()
        handled += list(window.released())
    assert sorted(handled) == sorted(set(steps) - {0})
