"""Effects of handled messages - replies, tells, timers, queue declarations - collected until the commit that releases them."""

from __future__ import annotations

import logging
import time

from actorhub.actors import timers
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Link
from actorhub.durable.outbox import CommitOutbox, dead_letter_entry
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import RECORD_SHARE, OutboxEntry, StoredTimer
from actorhub.errors import PayloadTooLarge
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.wire.envelope import EncodedEnvelope, Envelope, EnvelopeDraft, Kind, decode, encode

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 256
"""Estimate of what a record holds about one message beside its payload."""


class EffectCollector:
    """Effects of the messages in one inbox.

    Args:
        owner: numbers the tells, and keeps the timers.
        inbox: queue to which timers come when they are due.
        dead_letters: queue of the messages that failed.
    """

    def __init__(
        self,
        session: Session,
        link: Link,
        spec: ActorSpec,
        owner: JournalOwner[Request],
        *,
        inbox: str,
        dead_letters: str,
    ) -> None:
        self._session = session
        self._server = link.server
        self._spec = spec
        self._owner = owner
        self._inbox = inbox
        self._dead_letters = dead_letters
        self._max_bytes = link.max_message // RECORD_SHARE
        self._timer_bytes = 0
        """Of all timers, or more: removed ones count until they seem to be too many."""
        self._journaled = CommitOutbox()
        self._unjournaled = CommitOutbox()
        """Replies of methods that only read: they leave with the commit, and the journal does not keep them."""

    def take(self) -> tuple[list[OutboxEntry], list[OutboxEntry]]:
        """All that leaves with the next commit: the entries that are part of it, and those that are not."""
        journaled, self._journaled = self._journaled, CommitOutbox()
        unjournaled, self._unjournaled = self._unjournaled, CommitOutbox()
        return journaled.entries(), unjournaled.entries()

    def is_read_only(self, request: Request) -> bool:
        """True if the method only reads, so that a repeated request can run again."""
        return request.envelope.method in self._spec.options.reads

    # ---- tells and replies

    def check_size(self, request: Request, reply: Reply) -> int:
        """Check that a request's effects can be committed; returns the bytes of its tells. Replies of methods that only read
        are checked where they are packed.

        Raises:
            PayloadTooLarge: the reply, or all tells together, would not fit into a record beside the rest.
        """
        told = request.effects.told if request.effects is not None else ()
        size = sum(len(tell.payload) + 2 * len(tell.queue) + ENVELOPE_BYTES for tell in told)
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"{request.envelope.method} tells others {size} bytes, and {self._max_bytes} fit into a journal of "
                f"{self._server}; put large values into the object store (hub.put) and tell their references"
            )
        if not self.is_read_only(request) and len(reply.payload) > self._max_bytes:
            raise PayloadTooLarge(
                f"a reply of {len(reply.payload)} bytes, and {self._max_bytes} fit into a journal of {self._server}; "
                "put it into the object store (hub.put) and return its reference"
            )
        return size

    def add_tells(self, request: Request) -> None:
        """Collect the tells of a request, and the queues that it declares."""
        if request.effects is None:
            return
        for queue in request.effects.queues:
            self._journaled.declare(queue)
        for tell in request.effects.told:
            sender, seq = self._owner.number(tell.queue)
            draft: EnvelopeDraft = {**tell.draft, "id": f"{sender}-{tell.queue}-{seq}", "sender": sender}
            self._journaled.tell(tell.queue, tell.keyed, (Envelope(seq=seq, **draft), tell.payload))

    def add_reply(self, request: Request, reply: Reply) -> int:
        """Collect the reply to the caller, and the dead letter of a tell that failed. Returns the bytes of both."""
        envelope, failure, size = request.envelope, reply.failure, len(reply.payload)
        if failure is not None and (reply.reason == "poison" or envelope.kind in (Kind.TELL, Kind.TIMER)):
            log.error("%s of %s failed: %s", envelope.method, self._inbox, failure.message, extra={"call": envelope.id})
            letter = DeadLetter.of(reply.reason, self._inbox, envelope, request.payload, failure)
            entry = dead_letter_entry(self._dead_letters, letter, self._max_bytes)
            self._journaled.add(entry)
            size += entry.size
        if not envelope.reply_to:
            return size
        parcel = Envelope(**reply.draft), reply.payload
        outbox = self._unjournaled if self.is_read_only(request) else self._journaled
        if request.foreign is None and request.origin[0] and len(reply.payload) <= self._max_bytes:
            outbox.reply(envelope.reply_to, parcel, request.origin)
        else:
            outbox.add(_reply_entry(request, parcel))
        return size

    def repeated_reply(self, request: Request) -> OutboxEntry:
        """The reply that the journal keeps for a request that was handled before."""
        found = self._owner.journal_state.replies.find(*request.origin)
        if found is not None:
            entry, index = found
            parcel = decode(entry.body, entry.content_type)[index]
        else:
            reply = Reply.no_longer_kept(request.envelope, self._session.signer)
            parcel = Envelope(**reply.draft), reply.payload
        return _reply_entry(request, parcel, persistent=False)

    # ---- timers

    def reserve_timer(self, timer: StoredTimer) -> int:
        """Make room for a timer that is to be set; returns the bytes that it takes in a record.

        Raises:
            PayloadTooLarge: every checkpoint holds all timers, and they would not fit beside the rest.
        """
        size = _timer_bytes(timer)
        if self._timer_bytes == 0 or self._timer_bytes + size > self._max_bytes:
            self._timer_bytes = sum(_timer_bytes(each) for each in self._owner.timers.values())
        if self._timer_bytes + size > self._max_bytes:
            raise PayloadTooLarge(
                f"{len(self._owner.timers)} timers of {self._timer_bytes} bytes are set in {self._inbox}, and "
                f"{self._max_bytes} fit into a journal of {self._server}; set fewer, put large arguments into the object "
                "store (hub.put), or give a keyed class more shards"
            )
        self._timer_bytes += size
        return size

    def set_timer(self, stored: StoredTimer) -> None:
        """Set a timer. Its message comes through the inbox when it is due, and counts only if the journal expects it then."""
        self._owner.set_timer(stored)
        timer = stored.timer
        due = Envelope(id=f"{timer.id}@{timer.due!r}", kind=Kind.DUE, method=stored.method, key=stored.key, timer=timer)
        body, content_type = encode([(due, b"null")])
        entry = OutboxEntry(queue=self._inbox, content_type=content_type, body=body, size=len(body), due=timer.due)
        self._journaled.add(entry)

    def set_next_timer(self, stored: StoredTimer) -> None:
        """Set a timer again after it has fired, in the same commit; drop it if that was the last time."""
        following = timers.next_due(stored.timer, time.time())
        if following is None:
            self._owner.drop_timer(stored.timer.id)
        else:
            self.set_timer(stored.model_copy(update={"timer": following}))


def _timer_bytes(timer: StoredTimer) -> int:
    """Bytes of a timer in a record; its payload is written in base64."""
    return ENVELOPE_BYTES + len(timer.method) + len(timer.key or "") + 4 * len(timer.payload) // 3


def _reply_entry(request: Request, parcel: EncodedEnvelope, *, persistent: bool = True) -> OutboxEntry:
    body, content_type = encode([parcel])
    return OutboxEntry(
        queue=request.envelope.reply_to,
        content_type=content_type,
        body=body,
        size=len(body),
        persistent=persistent,
        correlation_id=request.foreign,
        replies=(request.origin,),
    )
