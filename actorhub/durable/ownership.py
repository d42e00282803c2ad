"""One life of a durable mailbox's owner, from its first message to the moment at which it is the owner no longer.

It reads the journal, writes its epoch, makes the instance from what it read, and posts again what former owners released and
nobody knows to be confirmed. Then it takes messages: each is handled on a state that nothing vouches for yet; what has been
handled is appended to the journal; what came back from there, and counts, is posted; and what has been posted is acknowledged.
When it ends, for whatever reason, it drops the rest: the broker gives the messages to the next owner. See `actorhub/journal`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from actorhub.actors import timers
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Delivery, Link, Queue
from actorhub.core.addressing import new_id
from actorhub.durable.compaction import Compactor
from actorhub.durable.effects import EffectCollector
from actorhub.durable.instance_pool import Load, StateHost
from actorhub.durable.journal import Journal
from actorhub.durable.outbox import OutboxPublisher, dead_letter_entry
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import BATCH_BYTES, Intake, JournalOwner, OwnershipLost
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record, StateRecord, StoredTimer
from actorhub.durable.protocol.takeover import JournalLost
from actorhub.durable.snapshot import check_version
from actorhub.errors import ActorDied, ActorHubError, BrokerUnavailable, InvalidEnvelope
from actorhub.messaging.context import Effects
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.request import DeliveryAck, Reply, Request, complete_foreign
from actorhub.messaging.session import Session
from actorhub.wire.envelope import Kind, decode
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

HOLD_BACK = 2.0  # seconds that a message waits for an earlier one that does not come
PATIENCE = 15.0  # seconds in which a commit must come back from the journal
STOPPING = 2.0  # seconds in which what has been handled must be committed


class Ownership:
    """`make_household` makes what handles the messages, around what brings the journal's states, what is called when that
    cannot be read, and what is asked before each message. `in_parts`: its state is in parts. `journal_to_make`: the journal,
    where it may not be there yet. `on_end` is called once when it ends by itself, with the error that ended it. `poison`: ids
    of calls that killed their workers."""

    def __init__(
        self,
        session: Session,
        link: Link,
        spec: ActorSpec,
        *,
        name: str,
        inbox: str,
        journal: str,
        dead: str,
        make_state_host: Callable[[Load, Callable[[Exception], None], Callable[[], bool]], StateHost],
        in_parts: bool,
        journal_to_make: Queue | None,
        poison: frozenset[str],
        on_end: Callable[[Exception], None],
    ) -> None:
        self.lasted = False  # it came to take messages
        self._session = session
        self._link = link
        self._spec = spec
        self._name = name
        self._in_parts = in_parts
        self._journal_to_make = journal_to_make
        self._inbox = inbox
        self._dead = dead
        self._poison = poison
        self._poster = OutboxPublisher(session, link, name, dead)
        self._on_end = on_end
        self._me = f"{name}-{new_id(8)}"
        self._logbook = Journal(session, link, journal, self._me, new_id(), self, in_parts=in_parts)
        self._owner: JournalOwner[Request] | None = None
        self._state_host = make_state_host(self._load, self._end, self._may_begin)
        self._early: list[Delivery] = []
        self._asked_again: list[tuple[str, int, Request]] = []
        self._sequel = EffectCollector(session, link, spec, inbox=inbox, dead=dead)
        self._closed_beside: deque[list[OutboxEntry]] = deque()  # of commits that were closed, and not sealed
        self._beside: dict[int, list[OutboxEntry]] = {}  # what leaves with which commit, and is not in it
        self._beginning = session.spawn_task(self._begin(), f"actorhub-tenure-{name}")
        self._carrying: Compactor | None = None
        self._carrier: asyncio.Task[None] | None = None
        self._flush_asked = False
        self._hold_timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._stopping = False
        self._over = False
        self._unacknowledged = 0

    # ---- life

    async def _begin(self) -> None:
        try:
            if self._journal_to_make is not None:
                await self._link.declare(self._journal_to_make)
            await self._logbook.open()
            owner = JournalOwner[Request](
                self._name,
                self._me,
                self._past,
                image_bytes=self._room // 8,
                room=self._room // 2,
                batch_bytes=self._batch_bytes,
            )
            await self._state_host.begin()
            self._owner = owner
            self._carrying = Compactor(self._name, owner, self._logbook, room=self._room, flush=self._flush)
            await self._post_inherited(owner)
        except (ActorHubError, OSError) as exc:
            self._end(exc)
            return
        if not self._over:
            self.lasted = True
            log.info("%s goes on with epoch %d", self._name, owner.epoch)
            early, self._early = self._early, []
            for delivery in early:
                self._take(delivery)
            self._watch = self._session.loop.call_later(PATIENCE, self._look)
            self._carry_if_due()

    @property
    def newborn(self) -> bool:
        """The journal knows nothing of it."""
        return self._past.last == 0

    @property
    def _room(self) -> int:
        return self._session.settings.journal_retention

    @property
    def _batch_bytes(self) -> int:
        """Small beside what the journal keeps, and beside the largest record."""
        return min(BATCH_BYTES, self._room // 32, self._link.max_message // 16)

    def _may_begin(self) -> bool:
        """Nothing is handled that the next commit has no room for."""
        return self._owner is None or self._owner.may_handle

    async def _post_inherited(self, owner: JournalOwner[Request]) -> None:
        for seq, postings in owner.inherited:
            await self._poster.release(postings)
            owner.posted(seq)

    async def stop(self, patience: float) -> None:
        """Let what runs end, for `patience` seconds, and commit it; then leave. What comes meanwhile is the next owner's."""
        self._stopping = True
        await self._state_host.stop(patience)
        until = self._session.loop.time() + STOPPING
        while self._owner is not None and not self._over and self._session.loop.time() < until:
            self._flush()
            if self._owner.settled and not self._close_journal(self._owner):
                break
            await asyncio.sleep(0.005)
        await self.leave()

    def _close_journal(self, owner: JournalOwner[Request]) -> bool:
        """Write down that all is confirmed, so that the next owner sends nothing again. False where that is known already."""
        if not self._past.unconfirmed_outboxes:
            return False
        closing = owner.seal_rewritten((), time=time.time())
        owner.record_size(closing, self._logbook.append(closing))
        return True

    def abandon(self) -> None:
        """From this moment on nothing is sent and nothing acknowledged. `leave` has to follow."""
        self._over = True
        self._logbook.abandon()
        if self._carrier is not None:
            self._carrier.cancel()
        for timer in (self._hold_timer, self._watch):
            if timer is not None:
                timer.cancel()

    async def leave(self) -> None:
        """Drop everything that is not acknowledged."""
        self.abandon()
        self._beginning.cancel()
        await self._state_host.stop(0.0)
        await self._logbook.close()

    def _end(self, error: Exception) -> None:
        if not self._over:
            self.abandon()
            self._on_end(error)

    def _look(self) -> None:
        """A commit that does not come back: somebody else may be the owner by now."""
        owner = self._owner
        oldest = owner.waiting_since if owner is not None else None
        if oldest is not None and time.time() - oldest > PATIENCE:
            self._end(
                BrokerUnavailable(f"a commit of {self._name} did not come back from its journal in {PATIENCE:.0f} s")
            )
        else:
            self._watch = self._session.loop.call_later(PATIENCE / 4, self._look)

    @property
    def idle(self) -> bool:
        return self._unacknowledged == 0

    # ---- the journal

    def caught_up(self, past: JournalState) -> None:
        """Who cannot read the state does not take over."""
        check_version(self._spec, past.version)

    def own(self, key: str) -> Commit | None:
        return self._owner.own(key) if self._owner is not None else None

    def on_broken(self, error: Exception) -> None:
        self._end(error)

    @property
    def _past(self) -> JournalState:
        return self._logbook.past

    def on_record(self, offset: int, record: Record | None, size: int) -> None:
        owner = self._owner
        if owner is None:  # the instance is being made
            self._past.read(offset, record, size)
            validity = self._past.validity
            if validity.owner != self._me:
                raise OwnershipLost(f"{validity.owner} has taken over with epoch {validity.epoch}")
            return
        commit = owner.read(offset, record, size)
        if commit is None:
            return
        released = [*commit.outbox, *self._beside.pop(commit.seq, ())]
        if released:
            self._session.spawn_task(self._release(owner, commit, released), "actorhub-release")
        else:
            self._done(owner, commit)
        self._flush()
        self._carry_if_due()

    async def _load(self, key: str) -> Sequence[StateRecord]:
        """What the journal says of an instance."""
        if not key:
            return self._past.take_parts() if self._in_parts else list(self._past.states)
        place = self._past.places.get(key)
        if place is None:
            return []
        try:
            commit = await self._logbook.read(place.offset)
        except JournalLost:
            if self._past.places.get(key) == place:
                raise
            return await self._load(key)  # it was written anew meanwhile
        return [state for state in commit.states if state.key == key]

    def _carry_if_due(self) -> None:
        """Also before the first commit: a former owner may have left no room for one."""
        if self._carrier is None and self._carrying is not None and self._carrying.is_due:
            self._carrier = self._session.spawn_task(self._carry(self._carrying), f"actorhub-carry-{self._name}")

    async def _carry(self, carrying: Compactor) -> None:
        try:
            await carrying.run()
        except ActorHubError as exc:
            self._end(exc)
        finally:
            self._carrier = None

    # ---- taking

    def on_delivery(self, delivery: Delivery) -> None:
        self._unacknowledged += 1
        if self._over or self._stopping:
            return
        if self.lasted:
            self._take(delivery)
        else:
            self._early.append(delivery)

    def _take(self, delivery: Delivery) -> None:
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning("a message in %s is no envelope and goes to %s: %s", self._inbox, self._dead, exc)
            letter = DeadLetter.malformed(self._inbox, message, exc)
            self._session.spawn_task(self._keep(letter, DeliveryAck(delivery, 1, self._acked)), "actorhub-dead")
            return
        receipt = DeliveryAck(delivery, len(parcels), self._acked)
        for envelope, payload in parcels:
            if envelope.sender and envelope.seq:
                self._sort(envelope.sender, envelope.seq, Request(envelope, payload, receipt, self._finished))
            elif envelope.sender and envelope.id:  # a durable actor asks, and would ask the same again
                self._sort(f"~{envelope.id}", 1, Request(envelope, payload, receipt, self._finished))
            else:
                known, correlation = complete_foreign(envelope, message)
                said = message.message_id or message.correlation_id or envelope.id
                stranger = f"~{known.reply_to} {said}" if said else ""
                self._sort(stranger, 1, Request(known, payload, receipt, self._finished, foreign=correlation))

    async def _keep(self, letter: DeadLetter, receipt: DeliveryAck) -> None:
        with suppress(BrokerUnavailable):
            await self._poster.post(dead_letter_entry(self._dead, letter, self._link.max_message))
            receipt.done()

    def _acked(self) -> None:
        self._unacknowledged -= 1

    def _sort(self, sender: str, seq: int, work: Request) -> None:
        owner = self._owner
        assert owner is not None
        work.origin = sender, seq
        verdict, known = owner.take(sender, seq, work.envelope.acked_below, work)
        match verdict:
            case Intake.RUN:
                self._run(work)
                for released in owner.released(sender):
                    self._run(released)
            case Intake.HELD:
                self._hold()
            case Intake.IN_HAND:
                assert known is not None
                if work.envelope.reply_to:  # the answer may be lost on its way to who asked first: it gets another
                    self._asked_again.append((sender, seq, work))
                else:
                    known.join(work)
            case Intake.DONE if self._sequel.only_reads(work):
                work.origin = "", 0
                self._run(work)
            case Intake.DONE:
                self._session.spawn_task(self._repeat(owner, sender, seq, work), "actorhub-repeat")

    def _run(self, work: Request) -> None:
        envelope, owner = work.envelope, self._owner
        assert owner is not None
        if envelope.kind is Kind.CANCEL:
            if not owner.drop_timer(envelope.call):
                self._state_host.cancel(envelope.call)
            self._handled(work, "")
        elif envelope.kind is Kind.DUE:
            self._fire(owner, work)
        elif envelope.timer is not None:
            armed = {name: getattr(envelope, name) for name in ("timer", "method", "key", "codec")}
            self._arm(owner, work, StoredTimer(**armed, payload=work.payload))
        else:
            self._offer(work)

    def _arm(self, owner: JournalOwner[Request], work: Request, armed: StoredTimer) -> None:
        try:
            size = self._sequel.check_timer(owner, armed)
        except ActorHubError as exc:
            self._handled(work, "", self._sequel.answer(work, self._invalid(work, exc)))
        else:
            self._sequel.arm(owner, armed)
            self._handled(work, "", size)

    def _invalid(self, work: Request, error: ActorHubError) -> Reply:
        failure = Failure.of(error, self._session.signer)
        return Reply({"kind": Kind.FAILURE, "call": work.envelope.id}, failure.encode(), failure, "invalid")

    def _offer(self, work: Request) -> None:
        """To its instance, unless it has killed too many workers."""
        envelope = work.envelope
        if envelope.id in self._poison:
            error = ActorDied(
                f"{envelope.method} (call {envelope.id}) killed its worker too often and is not run again"
            )
            failure = Failure.of(error, self._session.signer)
            answer = Reply({"kind": Kind.FAILURE, "call": envelope.id}, failure.encode(), failure, "poison")
            self._finished(work, answer)
        else:
            work.effects = Effects(f"{self._name}:{work.origin[0] or new_id()}:{work.origin[1]}")
            self._state_host.offer(work)

    def _fire(self, owner: JournalOwner[Request], work: Request) -> None:
        timer = work.envelope.timer
        armed = owner.timers.get(timer.id) if timer is not None else None
        if armed is None or armed.timer != timer:
            self._handled(work, "")  # it was cancelled, or has come before
        elif timers.is_missed(armed.timer, time.time()):
            self._sequel.arm_next(owner, armed)
            self._handled(work, "")
        else:
            changes = {"kind": Kind.TELL, "method": armed.method, "codec": armed.codec}
            work.envelope, work.payload = work.envelope.model_copy(update=changes), armed.payload
            self._offer(work)

    async def _repeat(self, owner: JournalOwner[Request], sender: str, seq: int, work: Request) -> None:
        """It was applied before. Whoever waits for its answer gets the same once more."""
        if work.envelope.reply_to:
            with suppress(BrokerUnavailable):
                await self._poster.post(self._sequel.answer_again(owner, work, sender, seq))
        if not self._over:
            work.done()

    # ---- holding back

    def _hold(self) -> None:
        if self._hold_timer is None:
            self._hold_timer = self._session.loop.call_later(HOLD_BACK, self._release_held)

    def _release_held(self) -> None:
        self._hold_timer = None
        owner = self._owner
        if owner is None or self._over:
            return
        for sender, gap in owner.skip_gaps():
            log.warning(
                "%s waited %.0f s for number %d to %d of %s in vain; going on without",
                *(self._inbox, HOLD_BACK, gap.start, gap.stop - 1, sender),
            )
            for released in owner.released(sender):
                self._run(released)
        if owner.holds_back:
            self._hold()

    # ---- handled

    def _finished(self, work: Request, answer: Reply) -> None:
        """Its method has ended, in this very moment: nothing else has touched the instance since."""
        owner = self._owner
        if self._over or owner is None:
            return
        size = 0
        if answer.failure is None:
            try:
                size = self._sequel.check(work, answer) + self._state_host.keep(work)
            except ActorHubError as exc:
                answer = self._invalid(work, exc)
        if answer.failure is None:
            self._sequel.tell(owner, work)
        else:
            self._state_host.put_back(work)
        timer = work.envelope.timer
        if timer is not None and (armed := owner.timers.get(timer.id)) is not None:
            self._sequel.arm_next(owner, armed)
        size += self._sequel.answer(work, answer)
        self._handled(work, work.envelope.method, size)

    def _handled(self, work: Request, method: str, size: int = 0) -> None:
        assert self._owner is not None
        self._owner.handled(*work.origin, work, method, size)
        if self._owner.is_full:
            self._end_batch(self._owner)
        if not self._flush_asked:
            self._flush_asked = True
            self._session.loop.call_soon(self._flush)

    # ---- committing

    def _end_batch(self, owner: JournalOwner[Request]) -> None:
        """Now: many may be running, and what the next one does would make it too large for a record."""
        if owner.may_seal:
            self._flush()
        else:
            self._close(owner, whole=True)

    def _flush(self) -> None:
        self._flush_asked = False
        owner = self._owner
        if owner is None or self._over or not owner.may_seal:
            return
        was_full = not owner.may_handle
        while owner.may_seal:
            if not owner.has_closed:
                self._close(owner, whole=owner.gives_image)
            commit, beside = owner.seal(time=time.time()), self._closed_beside.popleft()
            if beside:
                self._beside[commit.seq] = beside
            owner.record_size(commit, self._logbook.append(commit))
        if was_full and owner.may_handle:
            self._state_host.go_on()

    def _close(self, owner: JournalOwner[Request], *, whole: bool) -> None:
        """What has been handled is one commit, whatever is handled before it is sealed."""
        kept, beside = self._sequel.take()
        owner.close(self._state_host.changes(whole=whole), kept)
        self._closed_beside.append(beside)

    async def _release(self, owner: JournalOwner[Request], commit: Commit, released: Sequence[OutboxEntry]) -> None:
        """It counts."""
        with suppress(BrokerUnavailable):
            await self._poster.release(released)
            self._done(owner, commit)

    def _done(self, owner: JournalOwner[Request], commit: Commit) -> None:
        if self._over:
            return
        works = owner.posted(commit.seq)
        lag = self._session.settings.ack_lag
        if lag:
            self._session.loop.call_later(lag, self._acknowledge, works)
        else:
            self._acknowledge(works)
        again, self._asked_again = self._asked_again, []
        for sender, seq, work in again:
            self._sort(sender, seq, work)
        self._flush()

    def _acknowledge(self, works: list[Request]) -> None:
        if not self._over:
            for work in works:
                self._state_host.posted(work)
                work.done()
