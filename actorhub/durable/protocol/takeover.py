"""How an owner begins: it reads the journal to its end, and then writes an epoch. Pure: what was read comes in, what to do next
goes out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from actorhub.durable.protocol.journal_state import JournalState, lowest
from actorhub.durable.protocol.records import Epoch, ReadMarker, Record
from actorhub.errors import ActorHubError


class OwnershipContested(ActorHubError):
    """Another has become the owner meanwhile: leave it the mailbox, and try again later if it is still this one's turn."""


class JournalLost(ActorHubError):
    """Records are missing from which the state follows."""


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Read the journal anew from this offset; `last`: from the last records that there are. What an earlier reading still
    brings is not to be given to `read` any more."""

    offset: int | str


@dataclass(frozen=True, slots=True)
class Append:
    record: Record


class _Phase(Enum):
    TAIL = "tail"
    SEARCH = "search"
    READ = "read"
    EPOCH = "epoch"
    OVER = "over"


class Takeover:
    """Carry out `start`, then what each `read` returns, until `past` has this owner's epoch as the current one (`over`).

    `mark` is unique among all marks, `me` among all owners.

    While this reads, retention may drop what is before somebody's newer image: then it begins again at that one. Offsets that
    are missing are no proof of it, since RabbitMQ takes some for itself; but who reads anew from a low that is still there, and
    misses the same ones, has missed nothing.
    """

    def __init__(self, me: str, mark: str, past: JournalState) -> None:
        self.past = past
        self._me = me
        self._mark = ReadMarker(id=mark)
        self._phase = _Phase.TAIL
        self._low = 0  # the highest that any record has named
        self._next: int | None = None  # the offset that comes, where that is known
        self._holes: set[tuple[int, int]] = set()  # an offset that did not come, and the one that came instead
        self._first: int | None = None  # offset that a search has read
        self._has_missed = False  # something, in this search

    @property
    def over(self) -> bool:
        return self._phase is _Phase.OVER

    @property
    def caught_up(self) -> bool:
        """All that was in the journal at the beginning has been read. Who cannot go on from there ends here, and has changed
        nothing."""
        return self._phase in (_Phase.EPOCH, _Phase.OVER)

    def start(self) -> list[ReadFrom | Append]:
        return [ReadFrom("last"), Append(self._mark)]

    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        """The journal's next record; None for a message that is none.

        Raises:
            JournalLost: records are missing.
            Contested: another has begun meanwhile.
        """
        if self._phase is _Phase.TAIL:
            return self._read_tail(record)
        is_first = self._next == self._low
        missed = self._misses(offset)
        if self._phase is _Phase.SEARCH:
            return self._go_on_searching(offset, record, missed)
        if is_first and offset > self._low:
            return self._search()
        if missed and self._phase is _Phase.READ:
            return self._read_from_low()
        if missed:
            raise OwnershipContested(
                f"the journal goes on at {offset}, and not where it was read: another may have taken over"
            )
        counts = self.past.read(offset, record, size)
        if self._phase is _Phase.READ and record == self._mark:
            self._phase = _Phase.EPOCH
            return [Append(Epoch(epoch=self.past.validity.epoch + 1, owner=self._me, low=self.past.low))]
        if self._phase is _Phase.EPOCH and isinstance(record, Epoch):
            if counts and record.owner == self._me:
                self._phase = _Phase.OVER
            elif counts:
                raise OwnershipContested(f"{record.owner} has taken over with epoch {record.epoch}")
        return []

    def _misses(self, offset: int) -> bool:
        """Whether something is missing before this, and for the first time."""
        expected, self._next = self._next, offset + 1
        if expected is None or offset <= expected or (expected, offset) in self._holes:
            return False
        self._holes.add((expected, offset))
        return True

    def _read_tail(self, record: Record | None) -> list[ReadFrom | Append]:
        """Only to find out from where to read. What says it may be far back: then everything is read."""
        self._note_low(record)
        return self._read_from_low() if record == self._mark else []

    def _note_low(self, record: Record | None) -> None:
        if record is not None:
            self._low = max(self._low, lowest([record]))

    def _read_from_low(self) -> list[ReadFrom | Append]:
        self._phase = _Phase.READ
        self.past = self.past.anew(self._low)
        self._next = self._low
        return [ReadFrom(self._low)]

    # ---- where low is gone

    def _search(self) -> list[ReadFrom | Append]:
        """Read all that is left for a higher low. One must be in the journal before any of it may be dropped, so it comes
        before a mark that is written now."""
        self._phase = _Phase.SEARCH
        self._mark = ReadMarker(id=f"{self._mark.id}+")
        self._next = self._first = None
        self._has_missed = False
        return [ReadFrom(0), Append(self._mark)]

    def _go_on_searching(self, offset: int, record: Record | None, missed: bool) -> list[ReadFrom | Append]:
        self._note_low(record)
        self._has_missed = self._has_missed or missed
        if self._first is None:
            self._first = offset
        if record != self._mark:
            return []
        if self._low >= self._first:
            return self._read_from_low()
        if self._has_missed:
            return self._search()
        raise JournalLost(
            f"the journal begins at {self._first}, and its state follows from {self._low} on: what is between is lost; "
            "give journals more room by `journal_retention`"
        )
