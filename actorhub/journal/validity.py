"""Which records count: a function of the journal alone, the same for every reader, without clocks. Pure.

An epoch counts if it is above the current one. A commit counts if it is the current owner's, and the next in number. All else
is skipped for ever: what a worker appends after another has taken over, and the second copy of what was appended twice.
"""

from __future__ import annotations

from actorhub.journal.records import Commit, Epoch, Mark, Record


class Validity:
    """Reads on from the beginning, or from a commit with an image that is known to count."""

    __slots__ = ("epoch", "next", "owner")

    def __init__(self) -> None:
        self.epoch = 0
        self.owner = ""
        self.next = 1

    def begin_at(self, commit: Commit) -> None:
        """Read on from this one, which counts."""
        self.epoch, self.owner, self.next = commit.epoch, commit.owner, commit.seq

    def counts(self, record: Record) -> bool:
        match record:
            case Epoch():
                if record.epoch <= self.epoch:
                    return False
                self.epoch, self.owner = record.epoch, record.owner
                return True
            case Commit():
                if (record.epoch, record.owner, record.seq) != (self.epoch, self.owner, self.next):
                    return False
                self.next += 1
                return True
            case Mark():
                return False
