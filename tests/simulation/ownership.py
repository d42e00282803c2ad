"""The shell around the protocol for one owner, from consuming the inbox to its end: carries out what `JournalOwner` decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pamqp.base import Frame
from pamqp.commands import Basic, Channel

from actorhub.durable.protocol import records
from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.owner import JournalOwner, NextStep, OwnershipLost
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record
from actorhub.durable.protocol.takeover import Append, OwnershipContested, ReadFrom, Takeover
from actorhub.wire.envelope import Envelope, Kind, decode, encode
from tests.simulation import bank
from tests.simulation.messages import Receipt, Request, describe, outbox_entry
from tests.simulation.network import INBOX, JOURNAL, Arrival, Connection
from tests.simulation.worker import Publish, Worker

INBOX_CHANNEL = 1
FIRST_JOURNAL_CHANNEL = 2
"""Each reading of the journal has a channel of its own, from this one on."""

READBACK_STEPS = 3000
"""In which a record that was appended must come back."""

BACK_OFF_STEPS = 40


class Ownership:
    """One owner. Mutants override its methods."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.me = f"{worker.name}.{number}"
        self.over = False
        self.connection: Connection | None = None
        self.owner: JournalOwner[Request] | None = None
        self.state = bank.opened()
        self._worker = worker
        self._rules = worker.rules
        self._takeover: Takeover | None = None
        self._todo: deque[ReadFrom | Append] = deque()
        self._reading = FIRST_JOURNAL_CHANNEL - 1  # channel of the current reading of the journal
        self._awaited = 0  # channel whose consumer is not confirmed yet
        self._arrived: deque[Request] = deque()  # not decided on yet
        self._ready: deque[Request] = deque()  # to be handled next
        self._inherited: set[int] = set()
        self._last_record_at = 0
        self._busy = False
        self._is_committing = False
        self._holding = False
        self._committed = self.state
        self._requests: list[Request] = []
        self._tells: dict[str, list[tuple[Envelope, bytes]]] = {}
        self._replies: dict[str, list[tuple[tuple[str, int], Envelope, bytes]]] = {}
        self.unreleased: dict[int, list[Request]] = {}

    def say(self, text: str) -> None:
        self._rules.say(f"{self.me} {text}")

    # ---- beginning and end

    def begin(self) -> None:
        worker = self._worker
        connection = self.connection = worker.server.connect(worker, self, worker.lag())
        qos = Basic.Qos(0, self._rules.prefetch, False)
        connection.say(INBOX_CHANNEL, Channel.Open(), qos, Basic.Consume(0, INBOX, "inbox"))

    def stop(self) -> None:
        """Leave as a worker that drains: if all is settled, write down first that it is confirmed."""
        owner = self.owner
        if owner is not None and owner.settled and owner.journal_state.unconfirmed_outboxes:
            self.append(self.confirmation(owner))
            self.later(4 * self._worker.lag(), lambda: self.leave("it was asked to"))
        else:
            self.leave("it was asked to")

    def confirmation(self, owner: JournalOwner[Request]) -> Commit:
        return owner.seal_confirmation()

    def leave(self, why: str) -> None:
        """Drop all that was not read back. The consumer is never cancelled: what it holds goes back to the inbox first."""
        if self.over:
            return
        self.say(f"leaves: {why}")
        self.over = True
        self.close()
        self._worker.own_again(self._worker.server.chance.randint(1, 2 * BACK_OFF_STEPS))

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def lost(self, connection: Connection) -> None:
        """An owner may go on over another connection: the inbox brings again what it holds, and the journal goes on where it
        was."""
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
        self._reading = FIRST_JOURNAL_CHANNEL - 1
        self._read_from(self.owner.journal_state.next_offset)

    def later(self, steps: int, act: Callable[[], None]) -> None:
        """Act unless the ownership is over by then."""
        self._worker.later(steps, lambda: None if self.over else act())

    # ---- the journal

    def take_over(self) -> None:
        self.say("begins")
        self._takeover = self._rules.takeover(self.me, f"marker {self.me}", self._rules.journal_state())
        self._todo.extend(self._takeover.start())
        self._carry_out()
        self._last_record_at = self._worker.clock.now
        self.later(READBACK_STEPS, self._check_reading)

    def _check_reading(self) -> None:
        """End the ownership only if nothing comes, however long the journal is: each takeover makes it longer by a marker."""
        if self.owner is not None:
            return
        if self._worker.clock.now - self._last_record_at >= READBACK_STEPS:
            self.leave("the journal does not come")
        else:
            self.later(READBACK_STEPS, self._check_reading)

    def _carry_out(self) -> None:
        while self._todo and not self._awaited and not self.over:
            action = self._todo.popleft()
            if isinstance(action, ReadFrom):
                self._read_from(action.offset)
            else:
                self.append(action.record)

    def _read_from(self, offset: int | str) -> None:
        assert self.connection is not None
        if self._reading >= FIRST_JOURNAL_CHANNEL:
            self.connection.say(self._reading, Channel.Close(200, "", 0, 0))
        self._reading += 1
        self._awaited = self._reading
        qos = Basic.Qos(0, self._rules.window, False)
        consume = Basic.Consume(0, JOURNAL, f"journal {self._reading}", arguments={"x-stream-offset": offset})
        self.connection.say(self._reading, Channel.Open(), qos, consume)

    def append(self, record: Record) -> None:
        self.say(f"appends {describe(record)}")
        body = records.encode(record)
        if self.owner is not None and isinstance(record, Commit):
            self.owner.record_size(record, len(body))
        self._worker.publish(Publish(JOURNAL, body, lambda: self.appended(record)))
        self._rules.appending(record)

    def appended(self, record: Record) -> None:
        """The broker has stored the record. That does not make it count."""

    def answered(self, connection: Connection, channel: int, method: Frame) -> None:
        if isinstance(method, Basic.ConsumeOk) and channel == self._awaited and not self.over:
            self._awaited = 0
            self._carry_out()

    def arrived(self, connection: Connection, arrival: Arrival) -> None:
        if self.over or connection is not self.connection:
            return
        if arrival.channel == INBOX_CHANNEL:
            self._take_in(arrival)
        elif arrival.channel == self._reading:
            connection.say(arrival.channel, Basic.Ack(arrival.tag))
            self._read(arrival)

    def _read(self, arrival: Arrival) -> None:
        record = self._rules.decode(arrival.body)
        self._last_record_at = self._worker.clock.now
        try:
            if self.owner is not None:
                self._read_as_owner(self.owner, arrival.offset, record, len(arrival.body))
            elif self._takeover is not None:
                self._todo.extend(self._takeover.read(arrival.offset, record, len(arrival.body)))
                self._carry_out()
                if self._takeover.is_done:
                    self._own(self._takeover)
        except (OwnershipContested, OwnershipLost) as exc:
            self.leave(str(exc))

    def _read_as_owner(self, owner: JournalOwner[Request], offset: int, record: Record | None, size: int) -> None:
        commit = owner.read(offset, record, size)
        if commit is not None:
            self.say(f"reads commit {commit.seq} back")
            self.read_back(commit)
            self.commit_soon()

    # ---- taking

    def _take_in(self, arrival: Arrival) -> None:
        connection = self.connection

        def acknowledge() -> None:
            if not self.over and connection is not None and connection is self.connection:
                connection.say(INBOX_CHANNEL, Basic.Ack(arrival.tag))

        parcels = decode(arrival.body, arrival.content_type)
        receipt = Receipt(acknowledge, len(parcels))
        self._arrived.extend(Request(envelope, payload, receipt) for envelope, payload in parcels)
        if self._takeover is None:
            self.take_over()
        self._go_on()

    def _own(self, takeover: Takeover) -> None:
        owner: JournalOwner[Request] = self._rules.owner(
            "mailbox", self.me, takeover.journal_state, checkpoint_after=self._rules.checkpoint_after
        )
        self.owner = owner
        self.state = self._committed = bank.fold(takeover.journal_state.states)
        self.say(f"owns with epoch {owner.epoch}, after commit {takeover.journal_state.last_seq}")
        self.inherit(owner)
        self._go_on()

    def inherit(self, owner: JournalOwner[Request]) -> None:
        self._inherited.update(seq for seq, _ in owner.inherited)
        for seq, entries in owner.inherited:
            self.publish_outbox(seq, entries)

    def _go_on(self) -> None:
        if self.owner is None or self._inherited or self._busy or not (self._ready or self._arrived):
            return
        self._busy = True
        self.later(self._worker.server.chance.randint(1, self._rules.slowness), self._next)

    def _next(self) -> None:
        self._busy = False
        owner = self.owner
        assert owner is not None
        if self._ready:
            self._run(owner, self._ready.popleft())
        elif self._arrived:
            self._take(owner, self._arrived.popleft())
        self._go_on()

    def _take(self, owner: JournalOwner[Request], request: Request) -> None:
        envelope = request.envelope
        intake, first = owner.take(envelope.sender, envelope.seq, envelope.acked_below, request)
        if intake is Intake.RUN:
            self._ready.append(request)
            self._ready.extend(owner.intake.take_held(envelope.sender))
        elif intake is Intake.HELD:
            self._hold()
        elif intake is Intake.IN_HAND:
            assert first is not None
            self.repeat_in_hand(first, request.receipts[0])
        else:
            self.repeat_done(owner, request)

    def repeat_in_hand(self, first: Request, receipt: Receipt) -> None:
        (first.late if first.is_released else first.receipts).append(receipt)

    def repeat_done(self, owner: JournalOwner[Request], request: Request) -> None:
        """The message was applied before, and its effects are confirmed."""
        self._reply_again(owner, request.key, request.receipts[0])

    def _reply_again(self, owner: JournalOwner[Request], key: tuple[str, int], receipt: Receipt) -> None:
        """If no reply is kept, the message was a tell, or its sender has the reply."""
        found = owner.journal_state.replies.find(*key)
        if found is None:
            receipt.done()
            return
        entry, place = found
        body, content_type = encode([decode(entry.body, entry.content_type)[place]])
        self._worker.publish(Publish(entry.queue, body, receipt.done, content_type, entry.persistent))

    def _hold(self) -> None:
        if not self._holding and self._rules.hold_back:
            self._holding = True
            self.later(self._rules.hold_back, self._release_held)

    def _release_held(self) -> None:
        self._holding = False
        owner = self.owner
        if owner is None or not owner.intake.holds_back:
            return
        for sender, gap in owner.intake.skip_gaps():
            self.say(f"waits no longer for {sender} {gap}")
            self._rules.skipped.append(sender)
            self._ready.extend(owner.intake.take_held(sender))
        if owner.intake.holds_back:
            self._hold()
        self._go_on()

    # ---- handling

    def _run(self, owner: JournalOwner[Request], request: Request) -> None:
        envelope = request.envelope
        try:
            done = bank.move(self.state, envelope.id, int(request.payload))
        except bank.Overdrawn as exc:
            kind, text = Kind.FAILURE, f"{envelope.id}: {exc}"
            self.failed(owner)
        else:
            self.state = done.state
            kind, text = Kind.REPLY, done.reply
            for queue, told in done.tells:
                sender, seq = self.number(owner, queue)
                tell = Envelope(kind=Kind.TELL, id=f"{sender}/{seq}", method="note", sender=sender, seq=seq)
                self._tells.setdefault(queue, []).append((tell, f'"{told}"'.encode()))
        if envelope.reply_to:
            reply = Envelope(kind=kind, call=envelope.id)
            self._replies.setdefault(envelope.reply_to, []).append((request.key, reply, f'"{text}"'.encode()))
        self.say(f"handles {envelope.id}")
        self._requests.append(request)
        owner.handled(*request.key, request, envelope.id)
        self.commit_soon()

    def number(self, owner: JournalOwner[Request], queue: str) -> tuple[str, int]:
        return owner.number(queue)

    def failed(self, owner: JournalOwner[Request]) -> None:
        """The handler has raised: none of its tells gets a number."""

    def commit_soon(self) -> None:
        """Commit after a while; what is handled until then is in the same commit."""
        if not self._is_committing and self.owner is not None and self.owner.next_step().commits:
            self._is_committing = True
            self.later(self._worker.server.chance.randint(0, self._rules.slowness), self._commit)

    def _commit(self) -> None:
        self._is_committing = False
        owner = self.owner
        if owner is None or not owner.next_step().commits:
            return
        state = bank.whole(self.state) if self.is_whole(owner) else bank.patch(self._committed, self.state)
        owner.close_batch([state] if state is not None else [], self._outbox())
        commit = owner.seal()
        self._committed = self.state
        requests, self._requests = self._requests, []
        self.unreleased[commit.seq] = requests
        self.append(commit)
        self.after_append(commit)
        self.later(READBACK_STEPS, lambda: self._check_read_back(commit.seq))

    def is_whole(self, owner: JournalOwner[Request]) -> bool:
        """True if the next commit holds the whole state, not only what has changed."""
        return owner.next_step() is NextStep.COMMIT_WITH_CHECKPOINT or self._rules.always_whole

    def after_append(self, commit: Commit) -> None:
        """The commit has been appended."""

    def _check_read_back(self, seq: int) -> None:
        if self.owner is not None and self.owner.journal_state.last_seq < seq:
            self.leave(f"commit {seq} does not come back")

    def _outbox(self) -> list[OutboxEntry]:
        tells, self._tells = self._tells, {}
        replies_to, self._replies = self._replies, {}
        entries = [outbox_entry(queue, parcels) for queue, parcels in tells.items()]
        for queue, rows in replies_to.items():
            replies = tuple(key for key, _, _ in rows)
            entries.append(outbox_entry(queue, [(envelope, body) for _, envelope, body in rows], replies))
        return entries

    # ---- after the commit

    def read_back(self, commit: Commit) -> None:
        self.release(commit)

    def release(self, commit: Commit) -> None:
        for request in self.unreleased.pop(commit.seq, ()):
            request.is_released = True
        self.publish_outbox(commit.seq, commit.outbox)

    def publish_outbox(self, seq: int, entries: tuple[OutboxEntry, ...]) -> None:
        left = len(entries)
        if not left:
            self.settle(seq)

        def confirmed() -> None:
            nonlocal left
            left -= 1
            if not left:
                self.settle(seq)

        for entry in entries:
            self.say(f"publishes to {entry.queue} what commit {seq} releases")
            self._worker.publish(Publish(entry.queue, entry.body, confirmed, entry.content_type, entry.persistent))

    def settle(self, seq: int) -> None:
        owner = self.owner
        assert owner is not None
        for request in owner.confirmed(seq):
            self.acknowledge(request)
            for receipt in request.late:
                self._reply_again(owner, request.key, receipt)
        self._inherited.discard(seq)
        self.commit_soon()
        self._go_on()

    def acknowledge(self, request: Request) -> None:
        for receipt in request.receipts:
            receipt.done()
        request.receipts = []
