"""What a journal says: the fold of the records that count. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actorhub.journal.answers import Answers
from actorhub.journal.numbers import Applied
from actorhub.journal.records import Commit, Epoch, Image, Posting, Record, State
from actorhub.journal.validity import Validity

SENDERS = 10_000  # whose numbers are kept; the one longest silent is forgotten first


class Past:
    """Read records in their order. `limit`: bytes of answers that are kept."""

    def __init__(self, *, limit: int = 16 * 1024 * 1024) -> None:
        self.validity = Validity()
        self.states: list[State] = []
        """The last whole state, and the patches since."""
        self.windows: OrderedDict[str, Applied] = OrderedDict()
        self.sent: dict[str, int] = {}
        self.lineage = 0
        self.unflushed: OrderedDict[int, tuple[Posting, ...]] = OrderedDict()
        """What commits released and nobody has said to be confirmed, by their numbers."""
        self.low = 0
        """The offset from which a recovery can read; a reader that begins there says so here."""
        self._limit = limit
        self.answers = Answers(limit=limit)

    def read(self, offset: int, record: Record) -> bool:
        """Whether it counts."""
        if offset == self.low and not self.validity.epoch and isinstance(record, Commit) and record.image is not None:
            self.validity.begin_at(record)
        if not self.validity.counts(record):
            return False
        if isinstance(record, Commit):
            self._commit(offset, record)
        elif isinstance(record, Epoch):
            self.low = max(self.low, record.low)
        return True

    @property
    def last(self) -> int:
        """The number of the last commit; 0 where there is none."""
        return self.validity.next - 1

    def _commit(self, offset: int, commit: Commit) -> None:
        self.low = max(self.low, commit.low)
        if commit.image is not None:
            self._replace(commit.image)
            self.low = max(self.low, offset)
        for sender, first, last in commit.applied:
            self._window(sender).add(first, last)
        for sender, seq in commit.acked.items():
            self.answers.forget_below(sender, seq)
        if commit.lineage != self.lineage:
            self.lineage, self.sent = commit.lineage, {}
        self.sent.update(commit.sent)
        if commit.state is not None:
            self.states = [*self.states, commit.state] if commit.state.patch else [commit.state]
        for posting in commit.outbox:
            self.answers.add(posting)
        if commit.outbox:
            self.unflushed[commit.seq] = commit.outbox
        while self.unflushed and next(iter(self.unflushed)) <= commit.flushed:
            self.unflushed.popitem(last=False)

    def _replace(self, image: Image) -> None:
        self.windows = OrderedDict((sender, Applied(numbers)) for sender, numbers in image.windows.items())
        self.sent, self.lineage = dict(image.sent), image.lineage
        self.answers = Answers(image.postings, limit=self._limit)

    def _window(self, sender: str) -> Applied:
        window = self.windows.get(sender)
        if window is None:
            window = self.windows[sender] = Applied()
            if len(self.windows) > SENDERS:
                forgotten, _ = self.windows.popitem(last=False)
                self.answers.forget_sender(forgotten)
        else:
            self.windows.move_to_end(sender)
        return window

    def image(self) -> Image:
        """Stands for all of it, but for the state."""
        return Image(
            windows={sender: window.numbers for sender, window in self.windows.items()},
            sent=dict(self.sent),
            lineage=self.lineage,
            postings=self.answers.postings,
        )


def lowest(records: Iterable[Record]) -> int:
    """From where to read, by what some records say; 0 where none says it. The highest one counts: whoever wrote it had seen
    that the commit there counts, and everything from there on is read."""
    return max((record.low for record in records if isinstance(record, Epoch | Commit)), default=0)
