"""Mailbox of an actor: the consumer of its queue, with sequence windows, replies and acknowledgements.

Acknowledgement policy: a message is done when its method has ended and the broker has confirmed the reply (or the dead
letter of a tell that failed). A delivery is acknowledged when all its messages are done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from actorhub.actors.timers import InMemoryTimers
from actorhub.broker import Consumer, Delivery, Link, Message
from actorhub.errors import ActorNotFound, BrokerUnavailable, InvalidEnvelope
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.request import DeliveryAck, Reply, Request, complete_foreign
from actorhub.messaging.sequence_window import Admission, SequenceWindow, SequenceWindows
from actorhub.messaging.session import Session
from actorhub.wire.envelope import Envelope, Kind, decode

log = logging.getLogger(__name__)

PREFETCH = 128
"""Deliveries; each holds up to 256 envelopes."""
HOLD_BACK_SECONDS = 2.0
"""Seconds that an envelope waits for an earlier one that does not come."""


class MessageReceiver(Protocol):
    """Receiver of a mailbox's messages: a cell, or the receiver of a dead actor."""

    def accept(self, request: Request) -> None: ...
    def cancel(self, call_id: str) -> None: ...


class Mailbox(Recoverable):
    """Mailbox of one actor: consumes its queue while the session lives, across lost links.

    Args:
        session: the session that consumes.
        queue: name of the queue.
        receiver: receives the messages.
        dead: queue for dead letters.
        prefetch: deliveries that may be unacknowledged.
        poison: ids of calls that must not run again, since they killed their workers.
        on_gone: called when the queue no longer exists; without it, `open` raises.
    """

    def __init__(
        self,
        session: Session,
        queue: str,
        receiver: MessageReceiver,
        dead: DeadLetterQueue,
        *,
        prefetch: int = PREFETCH,
        poison: Collection[str] = (),
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        self.queue = queue
        self._session = session
        self._receiver = receiver
        self._dead_letters = dead
        self._prefetch = prefetch
        self._poison = frozenset(poison)
        self._on_gone = on_gone
        self._consumer: Consumer | None = None
        self._windows: SequenceWindows[Request, Reply] = SequenceWindows()
        self._in_hand: dict[tuple[str, int], Request] = {}
        self._hold_timer: asyncio.TimerHandle | None = None
        self._timers = InMemoryTimers(receiver.accept, self._finished)
        self._unacknowledged = 0
        self._closed = False

    # ---- life

    async def open(self) -> None:
        """Begin to consume.

        Raises:
            ActorNotFound: the queue does not exist.
        """
        await self._session.attachments.add(self)

    async def close(self) -> None:
        """Stop consuming. Unacknowledged messages return to the queue, in order, for the next consumer."""
        self._closed = True
        self._timers.close()
        self._session.attachments.remove(self)
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        if self._consumer is not None:
            await self._consumer.close()

    async def attach(self, link: Link) -> None:
        if self._closed:
            return
        try:
            self._consumer = await link.consume(
                self.queue, self._on_delivery, lambda reason: self._on_end(link, reason), prefetch=self._prefetch
            )
        except ActorNotFound:
            if self._on_gone is None:
                raise
            self._on_gone()
        except BrokerUnavailable as exc:
            self._session.attachments.retry_later(self, link, self.queue, exc)
        if self._closed and self._consumer is not None:
            await self._consumer.close()

    def detach(self) -> None:
        self._consumer = None

    @property
    def idle(self) -> bool:
        """True if every delivery is acknowledged."""
        return self._unacknowledged == 0

    def _acked(self) -> None:
        self._unacknowledged -= 1

    def _on_end(self, link: Link, reason: str) -> None:
        self._consumer = None
        if self._closed or link.lost is not None or link is not self._session.link:
            return
        log.warning("the broker ended the consumer of %s (%s); consuming again", self.queue, reason)
        self._session.attachments.set_up_again(self, link)

    # ---- taking

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        self._unacknowledged += 1
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning(
                "a message in %s is not an envelope and goes to %s: %s", self.queue, self._dead_letters.queue, exc
            )
            letter = DeadLetter.malformed(self.queue, message, exc)
            self._session.spawn_task(
                self._store_dead_letter(letter, DeliveryAck(delivery, 1, self._acked)), "actorhub-dead"
            )
            return
        receipt = DeliveryAck(delivery, len(parcels), self._acked)
        for envelope, payload in parcels:
            if envelope.sender and envelope.seq:
                self._take(envelope, payload, receipt)
            else:
                self._accept(self._foreign(envelope, payload, receipt, message))

    def _foreign(self, envelope: Envelope, payload: bytes, receipt: DeliveryAck, message: Message) -> Request:
        known, correlation = complete_foreign(envelope, message)
        return Request(known, payload, receipt, self._finished, foreign=correlation)

    def _take(self, envelope: Envelope, payload: bytes, receipt: DeliveryAck) -> None:
        window = self._windows.of(envelope.sender)
        if envelope.acked_below:
            self._windows.forget_below(envelope.sender, envelope.acked_below)
        held = window.held(envelope.seq)
        if held is not None:
            held.also(receipt)
            return
        request = Request(envelope, payload, receipt, self._finished)
        verdict = window.admit(envelope.seq, request)
        if verdict is Admission.NEXT:
            self._accept(request)
            for released in window.released():
                self._accept(released)
        elif verdict is Admission.HELD:
            self._start_hold_timer()
        else:
            self._handle_duplicate(request, window, receipt)

    def _accept(self, request: Request) -> None:
        envelope = request.envelope
        if envelope.kind is Kind.CANCEL:
            if not self._timers.cancel(envelope.call):
                self._receiver.cancel(envelope.call)
            request.done()
            return
        if envelope.timer is not None:
            self._timers.set(envelope.timer, envelope, request.payload)
            request.done()
            return
        if envelope.seq:
            self._in_hand[envelope.sender, envelope.seq] = request
        if envelope.id in self._poison:
            request.finish(Reply.poisoned(envelope, self._session.signer))
        else:
            self._receiver.accept(request)

    def _handle_duplicate(self, request: Request, window: SequenceWindow[Request, Reply], receipt: DeliveryAck) -> None:
        """Handle a duplicate from the broker or the sender: its original is in hand, or has its reply."""
        envelope = request.envelope
        in_hand = self._in_hand.get((envelope.sender, envelope.seq))
        if in_hand is not None:
            in_hand.also(receipt)
            return
        if envelope.kind in (Kind.CALL, Kind.STREAM):
            reply = window.reply(envelope.seq) or Reply.no_longer_kept(envelope, self._session.signer)
            self._respond(request, reply)
        else:
            request.done()

    # ---- holding back

    def _start_hold_timer(self) -> None:
        if self._hold_timer is None:
            self._hold_timer = self._session.loop.call_later(HOLD_BACK_SECONDS, self._release)

    def _release(self) -> None:
        self._hold_timer = None
        for sender, window in self._windows.with_gaps():
            gap = window.skip_gap()
            log.warning(
                "%s waited %.0f s in vain for messages %d to %d of %s; handling the later ones now",
                self.queue,
                HOLD_BACK_SECONDS,
                gap.start,
                gap.stop - 1,
                sender,
            )
            for released in window.released():
                self._accept(released)
            if window.waiting:
                self._start_hold_timer()

    # ---- replies

    def _finished(self, request: Request, reply: Reply) -> None:
        envelope = request.envelope
        if envelope.seq:
            self._in_hand.pop((envelope.sender, envelope.seq), None)
        failure = reply.failure
        if failure is not None and (reply.reason == "poison" or envelope.kind is Kind.TELL):
            if reply.reason != "actor died":  # logged once for all messages, by `drain_and_delete`
                log.error(
                    "%s of %s failed: %s", envelope.method, self.queue, failure.message, extra={"call": envelope.id}
                )
            letter = DeadLetter.of(reply.reason, self.queue, envelope, request.payload, failure)
            self._session.spawn_task(self._dead_letter_then_reply(letter, request, reply), "actorhub-dead")
            return
        self._reply(request, reply)

    async def _dead_letter_then_reply(self, letter: DeadLetter, request: Request, reply: Reply) -> None:
        await self._dead_letters.store(letter)
        self._reply(request, reply)

    async def _store_dead_letter(self, letter: DeadLetter, receipt: DeliveryAck) -> None:
        await self._dead_letters.store(letter)
        receipt.done()

    def _reply(self, request: Request, reply: Reply) -> None:
        envelope = request.envelope
        if not envelope.reply_to:
            request.done()
            return
        if envelope.seq:
            self._windows.remember(envelope.sender, envelope.seq, reply, len(reply.payload))
        self._respond(request, reply)

    def _respond(self, request: Request, reply: Reply) -> None:
        self._session.sender.respond(
            request.envelope.reply_to,
            reply.draft,
            reply.payload,
            lambda outcome: request.done(),
            foreign=request.foreign,
        )
