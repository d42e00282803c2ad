"""The inbox of a durable mailbox: decodes deliveries, puts each sender's messages in order, and passes each on once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from actorhub.actors import timers
from actorhub.broker import Delivery, Message
from actorhub.core.addressing import new_id
from actorhub.durable.committer import GroupCommitter, OwnerParts
from actorhub.durable.interface import MailboxConfig
from actorhub.durable.protocol.intake import Intake
from actorhub.durable.protocol.records import StoredTimer
from actorhub.errors import ActorHubError, BrokerUnavailable, InvalidEnvelope
from actorhub.messaging.context import Effects
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.request import DeliveryAck, Reply, Request, complete_foreign
from actorhub.wire.envelope import Envelope, Kind, decode

log = logging.getLogger(__name__)

HOLD_BACK_SECONDS = 2.0
"""How long a message waits for an earlier one of its sender that does not come."""


class InboxSequencer:
    """Turns deliveries into requests, and passes those that an instance has to handle to the host.

    The others are completed here: timers that are set, cancelled or stale, cancelled calls, calls that killed their workers,
    repeated calls.
    """

    def __init__(self, parts: OwnerParts, committer: GroupCommitter, config: MailboxConfig) -> None:
        self._session = parts.session
        self._owner = parts.owner
        self._host = parts.host
        self._effects = parts.effects
        self._publisher = parts.publisher
        self._committer = committer
        self._config = config
        self._repeated: list[Request] = []
        self._hold_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def close(self) -> None:
        """Pass on nothing and acknowledge nothing from now on."""
        self._is_closed = True
        if self._hold_timer is not None:
            self._hold_timer.cancel()

    # ---- deliveries

    def accept(self, delivery: Delivery) -> None:
        """Take the messages of a delivery, in order."""
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning(
                "a message in %s is not an envelope and goes to %s: %s",
                self._config.inbox,
                self._config.dead_letters,
                exc,
            )
            letter = DeadLetter.malformed(self._config.inbox, message, exc)
            self._session.spawn_task(self._dead_letter(letter, DeliveryAck(delivery, 1)), "actorhub-dead")
            return
        receipt = DeliveryAck(delivery, len(parcels))
        for envelope, payload in parcels:
            self._take(self._make_request(envelope, payload, receipt, message))

    def _make_request(self, envelope: Envelope, payload: bytes, receipt: DeliveryAck, message: Message) -> Request:
        """A request, with the sender and number by which the journal knows it. A message with an id in place of a number is the
        only one of its sender."""
        finish = self._committer.finish
        if envelope.sender and envelope.seq:
            request = Request(envelope, payload, receipt, finish)
            request.origin = envelope.sender, envelope.seq
        elif envelope.sender and envelope.id:  # a call of a durable actor, which may repeat it
            request = Request(envelope, payload, receipt, finish)
            request.origin = f"~{envelope.id}", 1
        else:
            known, correlation = complete_foreign(envelope, message)
            message_id = message.message_id or message.correlation_id or envelope.id
            request = Request(known, payload, receipt, finish, foreign=correlation)
            request.origin = f"~{known.reply_to} {message_id}" if message_id else "", 1
        return request

    async def _dead_letter(self, letter: DeadLetter, receipt: DeliveryAck) -> None:
        with suppress(BrokerUnavailable):
            await self._publisher.publish_dead_letter(letter)
            receipt.done()

    # ---- order and duplicates

    def _take(self, request: Request) -> None:
        sender, seq = request.origin
        intake, first = self._owner.take(sender, seq, request.envelope.acked_below, request)
        match intake:
            case Intake.RUN:
                self._dispatch(request)
                for held in self._owner.intake.take_held(sender):
                    self._dispatch(held)
            case Intake.HELD:
                self._start_hold_timer()
            case Intake.IN_HAND:
                assert first is not None
                # the reply to the first one may be lost on its way: this one gets another
                if request.envelope.reply_to:
                    self._repeated.append(request)
                else:
                    first.join(request)
            case Intake.DONE if self._effects.is_read_only(request):
                request.origin = "", 0
                self._dispatch(request)
            case Intake.DONE:
                self._session.spawn_task(self._reply_again(request), "actorhub-repeat")

    def take_repeated(self) -> None:
        """Take again the calls that came a second time while the first was in hand."""
        repeated, self._repeated = self._repeated, []
        for request in repeated:
            self._take(request)

    async def _reply_again(self, request: Request) -> None:
        """The request was applied before: its caller gets the same reply once more."""
        if request.envelope.reply_to:
            with suppress(BrokerUnavailable):
                await self._publisher.publish(self._effects.repeated_reply(request))
        if not self._is_closed:
            request.done()

    def _start_hold_timer(self) -> None:
        if self._hold_timer is None:
            self._hold_timer = self._session.loop.call_later(HOLD_BACK_SECONDS, self._stop_holding_back)

    def _stop_holding_back(self) -> None:
        self._hold_timer = None
        if self._is_closed:
            return
        for sender, gap in self._owner.intake.skip_gaps():
            log.warning(
                "%s waited %.0f s in vain for messages %d to %d of %s; handling the later ones now",
                *(self._config.inbox, HOLD_BACK_SECONDS, gap.start, gap.stop - 1, sender),
            )
            for held in self._owner.intake.take_held(sender):
                self._dispatch(held)
        if self._owner.intake.holds_back:
            self._start_hold_timer()

    # ---- by kind

    def _dispatch(self, request: Request) -> None:
        """Complete the request, or pass it to the host."""
        envelope = request.envelope
        if envelope.kind is Kind.CANCEL:
            if not self._owner.drop_timer(envelope.call):
                self._host.cancel(envelope.call)
            self._committer.handled(request)
        elif envelope.kind is not Kind.DUE and envelope.timer is not None:
            self._set_timer(request)
        elif envelope.kind is Kind.DUE and not self._is_due(request):
            self._committer.handled(request)
        elif envelope.id in self._config.poison:
            self._committer.finish(request, Reply.poisoned(envelope, self._session.signer))
        else:
            sender, seq = request.origin
            request.effects = Effects(f"{self._config.name}:{sender or new_id()}:{seq}")
            self._host.accept(request)

    def _set_timer(self, request: Request) -> None:
        fields = {name: getattr(request.envelope, name) for name in ("timer", "method", "key", "codec")}
        timer = StoredTimer(**fields, payload=request.payload)
        try:
            size = self._effects.reserve_timer(timer)
        except ActorHubError as exc:
            reply = Reply.failed(request.envelope.id, exc, self._session.signer, "invalid")
            self._committer.handled(request, size=self._effects.add_reply(request, reply))
        else:
            self._effects.set_timer(timer)
            self._committer.handled(request, size=size)

    def _is_due(self, request: Request) -> bool:
        """Make the request the call that its timer stands for; False if the timer is not to fire."""
        timer = request.envelope.timer
        stored = self._owner.timers.get(timer.id) if timer is not None else None
        if stored is None or stored.timer != timer:
            return False  # it was cancelled, or this is its second message
        if timers.is_missed(stored.timer, time.time()):
            self._effects.set_next_timer(stored)
            return False
        changes = {"kind": Kind.TELL, "method": stored.method, "codec": stored.codec}
        request.envelope, request.payload = request.envelope.model_copy(update=changes), stored.payload
        return True
