"""Answers that callers may ask for again. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actorhub.journal.records import Posting


class Answers:
    """Kept until their callers say that they have them, `limit` bytes of them at most: the oldest go first."""

    def __init__(self, postings: Iterable[Posting] = (), *, limit: int = 16 * 1024 * 1024) -> None:
        self._limit = limit
        self._by_call: dict[str, dict[int, Posting]] = {}
        self._open: OrderedDict[int, tuple[Posting, int]] = OrderedDict()  # how many of its answers are still wanted
        self._size = 0
        for posting in postings:
            self.add(posting)

    def add(self, posting: Posting) -> None:
        if not posting.replies:
            return
        for sender, seq in posting.replies:
            self._by_call.setdefault(sender, {})[seq] = posting
        self._open[id(posting)] = posting, len(posting.replies)
        self._size += posting.size
        while self._size > self._limit:
            self._drop_oldest()

    def find(self, sender: str, seq: int) -> tuple[Posting, int] | None:
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
    def postings(self) -> tuple[Posting, ...]:
        """Oldest first."""
        return tuple(posting for posting, _ in self._open.values())

    def _forget(self, posting: Posting) -> None:
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
