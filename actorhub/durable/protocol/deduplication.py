"""Deduplication of messages: the sequence numbers applied per sender, and the replies kept for repeated calls. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actorhub.durable.protocol.records import OutboxEntry, SequenceSet


class AppliedSequences:
    """The sequence numbers of one sender, from 1 on, that have been applied.

    Not a plain high-water mark: messages are redelivered in another order than before, and a mark would drop those that had not
    been applied yet.
    """

    __slots__ = ("_missing", "next")

    def __init__(self, numbers: SequenceSet = (1, ())) -> None:
        self.next = numbers[0]
        self._missing = set(numbers[1])

    def has(self, seq: int) -> bool:
        return seq < self.next and seq not in self._missing

    def is_late(self, seq: int) -> bool:
        """Others went before it when it did not come."""
        return seq in self._missing

    def add(self, first: int, last: int) -> None:
        """All from `first` to `last`."""
        if first >= self.next:
            self._missing.update(range(self.next, first))
            self.next = last + 1
            return
        self._missing.difference_update(range(first, last + 1))
        self.next = max(self.next, last + 1)

    def skip_to(self, seq: int) -> range:
        """Do not wait for those below `seq` that have not come: they are handled whenever they come. Returns them."""
        gap = range(self.next, seq)
        self._missing.update(gap)
        self.next = max(self.next, seq)
        return gap

    @property
    def numbers(self) -> SequenceSet:
        return self.next, tuple(sorted(self._missing))


class ReplyCache:
    """Kept until their callers say that they have them, `limit` bytes of them at most: the oldest go first."""

    def __init__(self, postings: Iterable[OutboxEntry] = (), *, limit: int = 16 * 1024 * 1024) -> None:
        self._limit = limit
        self._by_call: dict[str, dict[int, OutboxEntry]] = {}
        self._open: OrderedDict[int, tuple[OutboxEntry, int]] = (
            OrderedDict()
        )  # how many of its answers are still wanted
        self._size = 0
        for posting in postings:
            self.add(posting)

    def add(self, posting: OutboxEntry) -> None:
        if not posting.replies:
            return
        for sender, seq in posting.replies:
            self._by_call.setdefault(sender, {})[seq] = posting
        self._open[id(posting)] = posting, len(posting.replies)
        self._size += posting.size
        while self._size > self._limit:
            self._drop_oldest()

    def find(self, sender: str, seq: int) -> tuple[OutboxEntry, int] | None:
        """The posting, and the place of the answer in it."""
        posting = self._by_call.get(sender, {}).get(seq)
        return (posting, posting.replies.index((sender, seq))) if posting is not None else None

    def forget_below(self, sender: str, seq: int) -> None:
        kept = self._by_call.get(sender)
        if kept is None:
            return
        for number in [number for number in kept if number < seq]:
            self._forget(kept.pop(number))
        if not kept:
            del self._by_call[sender]

    def forget_sender(self, sender: str) -> None:
        for posting in self._by_call.pop(sender, {}).values():
            self._forget(posting)

    @property
    def postings(self) -> tuple[OutboxEntry, ...]:
        """Oldest first."""
        return tuple(posting for posting, _ in self._open.values())

    def _forget(self, posting: OutboxEntry) -> None:
        held = self._open.get(id(posting))
        if held is None:
            return
        left = held[1] - 1
        if left:
            self._open[id(posting)] = posting, left
        else:
            del self._open[id(posting)]
            self._size -= posting.size

    def _drop_oldest(self) -> None:
        _, (posting, _) = self._open.popitem(last=False)
        self._size -= posting.size
        for sender, seq in posting.replies:
            kept = self._by_call.get(sender, {})
            if kept.get(seq) is posting:
                del kept[seq]
                if not kept:
                    del self._by_call[sender]
