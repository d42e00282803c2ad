"""Outbox of a session for one destination: envelopes are numbered, coalesced, confirmed, and sent again until they are.

The first envelope leaves at the end of the current turn of the event loop. While its publish waits for the confirm,
later envelopes gather, and leave as one batch: a single caller pays no delay, a busy one pays one AMQP message for
hundreds of envelopes. More than one publish is under way only when whole batches wait, or when the reply came before
the confirm, as the reply to a message that the broker is still writing to its disk does.

Numbers are given at the moment of publishing, and a refused number is given to the next envelope: so a destination
never waits for a number that is never sent.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from actorhub.broker import Link, Message, Outcome
from actorhub.wire.envelope import Codec, EncodedEnvelope, Envelope, EnvelopeDraft, Kind, encode

BATCH_ENVELOPES = 256
BATCH_BYTES = 256 * 1024
MAX_IN_FLIGHT = 8
# seconds before a refused envelope that may wait is tried again
REFUSED_RETRY_SECONDS = 0.02


class OutgoingMessage:
    """Outgoing envelope, from its draft to the outcome of its publish.

    Args:
        draft: fields of the envelope, without `seq` and `acked_below`.
        payload: its payload.
        settled: called once: with STORED, UNROUTABLE, or REFUSED if it may not wait; and once more, with UNROUTABLE, if
            the queue was deleted with a call that it had stored.
        alone: never part of a batch, for receivers that read plain JSON only; then `correlation_id` goes into the
            message's properties.
    """

    __slots__ = (
        "alone",
        "correlation_id",
        "draft",
        "envelope",
        "has_reply",
        "payload",
        "persistent",
        "sent",
        "settled",
        "waits_when_full",
    )

    def __init__(
        self,
        draft: EnvelopeDraft,
        payload: bytes,
        settled: Callable[[Outcome], None],
        *,
        persistent: bool = True,
        waits_when_full: bool = False,
        alone: bool = False,
        correlation_id: str | None = None,
    ) -> None:
        self.draft = draft
        self.payload = payload
        self.settled = settled
        self.persistent = persistent
        self.waits_when_full = waits_when_full
        self.alone = alone
        self.correlation_id = correlation_id
        self.envelope: Envelope | None = None
        self.has_reply = False
        # by the loop's clock
        self.sent = 0.0


class ActorOutbox:
    """Outbox for one queue.

    Args:
        numbered: give sequence numbers (replies need none: they are matched by id).
        limited: the queue refuses envelopes past a limit, so they leave one by one, each after the confirm of the one
            before.
    """

    def __init__(self, queue: str, loop: asyncio.AbstractEventLoop, *, numbered: bool, limited: bool) -> None:
        self.queue = queue
        self._loop = loop
        self._numbered = numbered
        self._limited = limited
        self._next_seq = 1
        # the lowest of the unused numbers, if no higher number was used
        self._unused: int | None = None
        self._waiting: deque[OutgoingMessage] = deque()
        self._in_flight: deque[list[OutgoingMessage]] = deque()
        self._without_reply: dict[int, OutgoingMessage] = {}
        self._link: Link | None = None
        self._flush_asked = False

    @property
    def idle(self) -> bool:
        """True if nothing waits for a confirm or for a reply."""
        return not (self._waiting or self._in_flight or self._without_reply)

    @property
    def unconfirmed(self) -> int:
        return len(self._waiting) + sum(len(batch) for batch in self._in_flight)

    def put(self, outgoing: OutgoingMessage) -> None:
        self._waiting.append(outgoing)
        if not self._flush_asked and self._link is not None and self._may_publish():
            self._flush_asked = True
            self._loop.call_soon(self._flush)

    def withdraw(self, outgoing: OutgoingMessage) -> bool:
        """Take back an envelope that has not been published yet. Returns False if it has been."""
        if outgoing.envelope is not None:
            return False
        try:
            self._waiting.remove(outgoing)
        except ValueError:
            return False
        return True

    def cancel(self, call_id: str, sender: str) -> None:
        """Tell the actor that the caller does not wait for the call any more."""
        draft: EnvelopeDraft = {"kind": Kind.CANCEL, "call": call_id, "sender": sender}
        self.put(OutgoingMessage(draft, b"", lambda outcome: None))

    def on_reply(self, outgoing: OutgoingMessage) -> None:
        """Forget a call that has its reply, or whose caller does not wait any more."""
        outgoing.has_reply = True
        if outgoing.envelope is not None:
            self._without_reply.pop(outgoing.envelope.seq, None)

    @property
    def waiting_since(self) -> float:
        """Time at which the oldest call without a reply was sent, by the loop's clock; infinity if there is no such
        call."""
        oldest = next(iter(self._without_reply.values()), None)
        return oldest.sent if oldest is not None else math.inf

    def vanished(self) -> None:
        """Note that the queue was deleted: the calls that it had get no reply."""
        gone = [outgoing for outgoing in self._without_reply.values() if not self._is_in_flight(outgoing)]
        for outgoing in gone:
            self.on_reply(outgoing)
            outgoing.settled(Outcome.UNROUTABLE)

    def _is_in_flight(self, outgoing: OutgoingMessage) -> bool:
        return any(outgoing in batch for batch in self._in_flight) or outgoing in self._waiting

    def give_up(self) -> None:
        """Fail all that waits for the queue, which does not exist and will not."""
        while self._waiting:
            outgoing = self._waiting.popleft()
            self.on_reply(outgoing)
            outgoing.settled(Outcome.UNROUTABLE)

    def attach(self, link: Link) -> None:
        """Go on over a new link. First send again, in order and under the same numbers, all unconfirmed envelopes and
        all calls without a reply (a broker that restarted may have lost the reply; receivers know the numbers that
        they have seen)."""
        self._link = link
        unconfirmed = [outgoing for batch in self._in_flight for outgoing in batch]
        self._in_flight.clear()
        again = {o.envelope.seq: o for o in unconfirmed if o.envelope and o.envelope.seq}
        again.update(self._without_reply)
        numbered = [again[seq] for seq in sorted(again)]
        unnumbered = [o for o in unconfirmed if not (o.envelope and o.envelope.seq)]
        retried = [o for o in self._waiting if o.envelope is not None and o.envelope.seq not in again]
        fresh = [o for o in self._waiting if o.envelope is None]
        self._waiting = deque([*numbered, *unnumbered, *retried, *fresh])
        self._flush()

    def detach(self) -> None:
        """Note that the link is lost."""
        self._link = None

    def _may_publish(self) -> bool:
        if not self._in_flight:
            return True
        if self._limited or len(self._in_flight) >= MAX_IN_FLIGHT:
            return False
        last = self._in_flight[-1]
        return len(self._waiting) >= BATCH_ENVELOPES or (len(last) == 1 and last[0].has_reply)

    def _flush(self) -> None:
        self._flush_asked = False
        while self._waiting and self._link is not None and self._may_publish():
            self._publish(self._take(), self._link)

    def _take(self) -> list[OutgoingMessage]:
        first = self._waiting.popleft()
        batch = [first]
        if self._limited or first.alone:
            return batch
        size = len(first.payload)
        while self._waiting and len(batch) < BATCH_ENVELOPES:
            following = self._waiting[0]
            size += len(following.payload)
            if size > BATCH_BYTES or following.alone:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _publish(self, batch: list[OutgoingMessage], link: Link) -> None:
        parcels: list[EncodedEnvelope] = []
        acked_below = next(iter(self._without_reply), self._next_seq) if self._numbered else 0
        for outgoing in batch:
            envelope = outgoing.envelope
            if envelope is None:
                envelope = outgoing.envelope = self._number(outgoing, acked_below)
            parcels.append((envelope, outgoing.payload))
        self._in_flight.append(batch)
        link.publish(self.queue, _message(batch, parcels), lambda outcome: self._settle(batch, link, outcome))

    def _number(self, outgoing: OutgoingMessage, acked_below: int) -> Envelope:
        if not self._numbered:
            return Envelope(**outgoing.draft)
        envelope = Envelope(seq=self._next_seq, acked_below=acked_below, **outgoing.draft)
        self._next_seq += 1
        if envelope.reply_to:
            outgoing.sent = self._loop.time()
            self._without_reply[envelope.seq] = outgoing
        return envelope

    def _settle(self, batch: list[OutgoingMessage], link: Link, outcome: Outcome) -> None:
        if outcome is Outcome.LOST or link is not self._link:
            # `attach` sends it again
            return
        self._in_flight.remove(batch)
        if outcome is Outcome.REFUSED:
            self._refused(batch)
        else:
            self._reuse_numbers(batch, outcome)
            for outgoing in batch:
                if outcome is Outcome.UNROUTABLE:
                    self.on_reply(outgoing)
                outgoing.settled(outcome)
        self._flush()

    def _reuse_numbers(self, batch: list[OutgoingMessage], outcome: Outcome) -> None:
        """Give unused numbers to the next envelopes; else a new receiver would wait for them."""
        if outcome is not Outcome.UNROUTABLE:
            self._unused = None
        elif self._numbered:
            self._unused = min(_seq(batch[0]), self._unused or _seq(batch[0]))
        is_last = not self._in_flight and (not self._waiting or self._waiting[0].envelope is None)
        if self._unused is not None and is_last:
            self._next_seq, self._unused = self._unused, None

    def _refused(self, batch: list[OutgoingMessage]) -> None:
        """Try the same envelopes again after a limited queue was full, or the broker could not write."""
        if self._limited and not batch[0].waits_when_full:
            outgoing = batch[0]
            self.on_reply(outgoing)
            self._next_seq = _seq(outgoing)
            outgoing.settled(Outcome.REFUSED)
            return
        link = self._link
        # keeps its place: nothing overtakes it
        self._in_flight.appendleft(batch)
        self._loop.call_later(REFUSED_RETRY_SECONDS, self._retry, batch, link)

    def _retry(self, batch: list[OutgoingMessage], link: Link | None) -> None:
        if link is None or link is not self._link:
            return
        self._in_flight.remove(batch)
        self._publish(batch, link)


class RepeatableCallOutbox(ActorOutbox):
    """Outbox of calls that are repeated under the same id when the message that caused them is handled again. They are
    never cancelled: the called actor would remember that as its reply."""

    def __init__(self, queue: str, loop: asyncio.AbstractEventLoop, *, limited: bool) -> None:
        super().__init__(queue, loop, numbered=False, limited=limited)

    def cancel(self, call_id: str, sender: str) -> None:
        """Do nothing: the call gets its reply, which is not read."""


def _seq(outgoing: OutgoingMessage) -> int:
    return outgoing.envelope.seq if outgoing.envelope is not None else 0


def _message(batch: Sequence[OutgoingMessage], parcels: Sequence[EncodedEnvelope]) -> Message:
    body, content_type = encode(parcels)
    first = batch[0]
    envelope = parcels[0][0]
    plain = len(batch) == 1 and envelope.codec is Codec.JSON
    return Message(
        body,
        content_type,
        persistent=any(outgoing.persistent for outgoing in batch),
        message_id=envelope.id or None if plain else None,
        correlation_id=first.correlation_id,
        reply_to=envelope.reply_to or None if plain else None,
    )
