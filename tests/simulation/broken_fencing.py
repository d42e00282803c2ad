"""Broken variants of fencing, from which mutants are made: every record counts, or only part of its identity is looked at."""

from __future__ import annotations

from typing import Any

from actorhub.durable.protocol.fencing import FencingRule
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Commit, Record
from actorhub.durable.protocol.takeover import Append, ReadFrom, Takeover, _Phase
from tests.simulation.fencing import Rule
from tests.simulation.messages import Request
from tests.simulation.ownership import Ownership


class AllCount(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit):
            return super().counts(record)
        self.next_seq = record.seq + 1
        return True


class AllCountRule(Rule):
    def counts(self, record: Record) -> bool:
        return isinstance(record, Commit)


class AllCountState(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fencing = AllCount()


class NeverLosesOwnership(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        self.journal_state.read(offset, record, size)
        if not isinstance(record, Commit) or record.owner != self.me or record.seq not in self._appended:
            return None
        appended = self._appended.pop(record.seq)
        self._counted[record.seq] = appended.batch
        return appended.commit


class Snapshots(Ownership):
    def is_whole(self, owner: JournalOwner[Request]) -> bool:
        return True


class WithoutEpoch(Takeover):
    """At the end of the journal it becomes the owner, without writing an epoch."""

    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        actions = super().read(offset, record, size)
        if not self.has_caught_up or self.is_done:
            return actions
        self._phase = _Phase.DONE
        self.journal_state.fencing.owner = self._me
        return []


class BySeq(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit) or record.seq != self.next_seq:
            return False
        self.next_seq += 1
        self.owner = record.owner
        return True


class BySeqRule(Rule):
    def __init__(self) -> None:
        self._fencing = BySeq()

    def counts(self, record: Record) -> bool:
        return self._fencing.counts(record)


class BySeqState(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fencing = BySeq()


class ByOwner(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit):
            return super().counts(record)
        self.next_seq = record.seq + 1
        return (record.epoch, record.owner) == (self.epoch, self.owner)


class ByOwnerRule(Rule):
    def __init__(self) -> None:
        self._fencing = ByOwner()

    def counts(self, record: Record) -> bool:
        return self._fencing.counts(record) and isinstance(record, Commit)


class ByOwnerState(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fencing = ByOwner()


class ReadsCopies(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        if isinstance(record, Commit) and record.owner == self.me and record.seq not in self._appended:
            self.journal_state.read(offset, record, size)
            return None
        return super().read(offset, record, size)
