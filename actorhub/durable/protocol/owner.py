"""The owner of a durable mailbox: what it handles, commits, releases and acknowledges, and when. Pure: no clock, no broker, no
await.

What comes is taken in each sender's order, each number once. What has been handled is gathered into one commit, which is
appended to the journal; more is handled meanwhile, on a state that nothing vouches for yet. Only a commit that has been read
back, and counts, lets its postings go, and only when those are confirmed the messages that it is about are acknowledged. Who
reads a higher epoch is the owner no longer: it drops all that was not read back, sends nothing, and acknowledges nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from actorhub.durable.protocol.deduplication import AppliedSequences
from actorhub.durable.protocol.journal_state import SENDERS, JournalState
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record, StateRecord, StoredTimer
from actorhub.errors import ActorHubError

W = TypeVar("W")

IN_FLIGHT = 8  # commits that wait to be read back; more work gathers in the next one meanwhile
BATCH = 256  # handled messages that are worth another commit while some are in flight
BATCH_BYTES = 1024 * 1024  # that are, however many are in flight
DESTINATIONS = 10_000  # that are numbered under one name; then all numbers begin anew, under another


class OwnershipLost(ActorHubError):
    """Another owner has begun, or may have."""


class Intake(Enum):
    RUN = "run"  # its turn
    HELD = "held"  # an earlier number is missing
    IN_HAND = "in hand"  # it was taken before, and is not acknowledged yet
    DONE = "done"  # it was applied, and what followed from it is confirmed


@dataclass(eq=False)
class _Sender(Generic[W]):
    """`taken`: whether they have been handled or not. `in_hand` counts those that nobody knows to be posted."""

    taken: AppliedSequences
    held: dict[int, W] = field(default_factory=dict)
    in_hand: int = 0


@dataclass(eq=False)
class _Batch(Generic[W]):
    """What one commit is about."""

    works: list[tuple[str, int, W]] = field(default_factory=list)
    acked: dict[str, int] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    timers: dict[str, StoredTimer | None] = field(default_factory=dict)
    size: int = 0
    lineage: int = 0
    states: Sequence[StateRecord] = ()
    outbox: Sequence[OutboxEntry] = ()


class JournalOwner(Generic[W]):
    """One life of an owner, from the moment at which its epoch counts. `W` is whatever stands for a message here.

    `name` is the mailbox's, the same in all its lives; `me` is this owner's. `past` is what the journal says up to this owner's
    epoch; it is read on here. An image is due after `image_after` commits, or `image_bytes` of them. The broker keeps more than
    `room` bytes of the journal for sure: nothing is appended that could push out what is needed. `batch_bytes` of handled
    messages are worth a commit of their own: with more, nothing else should be handled before it.
    """

    def __init__(
        self,
        name: str,
        me: str,
        past: JournalState,
        *,
        image_after: int = 1000,
        image_bytes: int = 8 * 1024 * 1024,
        room: int = 64 * 1024 * 1024,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.me = me
        self.past = past
        self.epoch = past.validity.epoch
        self.inherited = list(past.unconfirmed_outboxes.items())
        """What former owners released, and nobody knows to be confirmed: it is posted again, before all else."""
        self._name = name
        self._image_after = image_after
        self._image_bytes = image_bytes
        self._room = room
        self._batch_bytes = batch_bytes
        self._seq = past.last
        self._senders: OrderedDict[str, _Sender[W]] = OrderedDict()
        self._in_hand: dict[tuple[str, int], W] = {}
        self._batch: _Batch[W] = _Batch()
        self._closed: deque[_Batch[W]] = deque()
        self._appended: OrderedDict[int, tuple[Commit, _Batch[W], int]] = OrderedDict()
        self._counted: dict[int, _Batch[W]] = {}
        self._unconfirmed = set(past.unconfirmed_outboxes)
        self._commits_since_image = past.commits
        self._bytes_since_image = past.size_since_image
        self._lineage = past.lineage
        self._sent = dict(past.sent)
        self.timers = dict(past.timers)
        """As they are after all that has been handled."""

    # ---- taking

    def take(self, sender: str, seq: int, acked_below: int, work: W) -> tuple[Intake, W | None]:
        """Decide on one message. IN_HAND comes with the work that was taken before: its end is that of this one, too. What has
        neither sender nor number runs as often as it comes."""
        if not sender:
            return Intake.RUN, None
        if acked_below:
            self._batch.acked[sender] = max(acked_below, self._batch.acked.get(sender, 0))
        who = self._of(sender)
        known = self._in_hand.get((sender, seq), who.held.get(seq))
        if known is not None:
            return Intake.IN_HAND, known
        if who.taken.has(seq):
            return Intake.DONE, None
        if seq > who.taken.next:
            who.held[seq] = work
            return Intake.HELD, None
        self._admit(who, sender, seq, work)
        return Intake.RUN, None

    def _admit(self, who: _Sender[W], sender: str, seq: int, work: W) -> None:
        who.taken.add(seq, seq)
        who.in_hand += 1
        self._in_hand[sender, seq] = work

    def released(self, sender: str) -> Iterator[W]:
        """What was held back and has its turn now, in order."""
        who = self._senders.get(sender)
        while who is not None and who.taken.next in who.held:
            seq = who.taken.next
            work = who.held.pop(seq)
            self._admit(who, sender, seq, work)
            yield work

    def skip_gaps(self) -> list[tuple[str, range]]:
        """Wait no longer for what does not come: it is handled whenever it comes. What was held comes out of `released`."""
        return [(sender, who.taken.skip_to(min(who.held))) for sender, who in self._senders.items() if who.held]

    @property
    def holds_back(self) -> bool:
        return any(who.held for who in self._senders.values())

    def _of(self, sender: str) -> _Sender[W]:
        who = self._senders.get(sender)
        if who is None:
            window = self.past.window(sender)
            who = self._senders[sender] = _Sender(AppliedSequences(window.numbers if window is not None else (1, ())))
            if len(self._senders) > 4 * SENDERS:
                self._forget_oldest()
        else:
            self._senders.move_to_end(sender)
        return who

    def _forget_oldest(self) -> None:
        """One of which nothing is in hand: the journal knows what came from it."""
        for sender, who in self._senders.items():
            if not who.held and not who.in_hand:
                del self._senders[sender]
                return

    # ---- handling

    def number(self, queue: str) -> tuple[str, int]:
        """The name and the number under which the next message to this queue is sent, in this life or in another."""
        if len(self._sent) >= DESTINATIONS and queue not in self._sent and not self._batch.sent:
            self._lineage, self._sent = self._lineage + 1, {}
        seq = self._sent[queue] = self._sent.get(queue, 0) + 1
        self._batch.sent[queue] = seq
        return f"{self._name}.{self._lineage}", seq

    def set_timer(self, armed: StoredTimer) -> None:
        self.timers[armed.timer.id] = self._batch.timers[armed.timer.id] = armed

    def drop_timer(self, timer: str) -> bool:
        """Whether there was one."""
        found = self.timers.pop(timer, None) is not None
        if found:
            self._batch.timers[timer] = None
        return found

    def handled(self, sender: str, seq: int, work: W, method: str, size: int = 0) -> None:
        """`size`: the bytes of what follows from it, about."""
        self._batch.size += size
        self._batch.works.append((sender, seq, work))
        self._batch.methods.append(method)

    # ---- committing

    @property
    def may_seal(self) -> bool:
        """Whether what has been handled shall be committed now."""
        if not self._batch.works and not self._closed:
            return False
        if self.wants_image:
            return self.gives_image and (self.has_room or self.past.needs_image)
        if not self.has_room:
            return False
        if not self.may_handle:
            return True
        return not self._appended or (len(self._batch.works) >= BATCH and len(self._appended) < IN_FLIGHT)

    @property
    def is_full(self) -> bool:
        """What has been handled since the last time that it was closed is enough for one commit: `close` it."""
        return self._batch.size >= self._batch_bytes

    @property
    def may_handle(self) -> bool:
        """No commit is full, and waits to be sealed: till then nothing more should begin."""
        return not self._closed and not self.is_full

    @property
    def has_closed(self) -> bool:
        """Something has been closed, and not been sealed."""
        return bool(self._closed)

    @property
    def has_room(self) -> bool:
        """Whether another commit pushes out nothing that is needed."""
        return self.past.span + sum(size for _, _, size in self._appended.values()) <= self._room

    @property
    def wants_image(self) -> bool:
        """The next commit shall carry one, and the whole state."""
        return self._commits_since_image >= self._image_after or self._bytes_since_image >= self._image_bytes

    @property
    def gives_image(self) -> bool:
        """And it can: nothing is in flight that the image would not have."""
        return self.wants_image and not self._appended and not self._unconfirmed

    def close(self, states: Sequence[StateRecord], outbox: Sequence[OutboxEntry]) -> None:
        """All that has been handled since the last time is one commit, to be sealed in its turn. `states`: those that it
        changed; of a single instance, if this commit may get an image, the whole one always. `outbox`: what it releases."""
        batch, self._batch = self._batch, _Batch()
        batch.states, batch.outbox, batch.lineage = states, outbox, self._lineage
        self._closed.append(batch)

    def seal(self, *, time: float = 0.0) -> Commit:
        """The next commit that was closed, to be appended."""
        return self._seal(self._closed.popleft(), time)

    def seal_rewritten(self, states: Sequence[StateRecord], *, time: float = 0.0) -> Commit:
        """A commit of states that are written anew because the journal will lose where they are. Nothing may be in flight."""
        return self._seal(_Batch(states=states, lineage=self.past.lineage), time)

    def _seal(self, batch: _Batch[W], time: float) -> Commit:
        self._seq += 1
        commit = Commit(
            epoch=self.epoch,
            owner=self.me,
            seq=self._seq,
            low=self.past.low,
            flushed=min(self._unconfirmed, default=self._seq) - 1,
            time=time,
            applied=_runs(batch.works),
            acked=batch.acked,
            methods=tuple(batch.methods),
            sent=batch.sent,
            lineage=batch.lineage,
            timers=batch.timers,
            states=tuple(batch.states),
            outbox=tuple(batch.outbox),
            image=self.past.image() if self.gives_image else None,
        )
        self._appended[self._seq] = commit, batch, 0
        self._unconfirmed.add(self._seq)
        self._commits_since_image = 0 if commit.image is not None else self._commits_since_image + 1
        if commit.image is not None:
            self._bytes_since_image = 0
        return commit

    def record_size(self, commit: Commit, size: int) -> None:
        """So many bytes it has."""
        appended, batch, _ = self._appended[commit.seq]
        self._appended[commit.seq] = appended, batch, size
        self._bytes_since_image += size

    def own(self, key: str) -> Commit | None:
        """The commit with this key that has been appended and not read back."""
        found = next((commit for commit, _, _ in self._appended.values()), None)
        return found if found is not None and found.key == key else None

    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        """The journal goes on with this; None for a message that is no record. Returns the commit that it is, where that is one
        of this owner and counts: now what it releases may be posted.

        Raises:
            Deposed: another has taken over, or may have.
        """
        if offset > self.past.end:
            # retention has overtaken this reader, and an epoch may be gone
            raise OwnershipLost(
                f"the journal goes on at {offset}, and {self.past.end} was never read: another may have taken over"
            )
        counts = self.past.read(offset, record, size)
        validity = self.past.validity
        if (validity.epoch, validity.owner) != (self.epoch, self.me):
            raise OwnershipLost(f"{validity.owner} has taken over with epoch {validity.epoch}")
        if not counts or not isinstance(record, Commit):
            return None
        commit, batch, _ = self._appended.pop(record.seq)
        self._counted[record.seq] = batch
        return commit

    def posted(self, seq: int) -> list[W]:
        """All that this commit releases is confirmed, or it was inherited. Returns what may be acknowledged now."""
        self._unconfirmed.discard(seq)
        batch = self._counted.pop(seq, None)
        if batch is None:
            return []
        for sender, number, _ in batch.works:
            if self._in_hand.pop((sender, number), None) is not None:
                self._senders[sender].in_hand -= 1
        return [work for _, _, work in batch.works]

    @property
    def settled(self) -> bool:
        """All that has been handled is committed and posted."""
        return not self._batch.works and not self._closed and not self.in_flight

    @property
    def in_flight(self) -> bool:
        """Something has been committed, and what it releases is not known to be confirmed."""
        return bool(self._appended or self._counted or self._unconfirmed)

    @property
    def waiting_since(self) -> float | None:
        """The time of the oldest commit that has not been read back; None where there is none."""
        return next((commit.time for commit, _, _ in self._appended.values()), None)


def _runs(works: Sequence[tuple[str, int, object]]) -> tuple[tuple[str, int, int], ...]:
    """Numbers that follow each other, as one."""
    runs: dict[str, list[list[int]]] = {}
    for sender, seq, _ in works:
        if not sender:
            continue
        of = runs.setdefault(sender, [])
        if of and of[-1][1] == seq - 1:
            of[-1][1] = seq
        else:
            of.append([seq, seq])
    return tuple((sender, first, last) for sender, of in runs.items() for first, last in of)
