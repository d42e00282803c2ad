"""A hub's identity on the wire: sends, and matches replies to calls.

After a lost connection the session sends again, in order and under the same numbers, whatever the broker had not
confirmed and whatever call has no answer yet. Receivers handle the second copy of nothing; they answer it again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

from actorhub.broker import Broker, Delivery, Link, Message, Outcome, open_broker
from actorhub.core.addressing import ActorAddress, QueueNames, new_id
from actorhub.core.futures import resolver_of
from actorhub.errors import (
    ActorHubError,
    ActorNotFound,
    BrokerUnavailable,
    CallTimeout,
    HubClosed,
    InvalidEnvelope,
    MailboxFull,
    PayloadTooLarge,
)
from actorhub.messaging.calls import STREAM_CREDIT, Call, Stream, StreamReceiver
from actorhub.messaging.connection import OnRetry, ReconnectingConnection
from actorhub.messaging.context import DeferredTell, call_context, effects
from actorhub.messaging.directory import Directory, NoDirectory
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.outbox_registry import OutboxRegistry
from actorhub.messaging.pending_calls import NoReplyWarning, Outbox, PendingCall, PendingCalls
from actorhub.messaging.recovery import RecoveryRegistry
from actorhub.messaging.topology import reply_queue
from actorhub.settings import Settings
from actorhub.wire.codec import KeepAlive, Signer, may_hold_references
from actorhub.wire.envelope import Envelope, Kind, TimerSpec, decode, encode
from actorhub.wire.signature import Signature

log = logging.getLogger(__name__)

HEADER_ROOM = 64 * 1024  # bytes of a message that are left for its header
REPLY_PREFETCH = 200
DIRECTORY_TIMEOUT_SECONDS = 5.0
"""In which control says why an actor is gone."""


class Session:
    """Not thread-safe: everything happens on the event loop that opened it."""

    def __init__(self, settings: Settings, *, name: str = "hub", on_retry: OnRetry | None = None) -> None:
        if settings.url is None:
            raise BrokerUnavailable(
                "no broker is configured; set ACTORHUB_URL, or give a URL such as amqp://guest:guest@localhost/",
                permanent=True,
            )
        broker: Broker = open_broker(settings.url)
        self.settings = settings
        self.broker = broker
        self.id = new_id()
        self.names = QueueNames(settings.prefix)
        self.signer = Signer(settings.secret.get_secret_value() if settings.secret else None)
        self.reply_queue = self.names.reply(self.id)
        self.gates: dict[str, Callable[[int], None]] = {}
        """Streams that this process sends, by the id of their call: where their readers' credit goes."""
        self.owns_actors = False
        self.directory: Directory = NoDirectory()
        """Set before `open`, by the owner."""
        self._connection = ReconnectingConnection(
            broker,
            f"actorhub {name} {self.id}",
            on_link=self._on_link,
            on_lost=self._on_lost,
            on_given_up=self._on_given_up,
            on_retry=on_retry,
        )
        self.attachments = RecoveryRegistry(
            lambda: self._connection.link, self.spawn_task, self.renew, lambda: self._closed is not None
        )
        self._replies = PendingCalls(self.id, self.signer, settings.max_pending, self._timed_out)
        self._silence = NoReplyWarning(lambda: self.link is not None and not self.blocked)
        self._counter = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed: ActorHubError | None = None
        self.loop: asyncio.AbstractEventLoop
        self.thread_id = 0
        self._boxes: OutboxRegistry

    # ---- life

    async def open(self) -> None:
        """Raises:
        BrokerUnavailable: within `connect_timeout` there was no broker, or it refused.
        """
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self._boxes = OutboxRegistry(self.loop, self.spawn_task, self.directory)
        await self._connection.open(self.settings.connect_timeout)
        self.spawn_task(self._boxes.watch_for_deleted_queues(), "actorhub-vanished")

    async def close(self) -> None:
        """What was not answered fails with HubClosed. Waits until what was published is confirmed, for a second at most."""
        if self._closed is not None:
            return
        self._closed = HubClosed("the hub was closed")
        self._replies.fail_all(self._closed)
        await self.flush(timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
        link = self._connection.link
        if link is not None:
            try:
                await link.delete(self.reply_queue)
            except (ActorHubError, OSError):
                log.debug("the reply queue stays until it expires", exc_info=True)
        await self._connection.close()

    async def flush(self, timeout: float) -> bool:
        """Wait until the broker has confirmed all that was sent. False where it has not in `timeout` seconds."""
        until = self.loop.time() + timeout
        while self._boxes.unconfirmed or self.attachments.unconfirmed:
            if self.loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return True

    @property
    def is_closed(self) -> bool:
        """It closes: nothing more can be sent by it."""
        return self._closed is not None

    @property
    def link(self) -> Link | None:
        return self._connection.link

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages for now; None while it does."""
        return self._connection.blocked

    async def live_link(self) -> Link:
        """The link, as soon as there is one."""
        while self._connection.link is None:
            if self._closed is not None:
                raise self._closed
            await asyncio.sleep(0.02)
        return self._connection.link

    def spawn_task(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        """A task that lives as long as the session at most. One that raises is logged."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.DEBUG if self._closed is not None else logging.ERROR
            log.log(level, "%s failed: %s", task.get_name(), error, exc_info=error)

    async def _on_link(self, link: Link) -> None:
        await link.declare(reply_queue(self.reply_queue, self.settings.reply_expiry))
        await link.consume(
            self.reply_queue,
            self._on_delivery,
            lambda reason: self._on_reply_end(link, reason),
            prefetch=REPLY_PREFETCH,
        )
        await self.attachments.attach(link)
        self._boxes.attach(link)

    def _on_reply_end(self, link: Link, reason: str) -> None:
        if link.lost is None:
            self.renew(link, f"the reply queue ended: {reason}")

    def renew(self, link: Link, reason: str) -> None:
        """Give the link up, if it is still ours, and go on with a new one."""
        if self._closed is None:
            self.spawn_task(self._connection.renew(link, reason), "actorhub-renew")

    def _on_lost(self) -> None:
        self.attachments.detach()
        self._boxes.detach()

    def _on_given_up(self, error: BrokerUnavailable) -> None:
        self._closed = error
        self._replies.fail_all(error)

    # ---- sending

    def call(
        self, ticket: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call[Any]:
        """Send a call now. From one durable actor to another: under an id that is the same if the message that is handled has
        to be handled again.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending, HubClosed: nothing was sent.
        """
        answer = self._call(ticket, signature, method, args, kwargs)
        assert isinstance(answer, Call), f"{signature.label} streams: its caller takes `stream`"
        return answer

    def stream(
        self, ticket: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Stream[Any]:
        """The same for a generator method."""
        answer = self._call(ticket, signature, method, args, kwargs)
        assert isinstance(answer, StreamReceiver), f"{signature.label} does not stream: its caller takes `call`"
        return Stream(answer, self.loop)

    def _call(
        self, ticket: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call[Any] | StreamReceiver[Any]:
        keep_alive = KeepAlive()
        with keep_alive if may_hold_references(args, kwargs) else nullcontext():
            payload, codec = signature.pack(args, kwargs, self.signer)
        self.check_sendable(payload)
        outbox = self._boxes.to_actor(ticket)
        fields: dict[str, Any] = {"method": method, "codec": codec}
        if ticket.key is not None:
            fields["key"] = ticket.key
        around = effects()
        if around is not None and ticket.durable and not signature.is_generator:
            outbox = self._boxes.for_repeatable_calls(ticket)
            fields["id"] = around.next_ask()
        pending = self.expect(signature, outbox, fields, limited=not ticket.is_system)
        outgoing = self._outgoing(fields, payload, lambda outcome: self._call_settled(pending, ticket, outcome))
        pending.outgoing, pending.keep_alive = outgoing, keep_alive
        outbox.put(outgoing)
        if ticket.queue == self.names.control and isinstance(pending.answer, Call):
            self._silence.asked(pending.answer, signature.label)
        return pending.answer

    def expect(
        self,
        signature: Signature,
        way: Outbox,
        fields: dict[str, Any],
        *,
        on_took: Callable[[float], None] | None = None,
        limited: bool = True,
    ) -> PendingCall:
        """Wait for the answer of a call that is about to be sent. Completes its envelope's fields: id where it has none, kind,
        sender, where the answer goes, deadline and chain. `limited`: not past `max_pending`; what control is asked has room
        at any time, for all the others may wait for that.

        Raises:
            TooManyPending, HubClosed.
        """
        if self._closed is not None:
            raise self._closed
        if limited:
            self._replies.check_room()
        stream = signature.is_generator
        answer: Call[Any] | StreamReceiver[Any] = StreamReceiver() if stream else Call(loop=self.loop)
        call_id = fields.get("id") or self.next_id()
        pending = PendingCall(call_id, signature, way, answer, on_took)
        fields |= {
            "id": call_id,
            "kind": Kind.STREAM if stream else Kind.CALL,
            "sender": self.id,
            "reply_to": self.reply_queue,
        }
        if isinstance(answer, StreamReceiver):
            fields["index"] = STREAM_CREDIT
            answer.grant = lambda index: self._grant(pending, index)
        self._replies.expect(pending, fields)
        return pending

    def pending(self, answer: object) -> PendingCall | None:
        """The call that waits for this answer."""
        return self._replies.find(answer)

    def pending_by(self, way: Outbox) -> list[PendingCall]:
        """The calls that were sent by it and wait for their answers."""
        return self._replies.sent_by(way)

    def next_id(self) -> str:
        return f"{self.id}-{next(self._counter)}"

    def fail(self, pending: PendingCall, error: BaseException) -> None:
        """It was not sent, or will not be answered."""
        self._replies.forget(pending)
        pending.answer.fail(error)

    async def tell(
        self, ticket: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Send, and return when the broker has it. In a method of a durable actor: send it with the commit of what the method
        has done, if it does not fail.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, HubClosed: nothing was sent.
            ActorNotFound, ActorDied: there is no such actor (any more).
            MailboxFull: its mailbox is at its limit.
            CallTimeout: the broker has not confirmed before the deadline; it may have the message.
        """
        payload, codec = signature.pack(args, kwargs, self.signer)
        self.check_sendable(payload)
        fields: dict[str, Any] = {
            "id": self.next_id(),
            "kind": Kind.TELL,
            "method": method,
            "codec": codec,
            "sender": self.id,
        }
        if ticket.key is not None:
            fields["key"] = ticket.key
        deadline = call_context.get().deadline
        around = effects()
        if around is not None:
            around.told.append(_told(ticket, fields, payload))
            return
        settled: asyncio.Future[Outcome] = self.loop.create_future()
        outgoing = self._outgoing(fields, payload, resolver_of(settled))
        if deadline is not None:
            fields["deadline"] = deadline
        outbox = self._boxes.to_actor(ticket)
        outbox.put(outgoing)
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.time())):
                outcome = await settled
        except TimeoutError as exc:
            outbox.withdraw(outgoing)
            raise self._timed_out(signature.label) from exc
        except asyncio.CancelledError:
            outbox.withdraw(outgoing)
            raise
        await self.accepted(ticket, signature.label, outcome)

    def arm(
        self,
        ticket: ActorAddress,
        signature: Signature,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timer: TimerSpec,
    ) -> asyncio.Future[Outcome]:
        """Send a message that comes when the timer is due. `accepted` says what the outcome means.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, HubClosed: nothing was sent.
        """
        payload, codec = signature.pack(args, kwargs, self.signer)
        self.check_sendable(payload)
        fields: dict[str, Any] = {"id": self.next_id(), "kind": Kind.TIMER, "method": method, "codec": codec}
        return self._send(ticket, {**fields, "timer": timer, "key": ticket.key}, payload)

    def disarm(self, ticket: ActorAddress, timer: str) -> asyncio.Future[Outcome]:
        return self._send(ticket, {"kind": Kind.CANCEL, "call": timer}, b"")

    def _send(self, ticket: ActorAddress, fields: dict[str, Any], payload: bytes) -> asyncio.Future[Outcome]:
        settled: asyncio.Future[Outcome] = self.loop.create_future()
        around = effects()
        if around is not None:
            around.told.append(_told(ticket, fields, payload))
            settled.set_result(Outcome.STORED)
        else:
            self._boxes.to_actor(ticket).put(
                self._outgoing({**fields, "sender": self.id}, payload, resolver_of(settled))
            )
        return settled

    async def accepted(self, ticket: ActorAddress, label: str, outcome: Outcome) -> None:
        """Raises:
        ActorNotFound, ActorDied, MailboxFull: it was not stored.
        """
        if outcome is not Outcome.STORED:
            raise await self._reason(ticket, label, outcome)

    def respond(
        self,
        reply_to: str,
        fields: dict[str, Any],
        payload: bytes,
        settled: Callable[[Outcome], None],
        *,
        persistent: bool = False,
        foreign: str | None = None,
    ) -> None:
        """Send an answer. `foreign`: the correlation id of a caller that reads plain JSON only."""
        self._boxes.for_answers(reply_to).put(
            OutgoingMessage(
                fields, payload, settled, persistent=persistent, alone=foreign is not None, correlation_id=foreign
            )
        )

    def broadcast(self, method: str, arguments: dict[str, Any]) -> None:
        """Tell every agent and every slot. What a lost link loses is not told again: nothing but time depends on it."""
        link = self._connection.link
        if link is not None:
            fields: dict[str, Any] = {"id": self.next_id(), "kind": Kind.TELL, "method": method}
            envelope = Envelope(**fields)
            body, content_type = encode([(envelope, json.dumps(arguments).encode())])
            link.broadcast(self.names.tasks, Message(body, content_type, persistent=False), lambda outcome: None)

    def check_sendable(self, payload: bytes) -> None:
        """Raises:
        PayloadTooLarge, HubClosed.
        """
        if self._closed is not None:
            raise self._closed
        self.check_size(payload)

    def check_size(self, payload: bytes) -> None:
        """The broker would close the connection of whoever sends more.

        Raises:
            PayloadTooLarge.
        """
        link = self._connection.link
        if link is not None and len(payload) > link.max_message - HEADER_ROOM:
            raise PayloadTooLarge(
                f"a payload of {len(payload)} bytes; {link.server} takes {link.max_message - HEADER_ROOM}: "
                "send it in parts, or send where it is kept"
            )

    def _outgoing(self, fields: dict[str, Any], payload: bytes, settled: Callable[[Outcome], None]) -> OutgoingMessage:
        return OutgoingMessage(fields, payload, settled, waits_when_full=call_context.get().waits_when_full)

    def _timed_out(self, label: str) -> CallTimeout:
        blocked = f"; the broker takes no messages: {self.blocked}" if self.blocked else ""
        lost = "; the broker cannot be reached" if self.link is None else ""
        return CallTimeout(f"{label} did not answer before the deadline{blocked}{lost}; it may still take effect")

    def _grant(self, pending: PendingCall, index: int) -> None:
        if pending.credit_to:
            fields = {"kind": Kind.CREDIT, "call": pending.id, "index": index}
            self.respond(pending.credit_to, fields, b"", lambda outcome: None, persistent=True)

    # ---- receiving

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        token = current_session.set(self)
        try:
            for envelope, payload in decode(message.body, message.content_type):
                self._receive(envelope, payload)
        except InvalidEnvelope as exc:
            log.warning("a message that is no envelope came to %s and was dropped: %s", self.reply_queue, exc)
        finally:
            current_session.reset(token)
            delivery.ack()

    def _receive(self, envelope: Envelope, payload: bytes) -> None:
        if envelope.kind is not Kind.CREDIT:
            self._replies.receive(envelope, payload)
        elif (gate := self.gates.get(envelope.call)) is not None:
            gate(envelope.index)

    def _call_settled(self, pending: PendingCall, ticket: ActorAddress, outcome: Outcome) -> None:
        if outcome is Outcome.STORED:
            return
        self._replies.forget(pending)
        self.spawn_task(self._fail_unsent(pending, ticket, outcome), "actorhub-unsent")

    async def _fail_unsent(self, pending: PendingCall, ticket: ActorAddress, outcome: Outcome) -> None:
        pending.answer.fail(await self._reason(ticket, pending.signature.label, outcome))

    async def _reason(self, ticket: ActorAddress, label: str, outcome: Outcome) -> ActorHubError:
        """Why an envelope was not stored, as an error."""
        if outcome is Outcome.REFUSED:
            return MailboxFull(
                f"{label}: the mailbox of {ticket.name or ticket.actor_id} is full; "
                "send less, or wait for room with `with backpressure():`"
            )
        if not ticket.is_system:
            try:
                async with asyncio.timeout(DIRECTORY_TIMEOUT_SECONDS):
                    return await self.directory.reason_gone(ticket, label)
            except (TimeoutError, ActorHubError):
                log.debug("control does not say why %s is gone", ticket.actor_id, exc_info=True)
        if ticket.queue == self.names.control:
            return ActorNotFound(
                f"no node has run yet in the cluster {self.settings.prefix!r} on this broker; "
                "start one with `actorhub node MODULE`"
            )
        return ActorNotFound(f"{label}: there is no actor {ticket.name or ticket.actor_id} in {ticket.namespace!r}")


current_session: ContextVar[Session | None] = ContextVar("actorhub_session", default=None)
"""The session that handles belong to which are read from messages, pickles and results: set by hubs and around user code."""


def _told(ticket: ActorAddress, fields: dict[str, Any], payload: bytes) -> DeferredTell:
    return DeferredTell(ticket.queue, ticket.class_name if ticket.key is not None else "", fields, payload)
