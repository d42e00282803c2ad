"""The shell around the protocol, for one life of an owner: what the owner decides is carried out here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pamqp.base import Frame
from pamqp.commands import Basic, Channel

from actorhub.durable.protocol import records
from actorhub.durable.protocol.owner import Intake, JournalOwner, OwnershipLost
from actorhub.durable.protocol.records import Commit, InvalidRecord, OutboxEntry, Record
from actorhub.durable.protocol.takeover import Append, OwnershipContested, ReadFrom, Takeover
from actorhub.wire.envelope import Envelope, Kind, decode, encode
from tests.simulation import bank
from tests.simulation.wire import INBOX, JOURNAL, Arrival, Connection
from tests.simulation.worker import Publish, Worker

IN, OUT = 1, 2  # channels: the inbox, and from there on the journal
READ_BACK = 3000  # steps in which what was appended must come back
BACK_OFF = 40


class Receipt:
    """One delivery, of which several envelopes are to be done."""

    def __init__(self, acknowledge: Callable[[], None], left: int) -> None:
        self._acknowledge = acknowledge
        self._left = left

    def done(self) -> None:
        self._left -= 1
        if not self._left:
            self._acknowledge()


class Work:
    """`receipts`: all its copies; those that came when its answer was already on its way want it once more."""

    def __init__(self, envelope: Envelope, payload: bytes, receipt: Receipt) -> None:
        self.envelope = envelope
        self.payload = payload
        self.receipts = [receipt]
        self.late: list[Receipt] = []
        self.is_released = False

    @property
    def key(self) -> tuple[str, int]:
        return self.envelope.sender, self.envelope.seq


class Life:
    """From consuming the inbox until it is over."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.me = f"{worker.name}.{number}"
        self.over = False
        self.connection: Connection | None = None
        self.owner: JournalOwner[Work] | None = None
        self.state = bank.opened()
        self._worker = worker
        self._rules = worker.rules
        self._takeover: Takeover | None = None
        self._todo: deque[ReadFrom | Append] = deque()
        self._reading = OUT - 1  # the channel over which the journal comes
        self._awaited = 0  # the channel whose consumer is not there yet
        self._waiting: deque[Work] = deque()  # has come, and nobody has looked at it
        self._turn: deque[Work] = deque()  # is next
        self._inherited: set[int] = set()
        self._heard = 0
        self._busy = False
        self._sealing = False
        self._holding = False
        self._sealed = self.state
        self._works: list[Work] = []
        self._tells: dict[str, list[tuple[Envelope, bytes]]] = {}
        self._answers: dict[str, list[tuple[tuple[str, int], Envelope, bytes]]] = {}
        self.unreleased: dict[int, list[Work]] = {}

    def say(self, text: str) -> None:
        self._rules.say(f"{self.me} {text}")

    # ---- beginning and end

    def begin(self) -> None:
        worker = self._worker
        connection = self.connection = worker.server.connect(worker, self, worker.lag())
        qos = Basic.Qos(0, self._rules.prefetch, False)
        connection.say(IN, Channel.Open(), qos, Basic.Consume(0, INBOX, "inbox"))

    def leave(self, why: str) -> None:
        """All that was not read back is dropped. Its consumer is never cancelled: what it holds goes back first."""
        if self.over:
            return
        self.say(f"leaves: {why}")
        self.over = True
        self.close()
        self._worker.live_again(self._worker.server.chance.randint(1, 2 * BACK_OFF))

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def lost(self, connection: Connection) -> None:
        """An owner may go on over another one: what it holds comes again, and so does the journal, from where it was."""
        if self.over or connection is not self.connection:
            return
        if self.owner is None or not self._rules.resumes:
            self.leave("its connection is lost")
        else:
            self.connection = None
            self.later(self._worker.server.chance.randint(5, 60), self._resume)

    def _resume(self) -> None:
        assert self.owner is not None
        self.say("goes on over another connection")
        self.begin()
        self._reading = OUT - 1
        self._read_from(self.owner.past.end)

    def later(self, steps: int, act: Callable[[], None]) -> None:
        """Unless it is over by then."""
        self._worker.later(steps, lambda: None if self.over else act())

    # ---- the journal

    def succeed(self) -> None:
        self.say("begins")
        self._takeover = self._rules.takeover(self.me, f"mark {self.me}", self._rules.past())
        self._todo.extend(self._takeover.start())
        self._carry_out()
        self._heard = self._worker.clock.now
        self.later(READ_BACK, self._check_reading)

    def _check_reading(self) -> None:
        """However long the journal is: only silence ends it. Each beginning makes it longer by a mark."""
        if self.owner is not None:
            return
        if self._worker.clock.now - self._heard >= READ_BACK:
            self.leave("the journal does not come")
        else:
            self.later(READ_BACK, self._check_reading)

    def _carry_out(self) -> None:
        while self._todo and not self._awaited and not self.over:
            action = self._todo.popleft()
            if isinstance(action, ReadFrom):
                self._read_from(action.offset)
            else:
                self.append(action.record)

    def _read_from(self, offset: int | str) -> None:
        assert self.connection is not None
        if self._reading >= OUT:
            self.connection.say(self._reading, Channel.Close(200, "", 0, 0))
        self._reading += 1
        self._awaited = self._reading
        qos = Basic.Qos(0, self._rules.window, False)
        consume = Basic.Consume(0, JOURNAL, f"journal {self._reading}", arguments={"x-stream-offset": offset})
        self.connection.say(self._reading, Channel.Open(), qos, consume)

    def append(self, record: Record) -> None:
        self.say(f"appends {_short(record)}")
        body = records.encode(record)
        if self.owner is not None and isinstance(record, Commit):
            self.owner.record_size(record, len(body))
        self._worker.publish(Publish(JOURNAL, body, lambda: self.appended(record)))
        self._rules.appending(record)

    def appended(self, record: Record) -> None:
        """The broker has it, which says nothing."""

    def answered(self, connection: Connection, channel: int, method: Frame) -> None:
        if isinstance(method, Basic.ConsumeOk) and channel == self._awaited and not self.over:
            self._awaited = 0
            self._carry_out()

    def arrived(self, connection: Connection, arrival: Arrival) -> None:
        if self.over or connection is not self.connection:
            return
        if arrival.channel == IN:
            self._take_in(arrival)
        elif arrival.channel == self._reading:
            connection.say(arrival.channel, Basic.Ack(arrival.tag))
            self._read(arrival)

    def _read(self, arrival: Arrival) -> None:
        record = self._rules.decode(arrival.body)
        self._heard = self._worker.clock.now
        try:
            if self.owner is not None:
                self._read_as_owner(self.owner, arrival.offset, record, len(arrival.body))
            elif self._takeover is not None:
                self._todo.extend(self._takeover.read(arrival.offset, record, len(arrival.body)))
                self._carry_out()
                if self._takeover.over:
                    self._own(self._takeover)
        except (OwnershipContested, OwnershipLost) as exc:
            self.leave(str(exc))

    def _read_as_owner(self, owner: JournalOwner[Work], offset: int, record: Record | None, size: int) -> None:
        commit = owner.read(offset, record, size)
        if commit is not None:
            self.say(f"reads commit {commit.seq} back")
            self.read_back(commit)
            self.seal_soon()

    # ---- taking

    def _take_in(self, arrival: Arrival) -> None:
        connection = self.connection

        def acknowledge() -> None:
            if not self.over and connection is not None and connection is self.connection:
                connection.say(IN, Basic.Ack(arrival.tag))

        parcels = decode(arrival.body, arrival.content_type)
        receipt = Receipt(acknowledge, len(parcels))
        self._waiting.extend(Work(envelope, payload, receipt) for envelope, payload in parcels)
        if self._takeover is None:
            self.succeed()
        self._go_on()

    def _own(self, takeover: Takeover) -> None:
        owner: JournalOwner[Work] = self._rules.owner(
            "mailbox", self.me, takeover.past, image_after=self._rules.image_after
        )
        self.owner = owner
        self.state = self._sealed = bank.fold(takeover.past.states)
        self.say(f"owns with epoch {owner.epoch}, after commit {takeover.past.last}")
        self.inherit(owner)
        self._go_on()

    def inherit(self, owner: JournalOwner[Work]) -> None:
        self._inherited.update(seq for seq, _ in owner.inherited)
        for seq, postings in owner.inherited:
            self.post(seq, postings)

    def _go_on(self) -> None:
        if self.owner is None or self._inherited or self._busy or not (self._turn or self._waiting):
            return
        self._busy = True
        self.later(self._worker.server.chance.randint(1, self._rules.slowness), self._next)

    def _next(self) -> None:
        self._busy = False
        owner = self.owner
        assert owner is not None
        if self._turn:
            self._run(owner, self._turn.popleft())
        elif self._waiting:
            self._take(owner, self._waiting.popleft())
        self._go_on()

    def _take(self, owner: JournalOwner[Work], work: Work) -> None:
        envelope = work.envelope
        verdict, known = owner.take(envelope.sender, envelope.seq, envelope.acked_below, work)
        if verdict is Intake.RUN:
            self._turn.append(work)
            self._turn.extend(owner.released(envelope.sender))
        elif verdict is Intake.HELD:
            self._hold()
        elif verdict is Intake.IN_HAND:
            assert known is not None
            self.repeated(known, work.receipts[0])
        else:
            self.known(owner, work)

    def repeated(self, known: Work, receipt: Receipt) -> None:
        (known.late if known.is_released else known.receipts).append(receipt)

    def known(self, owner: JournalOwner[Work], work: Work) -> None:
        """It was applied, and what followed is confirmed."""
        self._answer_again(owner, work.key, work.receipts[0])

    def _answer_again(self, owner: JournalOwner[Work], key: tuple[str, int], receipt: Receipt) -> None:
        """Where nothing is kept, it was a tell, or its sender has the answer."""
        found = owner.past.answers.find(*key)
        if found is None:
            receipt.done()
            return
        posting, place = found
        body, content_type = encode([decode(posting.body, posting.content_type)[place]])
        self._worker.publish(Publish(posting.queue, body, receipt.done, content_type, posting.persistent))

    def _hold(self) -> None:
        if not self._holding and self._rules.hold_back:
            self._holding = True
            self.later(self._rules.hold_back, self._release_held)

    def _release_held(self) -> None:
        self._holding = False
        owner = self.owner
        if owner is None or not owner.holds_back:
            return
        for sender, gap in owner.skip_gaps():
            self.say(f"waits no longer for {sender} {gap}")
            self._rules.skipped.append(sender)
            self._turn.extend(owner.released(sender))
        if owner.holds_back:
            self._hold()
        self._go_on()

    # ---- handling

    def _run(self, owner: JournalOwner[Work], work: Work) -> None:
        envelope = work.envelope
        try:
            done = bank.move(self.state, envelope.id, int(work.payload))
        except bank.Overdrawn as exc:
            kind, answer = Kind.FAILURE, f"{envelope.id}: {exc}"
            self.failed(owner)
        else:
            self.state = done.state
            kind, answer = Kind.REPLY, done.answer
            for queue, text in done.tells:
                sender, seq = self.number(owner, queue)
                tell = Envelope(kind=Kind.TELL, id=f"{sender}/{seq}", method="note", sender=sender, seq=seq)
                self._tells.setdefault(queue, []).append((tell, f'"{text}"'.encode()))
        if envelope.reply_to:
            reply = Envelope(kind=kind, call=envelope.id)
            self._answers.setdefault(envelope.reply_to, []).append((work.key, reply, f'"{answer}"'.encode()))
        self.say(f"handles {envelope.id}")
        self._works.append(work)
        owner.handled(*work.key, work, envelope.id)
        self.seal_soon()

    def number(self, owner: JournalOwner[Work], queue: str) -> tuple[str, int]:
        return owner.number(queue)

    def failed(self, owner: JournalOwner[Work]) -> None:
        """The handler has raised: nothing that it wanted to send has a number."""

    def seal_soon(self) -> None:
        """What is handled until then is in the same commit."""
        if not self._sealing and self.owner is not None and self.owner.may_seal:
            self._sealing = True
            self.later(self._worker.server.chance.randint(0, self._rules.slowness), self._seal)

    def _seal(self) -> None:
        self._sealing = False
        owner = self.owner
        if owner is None or not owner.may_seal:
            return
        state = bank.whole(self.state) if self.is_whole(owner) else bank.patch(self._sealed, self.state)
        owner.close([state] if state is not None else [], self._outbox())
        commit = owner.seal()
        self._sealed = self.state
        works, self._works = self._works, []
        self.unreleased[commit.seq] = works
        self.append(commit)
        self.sealed(commit)
        self.later(READ_BACK, lambda: self._check_read_back(commit.seq))

    def is_whole(self, owner: JournalOwner[Work]) -> bool:
        """The state in the next commit, and not only what changed in it."""
        return owner.wants_image or self._rules.always_whole

    def sealed(self, commit: Commit) -> None:
        """It is on its way."""

    def _check_read_back(self, seq: int) -> None:
        if self.owner is not None and self.owner.past.last < seq:
            self.leave(f"commit {seq} does not come back")

    def _outbox(self) -> list[OutboxEntry]:
        tells, self._tells = self._tells, {}
        answers, self._answers = self._answers, {}
        postings = [_posting(queue, parcels) for queue, parcels in tells.items()]
        for queue, rows in answers.items():
            replies = tuple(key for key, _, _ in rows)
            postings.append(_posting(queue, [(envelope, body) for _, envelope, body in rows], replies))
        return postings

    # ---- what follows

    def read_back(self, commit: Commit) -> None:
        self.release(commit)

    def release(self, commit: Commit) -> None:
        for work in self.unreleased.pop(commit.seq, ()):
            work.is_released = True
        self.post(commit.seq, commit.outbox)

    def post(self, seq: int, postings: tuple[OutboxEntry, ...]) -> None:
        left = len(postings)
        if not left:
            self.posted(seq)

        def confirmed() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.posted(seq)

        for posting in postings:
            self.say(f"posts to {posting.queue} what commit {seq} releases")
            self._worker.publish(
                Publish(posting.queue, posting.body, confirmed, posting.content_type, posting.persistent)
            )

    def posted(self, seq: int) -> None:
        owner = self.owner
        assert owner is not None
        for work in owner.posted(seq):
            self.acknowledge(work)
            for receipt in work.late:
                self._answer_again(owner, work.key, receipt)
        self._inherited.discard(seq)
        self.seal_soon()
        self._go_on()

    def acknowledge(self, work: Work) -> None:
        for receipt in work.receipts:
            receipt.done()
        work.receipts = []


def _posting(
    queue: str, parcels: list[tuple[Envelope, bytes]], replies: tuple[tuple[str, int], ...] = ()
) -> OutboxEntry:
    body, content_type = encode(parcels)
    return OutboxEntry(
        queue=queue,
        content_type=content_type,
        body=body,
        size=len(body),
        persistent=not replies,
        replies=replies,
    )


def _short(record: Any) -> str:
    if isinstance(record, Commit):
        image = " with an image" if record.image is not None else ""
        done = " ".join(record.methods)
        return f"commit {record.epoch}/{record.seq}{image} low {record.low} flushed {record.flushed}: {done}"
    return f"{record.kind} {getattr(record, 'epoch', '')}"


def read_record(body: bytes) -> Record | None:
    try:
        return records.decode(body)
    except InvalidRecord:
        return None
