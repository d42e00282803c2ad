"""What follows from a message to a durable mailbox: its answer, what it tells others, the queues and the timers that it makes.
All of it gathers until the commit that it leaves with."""

from __future__ import annotations

import logging
import time

from actorhub.actors import timers
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Link
from actorhub.durable.outbox import CommitOutbox, dead_letter_entry
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import RECORD_SHARE, OutboxEntry, StoredTimer
from actorhub.errors import PayloadTooLarge, RemoteError
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.wire.envelope import EncodedEnvelope, Envelope, EnvelopeDraft, Kind, decode, encode
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

ENVELOPE = 256  # bytes of what is said about a message in a record, about


class EffectCollector:
    """Of the messages in `inbox`; letters of those that fail go to `dead`."""

    def __init__(self, session: Session, link: Link, spec: ActorSpec, *, inbox: str, dead: str) -> None:
        self._session = session
        self._server = link.server
        self._spec = spec
        self._inbox = inbox
        self._dead = dead
        self._most = link.max_message // RECORD_SHARE
        self._armed = 0  # bytes of all timers, or more: those that are over are counted until there seem to be too many
        self._kept = CommitOutbox()
        self._read = CommitOutbox()  # answers that the journal does not keep

    def take(self) -> tuple[list[OutboxEntry], list[OutboxEntry]]:
        """All that leaves with the commit: what is in it, and what is not. It gathers anew."""
        kept, self._kept = self._kept, CommitOutbox()
        read, self._read = self._read, CommitOutbox()
        return kept.postings(), read.postings()

    def only_reads(self, work: Request) -> bool:
        return work.envelope.method in self._spec.options.reads

    # ---- of one that was handled

    def check(self, work: Request, answer: Reply) -> int:
        """Returns the bytes of what it tells others. What the journal does not keep is checked by who sends it.

        Raises:
            PayloadTooLarge: its answer, or all that it tells, would not fit into a record beside the rest.
        """
        effects = work.effects.told if work.effects is not None else ()
        told = sum(len(each.payload) + 2 * len(each.queue) + ENVELOPE for each in effects)
        if told > self._most:
            raise PayloadTooLarge(
                f"{work.envelope.method} tells others {told} bytes, and {self._most} fit into a journal of "
                f"{self._server}; put large values into the object store (hub.put) and tell their references"
            )
        if not self.only_reads(work) and len(answer.payload) > self._most:
            raise PayloadTooLarge(
                f"an answer of {len(answer.payload)} bytes, and {self._most} fit into a journal of {self._server}; "
                "put it into the object store (hub.put) and return its reference"
            )
        return told

    def tell(self, owner: JournalOwner[Request], work: Request) -> None:
        """What it told others, and the queues that it wants."""
        if work.effects is None:
            return
        for queue in work.effects.queues:
            self._kept.declare(queue)
        for told in work.effects.told:
            sender, seq = owner.number(told.queue)
            draft: EnvelopeDraft = {**told.draft, "id": f"{sender}-{told.queue}-{seq}", "sender": sender}
            self._kept.tell(told.queue, told.keyed, (Envelope(seq=seq, **draft), told.payload))

    def answer(self, work: Request, answer: Reply) -> int:
        """To who asked; a tell that failed becomes a letter. Returns the bytes of both."""
        envelope, failure, size = work.envelope, answer.failure, len(answer.payload)
        if failure is not None and (answer.reason == "poison" or envelope.kind in (Kind.TELL, Kind.TIMER)):
            log.error("%s of %s failed: %s", envelope.method, self._inbox, failure.message, extra={"call": envelope.id})
            letter = DeadLetter.of(answer.reason, self._inbox, envelope, work.payload, failure)
            posting = dead_letter_entry(self._dead, letter, self._most)
            self._kept.alone(posting)
            size += posting.size
        if not envelope.reply_to:
            return size
        parcel = Envelope(**answer.draft), answer.payload
        outgoing = self._read if self.only_reads(work) else self._kept
        if work.foreign is None and work.origin[0] and len(answer.payload) <= self._most:
            outgoing.reply(envelope.reply_to, parcel, work.origin)
        else:
            outgoing.alone(_answer_to(work, parcel, work.origin))
        return size

    def answer_again(self, owner: JournalOwner[Request], work: Request, sender: str, seq: int) -> OutboxEntry:
        """The answer that the journal has of the same message, which was handled before."""
        found = owner.past.answers.find(sender, seq)
        if found is not None:
            posting, place = found
            parcel = decode(posting.body, posting.content_type)[place]
        else:
            method = work.envelope.method
            error = RemoteError(f"{method} ran, and its answer is no longer kept; ask for the state instead")
            failure = Failure.of(error, self._session.signer)
            parcel = Envelope(kind=Kind.FAILURE, call=work.envelope.id), failure.encode()
        return _answer_to(work, parcel, (sender, seq), persistent=False)

    # ---- timers

    def check_timer(self, owner: JournalOwner[Request], armed: StoredTimer) -> int:
        """Returns the bytes that it takes in a record.

        Raises:
            PayloadTooLarge: all timers are in each image, and would not fit into a record beside the rest.
        """
        size = _size_of(armed)
        if self._armed == 0 or self._armed + size > self._most:
            self._armed = sum(_size_of(each) for each in owner.timers.values())
        if self._armed + size > self._most:
            raise PayloadTooLarge(
                f"{len(owner.timers)} timers of {self._armed} bytes are set in {self._inbox}, and {self._most} fit into a "
                f"journal of {self._server}; set fewer, put large arguments into the object store (hub.put), or give a "
                "keyed class more shards"
            )
        self._armed += size
        return size

    def arm(self, owner: JournalOwner[Request], armed: StoredTimer) -> None:
        """It comes through the inbox when it is due. Of all that comes, only what the journal expects counts."""
        owner.set_timer(armed)
        timer = armed.timer
        due = Envelope(id=f"{timer.id}@{timer.due!r}", kind=Kind.DUE, method=armed.method, key=armed.key, timer=timer)
        body, content_type = encode([(due, b"null")])
        posting = OutboxEntry(queue=self._inbox, content_type=content_type, body=body, size=len(body), due=timer.due)
        self._kept.alone(posting)

    def arm_next(self, owner: JournalOwner[Request], armed: StoredTimer) -> None:
        """For the time after this one, in the commit of what came of this one."""
        following = timers.following(armed.timer, time.time())
        if following is None:
            owner.drop_timer(armed.timer.id)
        else:
            self.arm(owner, armed.model_copy(update={"timer": following}))


def _size_of(armed: StoredTimer) -> int:
    """In base64, with all that is said about it."""
    return ENVELOPE + len(armed.method) + len(armed.key or "") + 4 * len(armed.payload) // 3


def _answer_to(
    work: Request, parcel: EncodedEnvelope, call: tuple[str, int], *, persistent: bool = True
) -> OutboxEntry:
    body, content_type = encode([parcel])
    return OutboxEntry(
        queue=work.envelope.reply_to,
        content_type=content_type,
        body=body,
        size=len(body),
        persistent=persistent,
        correlation_id=work.foreign,
        replies=(call,),
    )
