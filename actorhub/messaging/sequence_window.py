"""Sequence windows: numbers that a mailbox has seen of each sender. Pure.

A sender numbers its messages to one destination from 1. A mailbox handles the numbers in order and each once, however
often and in whatever order the broker delivers them. A window never uses a plain high-water mark: a late number that
was not seen is handled late, not dropped.

A new instance of a plain actor does not know the numbers that its predecessor handled; its window begins at the first
number it sees.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

Item = TypeVar("Item")
ReplyT = TypeVar("ReplyT")


class Admission(Enum):
    # handle it now
    NEXT = "next"
    # an earlier one is missing; it comes out of `released` later
    HELD = "held"
    # a repetition
    SEEN = "seen"


class SequenceWindow(Generic[Item, ReplyT]):
    """Window of one sender's numbers.

    `replies` keeps the replies for a sender that calls again after a lost connection, until the sender drops them by
    `acked_below`.
    """

    __slots__ = ("_base", "_early", "_held", "_kept_from", "_missing", "_next", "_replies", "kept")

    def __init__(self) -> None:
        # the first number seen; 0 until then
        self._base = 0
        self._next = 0
        self._held: dict[int, Item] = {}
        # seen, and below the base
        self._early: set[int] = set()
        # between base and next, and not seen
        self._missing: set[int] = set()
        self._replies: dict[int, tuple[ReplyT, int]] = {}
        self._kept_from = 0
        # bytes of kept replies
        self.kept = 0

    def admit(self, seq: int, item: Item) -> Admission:
        """Decide on one delivery. HELD keeps `item`; a held number that comes again keeps the newer item."""
        if seq == self._next:
            self._next += 1
            return Admission.NEXT
        if not self._base:
            self._base, self._next = seq, seq + 1
            return Admission.NEXT
        if seq > self._next:
            self._held[seq] = item
            return Admission.HELD
        if seq < self._base:
            if seq in self._early:
                return Admission.SEEN
            self._early.add(seq)
            return Admission.NEXT
        if seq in self._missing:
            self._missing.remove(seq)
            return Admission.NEXT
        return Admission.SEEN

    @property
    def waiting(self) -> bool:
        """True if anything is held back."""
        return bool(self._held)

    def held(self, seq: int) -> Item | None:
        """Item held back under this number."""
        return self._held.get(seq)

    def released(self) -> Iterator[Item]:
        """Items held back whose turn has come, in order."""
        while self._held and self._next in self._held:
            item = self._held.pop(self._next)
            self._next += 1
            yield item

    def skip_gap(self) -> range:
        """Give up waiting for the numbers before the first one held: they are handled whenever they come. Returns them;
        the items held come out of `released`."""
        if not self._held:
            return range(0)
        gap = range(self._next, min(self._held))
        self._missing.update(gap)
        self._next = gap.stop
        return gap

    def remember(self, seq: int, reply: ReplyT, size: int) -> None:
        if seq >= self._kept_from and seq not in self._replies:
            self._replies[seq] = (reply, size)
            self.kept += size

    def reply(self, seq: int) -> ReplyT | None:
        found = self._replies.get(seq)
        return found[0] if found is not None else None

    def forget_below(self, acked_below: int) -> None:
        """Drop the replies that the sender will not call for again."""
        if acked_below <= self._kept_from:
            return
        numbers = range(self._kept_from, acked_below)
        for seq in list(self._replies) if len(numbers) > 2 * len(self._replies) else numbers:
            if seq < acked_below and seq in self._replies:
                self.kept -= self._replies.pop(seq)[1]
        self._kept_from = acked_below


class SequenceWindows(Generic[Item, ReplyT]):
    """Windows of a mailbox's senders, with their replies up to `kept_limit` bytes in all.

    At most `limit` windows are kept; the one longest unused goes first.
    """

    def __init__(self, *, limit: int = 10_000, kept_limit: int = 16 * 1024 * 1024) -> None:
        self._windows: OrderedDict[str, SequenceWindow[Item, ReplyT]] = OrderedDict()
        self._limit = limit
        self._kept_limit = kept_limit
        self._kept = 0

    def of(self, sender: str) -> SequenceWindow[Item, ReplyT]:
        window = self._windows.get(sender)
        if window is None:
            window = self._windows[sender] = SequenceWindow()
            if len(self._windows) > self._limit:
                self._drop_oldest()
        else:
            self._windows.move_to_end(sender)
        return window

    def remember(self, sender: str, seq: int, reply: ReplyT, size: int) -> None:
        """Keep a reply for a sender that may call again, if there is room."""
        if self._kept + size <= self._kept_limit:
            window = self.of(sender)
            before = window.kept
            window.remember(seq, reply, size)
            self._kept += window.kept - before

    def forget_below(self, sender: str, acked_below: int) -> None:
        window = self.of(sender)
        before = window.kept
        window.forget_below(acked_below)
        self._kept += window.kept - before

    def with_gaps(self) -> list[tuple[str, SequenceWindow[Item, ReplyT]]]:
        return [(sender, window) for sender, window in self._windows.items() if window.waiting]

    def _drop_oldest(self) -> None:
        for sender, window in self._windows.items():
            if not window.waiting:
                self._kept -= window.kept
                del self._windows[sender]
                return
