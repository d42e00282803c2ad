"""What a journal says: the fold of the records that count. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actorhub.journal.answers import Answers
from actorhub.journal.numbers import Applied
from actorhub.journal.records import Armed, Commit, Epoch, Image, Posting, Record, State
from actorhub.journal.validity import Validity

SENDERS = (
    10_000  # whose numbers are kept; the one longest silent is forgotten first. As many that sent one message each
)


class Past:
    """Read records in their order. `limit`: bytes of answers that are kept."""

    def __init__(self, *, limit: int = 16 * 1024 * 1024) -> None:
        self.validity = Validity()
        self.states: list[State] = []
        """The last whole state, and the patches since."""
        self.windows: OrderedDict[str, Applied] = OrderedDict()
        self.once: OrderedDict[str, Applied] = OrderedDict()
        """The same, of senders of one message each: whatever has an id instead of a number. Their names begin with `~`."""
        self.timers: dict[str, Armed] = {}
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
        for timer, armed in commit.timers.items():
            if armed is None:
                self.timers.pop(timer, None)
            else:
                self.timers[timer] = armed
        if commit.state is not None:
            self.states = [*self.states, commit.state] if commit.state.patch else [commit.state]
        for posting in commit.outbox:
            self.answers.add(posting)
        if commit.outbox:
            self.unflushed[commit.seq] = commit.outbox
        while self.unflushed and next(iter(self.unflushed)) <= commit.flushed:
            self.unflushed.popitem(last=False)

    def _replace(self, image: Image) -> None:
        self.windows.clear()
        self.once.clear()
        for sender, numbers in image.windows.items():
            self._windows_of(sender)[sender] = Applied(numbers)
        self.sent, self.lineage = dict(image.sent), image.lineage
        self.timers = dict(image.timers)
        self.answers = Answers(image.postings, limit=self._limit)

    def window(self, sender: str) -> Applied | None:
        return self._windows_of(sender).get(sender)

    def _windows_of(self, sender: str) -> OrderedDict[str, Applied]:
        return self.once if sender.startswith("~") else self.windows

    def _window(self, sender: str) -> Applied:
        windows = self._windows_of(sender)
        window = windows.get(sender)
        if window is None:
            window = windows[sender] = Applied()
            if len(windows) > SENDERS:
                forgotten, _ = windows.popitem(last=False)
                self.answers.forget_sender(forgotten)
        else:
            windows.move_to_end(sender)
        return window

    def image(self) -> Image:
        """Stands for all of it, but for the state."""
        return Image(
            windows={sender: window.numbers for of in (self.windows, self.once) for sender, window in of.items()},
            sent=dict(self.sent),
            lineage=self.lineage,
            postings=self.answers.postings,
            timers=dict(self.timers),
        )


def lowest(records: Iterable[Record]) -> int:
    """From where to read, by what some records say; 0 where none says it. The highest one counts: whoever wrote it had seen
    that the commit there counts, and everything from there on is read."""
    return max((record.low for record in records if isinstance(record, Epoch | Commit)), default=0)
