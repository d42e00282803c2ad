"""Fencing: the rule that says which records of a journal count, and so which owner. Pure."""

from __future__ import annotations

from actorhub.durable.protocol.records import Commit, Epoch, ReadMarker, Record


class FencingRule:
    """The rule that says which records count: a function of the journal alone, the same for every reader, without clocks.

    An epoch counts if it is above the current one. A commit counts if it is the current owner's, and the next in number. All
    else is skipped for ever: records of a worker that another one has replaced, and second copies of a record.

    It reads from the beginning, or from a commit with a checkpoint that is known to count.
    """

    __slots__ = ("epoch", "next_seq", "owner")

    def __init__(self) -> None:
        self.epoch = 0
        self.owner = ""
        self.next_seq = 1

    def begin_at(self, commit: Commit) -> None:
        """Read on from this commit, which counts."""
        self.epoch, self.owner, self.next_seq = commit.epoch, commit.owner, commit.seq

    def counts(self, record: Record) -> bool:
        match record:
            case Epoch():
                if record.epoch <= self.epoch:
                    return False
                self.epoch, self.owner = record.epoch, record.owner
                return True
            case Commit():
                if (record.epoch, record.owner, record.seq) != (self.epoch, self.owner, self.next_seq):
                    return False
                self.next_seq += 1
                return True
            case ReadMarker():
                return False
