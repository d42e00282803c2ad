"""The state of a journal: the fold of the records that count, and the rule that says which do. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from actorhub.durable.protocol.deduplication import AppliedSequences, ReplyCache
from actorhub.durable.protocol.records import (
    Checkpoint,
    Commit,
    Epoch,
    OutboxEntry,
    ReadMarker,
    Record,
    StateRecord,
    StoredTimer,
)

# senders whose numbers are kept, and as many senders of a single message each; the longest silent is forgotten first
SENDERS = 10_000


class FencingRule:
    """Which records count: a function of the journal alone, the same for every reader, without clocks.

    An epoch counts if it is above the current one. A commit counts if it is the current owner's, and the next in number. All
    else is skipped for ever: records of a worker that another one has replaced, and second copies of a record.

    It reads from the beginning, or from a commit with a checkpoint that is known to count.
    """

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
            case ReadMarker():
                return False


class RecordPosition(NamedTuple):
    """Of a commit: its offset, and how many bytes had been read with it."""

    offset: int
    size: int


class JournalState:
    """Read records in their order. `limit`: bytes of answers that are kept. `in_parts`: the state is one of many parts, each
    under its key, and all of them are wanted."""

    def __init__(self, *, limit: int = 16 * 1024 * 1024, in_parts: bool = False) -> None:
        self.validity = FencingRule()
        self.states: list[StateRecord] = []
        """Of a single instance: the last whole state, and the patches since."""
        self.places: OrderedDict[str, RecordPosition] = OrderedDict()
        """Of a keyed class, or of a state in parts: where the journal has the state of each key, the oldest first."""
        self.parts: dict[str, StateRecord] | None = {} if in_parts else None
        """Of a state in parts: all of them, until they are taken."""
        self.windows: OrderedDict[str, AppliedSequences] = OrderedDict()
        self.single_message_senders: OrderedDict[str, AppliedSequences] = OrderedDict()
        """The same, of senders of one message each: whatever has an id instead of a number. Their names begin with `~`."""
        self.timers: dict[str, StoredTimer] = {}
        self.sent: dict[str, int] = {}
        self.lineage = 0
        self.unconfirmed_outboxes: OrderedDict[int, tuple[OutboxEntry, ...]] = OrderedDict()
        """What commits released and nobody has said to be confirmed, by their numbers."""
        self.low = 0
        """The offset from which a recovery can read; a reader that begins there says so by `anew`."""
        self.commits = 0
        """How many count since the last image."""
        self.end = 0
        """The offset behind the last one that was read."""
        self.version = 0
        """The latest that a state in it has."""
        self.size = 0
        """Bytes of all that has been read, whether it counts or not."""
        self.answers = ReplyCache(limit=limit)
        self._limit = limit
        self._image = RecordPosition(0, 0)

    def anew(self, low: int) -> JournalState:
        """Nothing was read yet, and reading begins at `low`."""
        past = type(self)(limit=self._limit, in_parts=self.parts is not None)
        past.low = past.end = low
        return past

    def read(self, offset: int, record: Record | None, size: int = 0) -> bool:
        """Whether it counts. None stands for a message that is no record. `size`: its bytes."""
        self.end = offset + 1
        self.size += size
        if record is None:
            return False
        if offset == self.low and not self.validity.epoch and isinstance(record, Commit):
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

    @property
    def oldest(self) -> RecordPosition:
        """What is needed of the journal begins here."""
        return min(self._image, next(iter(self.places.values()), self._image))

    @property
    def needs_image(self) -> bool:
        """With another one, less of the journal would be needed."""
        return self.oldest == self._image

    @property
    def size_since_image(self) -> int:
        return self.size - self._image.size

    @property
    def span(self) -> int:
        """Bytes from there to the end."""
        return self.size - self.oldest.size

    def _commit(self, offset: int, commit: Commit) -> None:
        self.commits += 1
        if commit.image is not None:
            self.commits = 0
            self._replace(commit.image)
            self._image = RecordPosition(offset, self.size)
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
        for state in commit.states:
            self._keep(offset, state)
        self.low = max(self.low, commit.low, self.oldest.offset)
        for posting in commit.outbox:
            self.answers.add(posting)
        if commit.outbox:
            self.unconfirmed_outboxes[commit.seq] = commit.outbox
        while self.unconfirmed_outboxes and next(iter(self.unconfirmed_outboxes)) <= commit.flushed:
            self.unconfirmed_outboxes.popitem(last=False)

    def _keep(self, offset: int, state: StateRecord) -> None:
        self.version = max(self.version, state.version)
        if state.gone:
            self.places.pop(state.key, None)
            if self.parts is not None:
                self.parts.pop(state.key, None)
        elif state.key:
            self.places[state.key] = RecordPosition(offset, self.size)
            self.places.move_to_end(state.key)
            if self.parts is not None:
                self.parts[state.key] = state
        else:
            self.states = [*self.states, state] if state.patch else [state]

    def _replace(self, image: Checkpoint) -> None:
        self.windows.clear()
        self.single_message_senders.clear()
        for sender, numbers in image.windows.items():
            self._windows_of(sender)[sender] = AppliedSequences(numbers)
        self.sent, self.lineage = dict(image.sent), image.lineage
        self.timers = dict(image.timers)
        self.answers = ReplyCache(image.postings, limit=self._limit)

    def take_parts(self) -> list[StateRecord]:
        """All parts of the state. From now on only their places are kept."""
        parts, self.parts = self.parts or {}, None
        return list(parts.values())

    def window(self, sender: str) -> AppliedSequences | None:
        return self._windows_of(sender).get(sender)

    def _windows_of(self, sender: str) -> OrderedDict[str, AppliedSequences]:
        return self.single_message_senders if sender.startswith("~") else self.windows

    def _window(self, sender: str) -> AppliedSequences:
        windows = self._windows_of(sender)
        window = windows.get(sender)
        if window is None:
            window = windows[sender] = AppliedSequences()
            if len(windows) > SENDERS:
                forgotten, _ = windows.popitem(last=False)
                self.answers.forget_sender(forgotten)
        else:
            windows.move_to_end(sender)
        return window

    def image(self) -> Checkpoint:
        """Stands for all of it, but for the state."""
        return Checkpoint(
            windows={
                sender: window.numbers
                for of in (self.windows, self.single_message_senders)
                for sender, window in of.items()
            },
            sent=dict(self.sent),
            lineage=self.lineage,
            postings=self.answers.postings,
            timers=dict(self.timers),
        )


def lowest(records: Iterable[Record]) -> int:
    """From where to read, by what some records say; 0 where none says it. The highest one is right, even if its record does not
    count: whoever wrote it had seen that the commit there counts, and everything from there on is read."""
    return max((record.low for record in records if isinstance(record, Epoch | Commit)), default=0)
