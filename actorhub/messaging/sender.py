"""Sending of one session: calls, tells, timers, replies and broadcasts, and the errors of those that were not stored.

Each envelope is completed here, from a typed draft; the outbox of its destination adds the sequence number.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from actorhub.broker import Link, Message, Outcome
from actorhub.core.addressing import ActorAddress, QueueNames
from actorhub.core.futures import resolver_of
from actorhub.errors import (
    ActorHubError,
    CallTimeout,
    PayloadTooLarge,
)
from actorhub.messaging.calls import STREAM_CREDIT, Call, Stream, StreamReceiver
from actorhub.messaging.connection import ReconnectingConnection
from actorhub.messaging.context import DeferredTell, call_context, effects
from actorhub.messaging.directory import Directory, NoDirectory, not_stored_error
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.outbox_registry import OutboxRegistry
from actorhub.messaging.pending_calls import NoReplyWarning, Outbox, PendingCall, PendingCalls
from actorhub.settings import Settings
from actorhub.wire.codec import KeepAlive, may_hold_references
from actorhub.wire.envelope import Envelope, EnvelopeDraft, Kind, TimerSpec, encode
from actorhub.wire.method_signature import Signature
from actorhub.wire.signer import Signer

log = logging.getLogger(__name__)

HEADER_ROOM_BYTES = 64 * 1024
"""Bytes of a message that are left for its header."""


class MessageSender:
    """Sender of a session's messages. Used on the event loop that opened it.

    Args:
        settings: of the cluster.
        session_id: the sender's id on the wire.
        reply_queue: where replies to its calls go.
        signer: signs payloads that are no JSON.
        connection: says whether there is a link, and whether the broker takes messages.
        spawn_task: runs a coroutine for as long as the session lives.
    """

    def __init__(
        self,
        settings: Settings,
        session_id: str,
        reply_queue: str,
        signer: Signer,
        connection: ReconnectingConnection,
        spawn_task: Callable[[Any, str], object],
    ) -> None:
        self._names = QueueNames(settings.prefix)
        self._id = session_id
        self._reply_queue = reply_queue
        self._signer = signer
        self._connection = connection
        self._spawn_task = spawn_task
        self.pending_calls = PendingCalls(session_id, signer, settings.max_pending, self._timed_out)
        self._no_reply_warning = NoReplyWarning(lambda: connection.link is not None and not connection.blocked)
        self._counter = itertools.count(1)
        self._directory: Directory = NoDirectory()
        self._loop: asyncio.AbstractEventLoop
        self._outboxes: OutboxRegistry
        self.closed: ActorHubError | None = None
        """Error of every later send; None while the session is open."""

    # ---- life

    def open(self, loop: asyncio.AbstractEventLoop, directory: Directory) -> None:
        self._loop = loop
        self._directory = directory
        self._outboxes = OutboxRegistry(loop, self._spawn_task, directory)

    def close(self, error: ActorHubError) -> None:
        """Fail all pending calls with this error, and take no more. Envelopes in the outboxes are still published."""
        self.closed = error
        self.pending_calls.fail_all(error)

    def attach(self, link: Link) -> None:
        """Publish over this link; first the messages that the former link's broker had not confirmed."""
        self._outboxes.attach(link)

    def detach(self) -> None:
        """Note that the link is lost."""
        self._outboxes.detach()

    async def watch_for_deleted_queues(self) -> None:
        """Fail calls whose queue was deleted after it had stored them. Does not return."""
        await self._outboxes.watch_for_deleted_queues()

    @property
    def unconfirmed(self) -> bool:
        """True if the broker has not confirmed all that was sent."""
        return self._outboxes.unconfirmed

    # ---- calls

    def call(
        self, address: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call[Any]:
        """Send a call now. A durable actor calls another one under an id that stays the same if the message that it
        handles has to be handled again.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending, HubClosed: nothing was sent.
        """
        result = self._call(address, signature, method, args, kwargs).result
        assert isinstance(result, Call), f"{signature.label} streams: its caller takes `stream`"
        if address.queue == self._names.control:
            self._no_reply_warning.watch(result, signature.label)
        return result

    def stream(
        self, address: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Stream[Any]:
        """Send a call of a generator method now.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending, HubClosed: nothing was sent.
        """
        result = self._call(address, signature, method, args, kwargs).result
        assert isinstance(result, StreamReceiver), f"{signature.label} does not stream: its caller takes `call`"
        return Stream(result, self._loop)

    def _call(
        self, address: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> PendingCall:
        keep_alive = KeepAlive()
        with keep_alive if may_hold_references(args, kwargs) else nullcontext():
            payload, codec = signature.pack(args, kwargs, self._signer)
        self.check_sendable(payload)
        around = effects()
        if around is not None and address.durable and not signature.is_generator:
            outbox, call_id = self._outboxes.for_repeatable_calls(address), around.next_ask()
        else:
            outbox, call_id = self._outboxes.to_actor(address), self.next_id()
        pending = self.expect_reply(signature, outbox, call_id, limited=not address.is_system)
        draft = self.draft_call(pending)
        draft["method"], draft["codec"] = method, codec
        if address.key is not None:
            draft["key"] = address.key
        pending.keep_alive = keep_alive
        pending.outgoing = outgoing = self._outgoing(
            draft, payload, lambda outcome: self._call_settled(pending, address, outcome)
        )
        outbox.put(outgoing)
        return pending

    def expect_reply(
        self,
        signature: Signature,
        outbox: Outbox,
        call_id: str,
        *,
        on_took: Callable[[float], None] | None = None,
        limited: bool = True,
    ) -> PendingCall:
        """Register a call that is about to be sent.

        Args:
            signature: of the function whose result the reply holds.
            outbox: sends the call, and cancels it.
            call_id: unique among the pending calls.
            on_took: called with the seconds that a task ran.
            limited: count the call towards `max_pending`; False for a call to control, since others may wait for it.

        Raises:
            TooManyPending, HubClosed.
        """
        if self.closed is not None:
            raise self.closed
        if limited:
            self.pending_calls.check_room()
        result: Call[Any] | StreamReceiver[Any] = StreamReceiver() if signature.is_generator else Call(loop=self._loop)
        pending = PendingCall(call_id, signature, outbox, result, on_took)
        if isinstance(result, StreamReceiver):
            result.grant = lambda index: self._grant(pending, index)
        self.pending_calls.expect(pending)
        return pending

    def draft_call(self, pending: PendingCall) -> EnvelopeDraft:
        """Draft the envelope of a registered call, without its method, codec and key."""
        draft: EnvelopeDraft = {
            "id": pending.id,
            "kind": Kind.CALL,
            "sender": self._id,
            "reply_to": self._reply_queue,
        }
        if pending.signature.is_generator:
            draft["kind"] = Kind.STREAM
            draft["index"] = STREAM_CREDIT
        if pending.chain:
            draft["chain"] = pending.chain
        if pending.deadline is not None:
            draft["deadline"] = pending.deadline
        return draft

    def next_id(self) -> str:
        """An id for a message of this session."""
        return f"{self._id}-{next(self._counter)}"

    def fail(self, pending: PendingCall, error: BaseException) -> None:
        """End a call that was not sent, or gets no reply."""
        self.pending_calls.forget(pending)
        pending.result.fail(error)

    def _grant(self, pending: PendingCall, index: int) -> None:
        if pending.credit_to:
            draft: EnvelopeDraft = {"kind": Kind.CREDIT, "call": pending.id, "index": index}
            self.respond(pending.credit_to, draft, b"", lambda outcome: None, persistent=True)

    def _call_settled(self, pending: PendingCall, address: ActorAddress, outcome: Outcome) -> None:
        if outcome is not Outcome.STORED:
            self.pending_calls.forget(pending)
            self._spawn_task(self._fail_unsent(pending, address, outcome), "actorhub-unsent")

    async def _fail_unsent(self, pending: PendingCall, address: ActorAddress, outcome: Outcome) -> None:
        pending.result.fail(
            await not_stored_error(self._directory, self._names, address, pending.signature.label, outcome)
        )

    # ---- tells and timers

    async def tell(
        self, address: ActorAddress, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Send a message that gets no reply; return when the broker has stored it. In a method of a durable actor: send
        it with the commit of the method's effects, unless the method fails.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, HubClosed: nothing was sent.
            ActorNotFound, ActorDied: the actor does not exist (any more).
            MailboxFull: the actor's mailbox is at its limit.
            CallTimeout: the broker has not confirmed before the deadline; it may have the message.
        """
        payload, codec = signature.pack(args, kwargs, self._signer)
        self.check_sendable(payload)
        draft: EnvelopeDraft = {
            "id": self.next_id(),
            "kind": Kind.TELL,
            "method": method,
            "codec": codec,
            "sender": self._id,
        }
        if address.key is not None:
            draft["key"] = address.key
        deadline = call_context.get().deadline
        around = effects()
        if around is not None:
            around.told.append(DeferredTell.to(address, draft, payload))
            return
        if deadline is not None:
            draft["deadline"] = deadline
        settled: asyncio.Future[Outcome] = self._loop.create_future()
        outgoing = self._outgoing(draft, payload, resolver_of(settled))
        outbox = self._outboxes.to_actor(address)
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
        await self.check_stored(address, signature.label, outcome)

    def set_timer(
        self,
        address: ActorAddress,
        signature: Signature,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timer: TimerSpec,
    ) -> asyncio.Future[Outcome]:
        """Send a message that the actor handles when the timer is due. `check_stored` raises the error of an outcome.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, HubClosed: nothing was sent.
        """
        payload, codec = signature.pack(args, kwargs, self._signer)
        self.check_sendable(payload)
        draft: EnvelopeDraft = {
            "id": self.next_id(),
            "kind": Kind.TIMER,
            "method": method,
            "codec": codec,
            "timer": timer,
            "key": address.key,
        }
        return self._send(address, draft, payload)

    def cancel_timer(self, address: ActorAddress, timer_id: str) -> asyncio.Future[Outcome]:
        """Tell the actor to drop a timer. `check_stored` raises the error of an outcome."""
        return self._send(address, {"kind": Kind.CANCEL, "call": timer_id}, b"")

    def _send(self, address: ActorAddress, draft: EnvelopeDraft, payload: bytes) -> asyncio.Future[Outcome]:
        settled: asyncio.Future[Outcome] = self._loop.create_future()
        around = effects()
        if around is not None:
            around.told.append(DeferredTell.to(address, draft, payload))
            settled.set_result(Outcome.STORED)
        else:
            draft["sender"] = self._id
            self._outboxes.to_actor(address).put(self._outgoing(draft, payload, resolver_of(settled)))
        return settled

    # ---- replies and broadcasts

    def respond(
        self,
        reply_to: str,
        draft: EnvelopeDraft,
        payload: bytes,
        settled: Callable[[Outcome], None],
        *,
        persistent: bool = False,
        foreign: str | None = None,
    ) -> None:
        """Send a reply, a failure, an item or a credit.

        Args:
            reply_to: the queue of the process that receives it.
            draft: its envelope, whole: it gets no sequence number.
            payload: its payload.
            settled: called once with the broker's outcome.
            persistent: keep it through a restart of the broker.
            foreign: the correlation id of a caller that reads plain JSON only.
        """
        self._outboxes.for_replies(reply_to).put(
            OutgoingMessage(
                draft, payload, settled, persistent=persistent, alone=foreign is not None, correlation_id=foreign
            )
        )

    def broadcast(self, method: str, arguments: dict[str, Any]) -> None:
        """Tell every agent and every slot. A message lost with a link is not repeated."""
        link = self._connection.link
        if link is not None:
            envelope = Envelope(id=self.next_id(), kind=Kind.TELL, method=method)
            body, content_type = encode([(envelope, json.dumps(arguments).encode())])
            message = Message(body, content_type, persistent=False)
            link.broadcast(self._names.tasks, message, lambda outcome: None)

    # ---- checks and errors

    def check_sendable(self, payload: bytes) -> None:
        """Check that the session is open, and that the broker takes a payload of this size.

        Raises:
            PayloadTooLarge, HubClosed.
        """
        if self.closed is not None:
            raise self.closed
        self.check_size(payload)

    def check_size(self, payload: bytes) -> None:
        """Check that the broker takes a payload of this size; it would close the connection.

        Raises:
            PayloadTooLarge.
        """
        link = self._connection.link
        if link is not None and len(payload) > link.max_message - HEADER_ROOM_BYTES:
            raise PayloadTooLarge(
                f"a payload of {len(payload)} bytes; {link.server} takes {link.max_message - HEADER_ROOM_BYTES}: "
                "send it in parts, or put it into the object store and send the reference"
            )

    async def check_stored(self, address: ActorAddress, label: str, outcome: Outcome) -> None:
        """Raise the error of a message that the broker has not stored.

        Raises:
            ActorNotFound, ActorDied, MailboxFull.
        """
        if outcome is not Outcome.STORED:
            raise await not_stored_error(self._directory, self._names, address, label, outcome)

    def _timed_out(self, label: str) -> CallTimeout:
        blocked = f"; the broker takes no messages: {self._connection.blocked}" if self._connection.blocked else ""
        lost = "; the broker cannot be reached" if self._connection.link is None else ""
        return CallTimeout(f"{label} did not reply before the deadline{blocked}{lost}; it may still take effect")

    def _outgoing(self, draft: EnvelopeDraft, payload: bytes, settled: Callable[[Outcome], None]) -> OutgoingMessage:
        return OutgoingMessage(draft, payload, settled, waits_when_full=call_context.get().waits_when_full)
