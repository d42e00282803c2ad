"""The fencing rule once more, as the design says it, without the code under test."""

from __future__ import annotations

from actorhub.durable.protocol.records import Commit, Epoch, Record


class Rule:
    """Is given all records, in order."""

    def counts(self, record: Record) -> bool:
        raise NotImplementedError


class TrueRule(Rule):
    def __init__(self) -> None:
        self._current = (0, "")
        self._next = 1

    def counts(self, record: Record) -> bool:
        if isinstance(record, Epoch):
            if record.epoch > self._current[0]:
                self._current = (record.epoch, record.owner)
            return False
        if not isinstance(record, Commit) or (record.epoch, record.owner) != self._current or record.seq != self._next:
            return False
        self._next += 1
        return True
