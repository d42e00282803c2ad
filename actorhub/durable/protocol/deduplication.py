"""Deduplication of messages: the sequence numbers applied per sender, and the replies kept for repeated calls. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actorhub.durable.protocol.records import OutboxEntry, SequenceSet

KEPT_REPLY_BYTES = 16 * 1024 * 1024
"""Default limit of a `ReplyCache`."""


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
        """Higher numbers were applied without waiting for this one, which has not come yet."""
        return seq in self._missing

    def add(self, first: int, last: int) -> None:
        """Add all numbers from `first` to `last`, both included."""
        if first >= self.next:
            self._missing.update(range(self.next, first))
            self.next = last + 1
            return
        self._missing.difference_update(range(first, last + 1))
        self.next = max(self.next, last + 1)

    def skip_to(self, seq: int) -> range:
        """Stop waiting for the numbers below `seq` that have not come: they may be applied whenever they come. Returns them."""
        gap = range(self.next, seq)
        self._missing.update(gap)
        self.next = max(self.next, seq)
        return gap

    @property
    def numbers(self) -> SequenceSet:
        return self.next, tuple(sorted(self._missing))


class ReplyCache:
    """Replies kept until their callers say that they have them.

    Args:
        entries: replies from a checkpoint, oldest first.
        max_bytes: if there are more, the oldest are dropped.
    """

    def __init__(self, entries: Iterable[OutboxEntry] = (), *, max_bytes: int = KEPT_REPLY_BYTES) -> None:
        self._max_bytes = max_bytes
        self._by_call: dict[str, dict[int, OutboxEntry]] = {}
        self._kept: OrderedDict[int, tuple[OutboxEntry, int]] = OrderedDict()
        """By `id` of the entry: the entry, and how many of its replies may still be asked for. Oldest first."""
        self._size = 0
        for entry in entries:
            self.add(entry)

    def add(self, entry: OutboxEntry) -> None:
        """Keep the replies of an entry, if it has any."""
        if not entry.replies:
            return
        for sender, seq in entry.replies:
            self._by_call.setdefault(sender, {})[seq] = entry
        self._kept[id(entry)] = entry, len(entry.replies)
        self._size += entry.size
        while self._size > self._max_bytes:
            self._drop_oldest()

    def find(self, sender: str, seq: int) -> tuple[OutboxEntry, int] | None:
        """The entry with the reply to a call, and the reply's index among its envelopes."""
        entry = self._by_call.get(sender, {}).get(seq)
        return (entry, entry.replies.index((sender, seq))) if entry is not None else None

    def forget_below(self, sender: str, seq: int) -> None:
        """Drop the replies to a sender's calls with numbers below `seq`."""
        kept = self._by_call.get(sender)
        if kept is None:
            return
        for number in [number for number in kept if number < seq]:
            self._forget(kept.pop(number))
        if not kept:
            del self._by_call[sender]

    def forget_sender(self, sender: str) -> None:
        for entry in self._by_call.pop(sender, {}).values():
            self._forget(entry)

    @property
    def entries(self) -> tuple[OutboxEntry, ...]:
        """Oldest first."""
        return tuple(entry for entry, _ in self._kept.values())

    def _forget(self, entry: OutboxEntry) -> None:
        kept = self._kept.get(id(entry))
        if kept is None:
            return
        left = kept[1] - 1
        if left:
            self._kept[id(entry)] = entry, left
        else:
            del self._kept[id(entry)]
            self._size -= entry.size

    def _drop_oldest(self) -> None:
        _, (entry, _) = self._kept.popitem(last=False)
        self._size -= entry.size
        for sender, seq in entry.replies:
            kept = self._by_call.get(sender, {})
            if kept.get(seq) is entry:
                del kept[seq]
                if not kept:
                    del self._by_call[sender]
