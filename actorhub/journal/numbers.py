"""Which of a sender's numbers have been applied. Pure.

Never a plain high-water mark: messages come again in another order than before, and a mark would drop those that had not been
applied yet.
"""

from __future__ import annotations

from actorhub.journal.records import Numbers


class Applied:
    """A sender's numbers, which begin at 1."""

    __slots__ = ("_missing", "next")

    def __init__(self, numbers: Numbers = (1, ())) -> None:
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
    def numbers(self) -> Numbers:
        return self.next, tuple(sorted(self._missing))
