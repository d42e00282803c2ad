"""Takeover of a journal: a new owner reads it to its end, then writes its epoch. Pure: records come in, actions go out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from actorhub.durable.protocol.journal_state import JournalState, named_low
from actorhub.durable.protocol.records import Epoch, ReadMarker, Record
from actorhub.errors import ActorHubError


class OwnershipContested(ActorHubError):
    """Another owner has taken over meanwhile: leave the mailbox to it, and try again if messages still come."""


class JournalLost(ActorHubError):
    """Records are missing from which the state follows."""


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Read the journal from an offset, or from the last records that it has ("last"). Records that an earlier reading still
    brings must not be passed to `read`."""

    offset: int | str


@dataclass(frozen=True, slots=True)
class Append:
    """Append a record to the journal."""

    record: Record


class _Phase(Enum):
    READING_TAIL = "reading the last records, to find out where to begin"
    SEARCHING = "reading all that is left, since the place to begin is gone"
    READING = "reading from the place to begin"
    AWAITING_EPOCH = "waiting for the epoch to come back"
    DONE = "done"


class Takeover:
    """The steps of a takeover: carry out what `start` returns, then what each `read` returns, until `is_done`.

    Retention may drop records while they are read, since another owner has written a newer checkpoint: then reading begins
    again at that one. A missing offset does not prove it, since RabbitMQ takes some offsets for itself. But a reader that
    begins again at a `low` that is still there, and misses the same offsets again, has missed nothing.

    Args:
        me: name of the new owner, unique.
        marker_id: unique among all read markers.
        journal_state: empty.
    """

    def __init__(self, me: str, marker_id: str, journal_state: JournalState) -> None:
        self.journal_state = journal_state
        """What has been read. Once the takeover is done, its current epoch is this owner's."""

        self._me = me
        self._marker = ReadMarker(id=marker_id)
        self._phase = _Phase.READING_TAIL
        self._low = 0
        """The highest offset to begin at that any record has named."""

        self._next_offset: int | None = None
        """The offset that should come next, if it is known."""

        self._holes: set[tuple[int, int]] = set()
        """Each an offset that did not come, and the one that came in its place."""

        self._first_found: int | None = None
        """The first offset that this search has read."""

        self._search_missed = False
        """Offsets have been missing in this search."""

    @property
    def is_done(self) -> bool:
        return self._phase is _Phase.DONE

    @property
    def has_caught_up(self) -> bool:
        """All that the journal had at the beginning has been read. An owner that cannot go on from there may still leave: it
        has changed nothing."""
        return self._phase in (_Phase.AWAITING_EPOCH, _Phase.DONE)

    def start(self) -> list[ReadFrom | Append]:
        return [ReadFrom("last"), Append(self._marker)]

    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        """Read the next record; None stands for a message that is not a record, `size` is its bytes.

        Raises:
            JournalLost: records are missing.
            OwnershipContested: another owner has taken over meanwhile.
        """
        if self._phase is _Phase.READING_TAIL:
            return self._read_tail(record)
        is_first = self._next_offset == self._low
        missed = self._misses(offset)
        if self._phase is _Phase.SEARCHING:
            return self._continue_search(offset, record, missed)
        if is_first and offset > self._low:
            return self._search()
        if missed and self._phase is _Phase.READING:
            return self._read_from_low()
        if missed:
            raise OwnershipContested(
                f"the journal goes on at {offset}, and not where it was read: another may have taken over"
            )
        counts = self.journal_state.read(offset, record, size)
        if self._phase is _Phase.READING and record == self._marker:
            self._phase = _Phase.AWAITING_EPOCH
            epoch = self.journal_state.fencing.epoch + 1
            return [Append(Epoch(epoch=epoch, owner=self._me, low=self.journal_state.low))]
        if self._phase is _Phase.AWAITING_EPOCH and isinstance(record, Epoch):
            if counts and record.owner == self._me:
                self._phase = _Phase.DONE
            elif counts:
                raise OwnershipContested(f"{record.owner} has taken over with epoch {record.epoch}")
        return []

    def _misses(self, offset: int) -> bool:
        """Note an offset; True if others are missing before it, and were not in an earlier reading."""
        expected, self._next_offset = self._next_offset, offset + 1
        if expected is None or offset <= expected or (expected, offset) in self._holes:
            return False
        self._holes.add((expected, offset))
        return True

    def _read_tail(self, record: Record | None) -> list[ReadFrom | Append]:
        """Look only for the offset to begin at. The record that names it may be far back: then everything is read."""
        self._note_low(record)
        return self._read_from_low() if record == self._marker else []

    def _note_low(self, record: Record | None) -> None:
        self._low = max(self._low, named_low(record))

    def _read_from_low(self) -> list[ReadFrom | Append]:
        self._phase = _Phase.READING
        self.journal_state = self.journal_state.restarted_at(self._low)
        self._next_offset = self._low
        return [ReadFrom(self._low)]

    # ---- if the offset to begin at is gone

    def _search(self) -> list[ReadFrom | Append]:
        """Read all that is left, for a higher offset to begin at. One was in the journal before any of it could be dropped,
        so it comes before a marker that is appended now."""
        self._phase = _Phase.SEARCHING
        self._marker = ReadMarker(id=f"{self._marker.id}+")
        self._next_offset = self._first_found = None
        self._search_missed = False
        return [ReadFrom(0), Append(self._marker)]

    def _continue_search(self, offset: int, record: Record | None, missed: bool) -> list[ReadFrom | Append]:
        self._note_low(record)
        self._search_missed = self._search_missed or missed
        if self._first_found is None:
            self._first_found = offset
        if record != self._marker:
            return []
        if self._low >= self._first_found:
            return self._read_from_low()
        if self._search_missed:
            return self._search()
        raise JournalLost(
            f"the journal begins at {self._first_found}, and its state follows from {self._low} on: what is between is lost; "
            "give journals more room by `journal_retention`"
        )
