"""Pending calls of a session: their registry, their deadlines, the delivery of replies, and a warning when
control does not reply."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from actorhub.errors import ActorHubError, CallTimeout, TooManyPending
from actorhub.messaging.calls import Call, StreamReceiver
from actorhub.messaging.context import HandledCall, call_context
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.wire.codec import KeepAlive
from actorhub.wire.envelope import Envelope, Hop, Kind
from actorhub.wire.failure import Failure
from actorhub.wire.method_signature import Signature
from actorhub.wire.signer import Signer

log = logging.getLogger(__name__)

NO_REPLY_WARNING_SECONDS = 5.0
# shortest time between two such warnings
WARNING_INTERVAL_SECONDS = 60.0


class NoReplyWarning:
    """Logs a warning when control does not reply.

    Args:
        is_heard: returns True while calls reach the broker.
    """

    def __init__(self, is_heard: Callable[[], bool]) -> None:
        self._is_heard = is_heard
        self._said = -WARNING_INTERVAL_SECONDS

    def watch(self, result: asyncio.Future[Any], label: str) -> None:
        timer = result.get_loop().call_later(NO_REPLY_WARNING_SECONDS, self._say, label)
        result.add_done_callback(lambda _: timer.cancel())

    def _say(self, label: str) -> None:
        now = time.monotonic()
        if self._is_heard() and now - self._said >= WARNING_INTERVAL_SECONDS:
            self._said = now
            log.warning(
                "%s has had no reply for %g s: does a node run? It waits for one; start one with `actorhub node MODULE`",
                label,
                NO_REPLY_WARNING_SECONDS,
            )


class Outbox(Protocol):
    """Outbox that sent a call: an actor's, or a task queue's."""

    def withdraw(self, outgoing: OutgoingMessage) -> bool: ...
    def cancel(self, call_id: str, sender: str) -> None: ...
    def on_reply(self, outgoing: OutgoingMessage) -> None: ...


class PendingCall:
    """A call that waits for its reply, with all that is needed to read the reply, and to cancel or repeat the call."""

    __slots__ = (
        "chain",
        "credit_to",
        "deadline",
        "handling",
        "id",
        "keep_alive",
        "on_took",
        "outbox",
        "outgoing",
        "result",
        "signature",
    )

    def __init__(
        self,
        id: str,
        signature: Signature,
        outbox: Outbox,
        result: Call[Any] | StreamReceiver[Any],
        on_took: Callable[[float], None] | None = None,
    ) -> None:
        self.id = id
        self.signature = signature
        # called with the seconds that a task ran
        self.on_took = on_took
        self.outbox = outbox
        self.result = result
        self.outgoing: OutgoingMessage | None = None
        self.deadline: float | None = None
        self.chain: tuple[Hop, ...] = ()
        self.handling: HandledCall | None = None
        self.keep_alive: KeepAlive | None = None
        # queue of the process that sends this stream
        self.credit_to = ""


class PendingCalls:
    """Registry of a session's pending calls.

    Args:
        sender: the session's id.
        timed_out: makes the error of a call that got no reply in time.
    """

    def __init__(self, sender: str, signer: Signer, limit: int, timed_out: Callable[[str], CallTimeout]) -> None:
        self._sender = sender
        self._signer = signer
        self._limit = limit
        self._timed_out = timed_out
        self._pending: dict[str, PendingCall] = {}
        self._deadlines: list[tuple[float, int, PendingCall]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def check_room(self) -> None:
        """Check that another call may wait.

        Raises:
            TooManyPending: as many calls wait as may.
        """
        if len(self._pending) >= self._limit:
            raise TooManyPending(
                f"{len(self._pending)} calls wait for replies; await some of them first, or raise max_pending"
            )

    def expect(self, pending: PendingCall) -> None:
        """Register a call. It takes the deadline and the chain of the surrounding code."""
        self._pending[pending.id] = pending
        pending.result.on_cancel = lambda: self.cancel(pending)
        around = call_context.get()
        pending.chain = around.chain
        if around.handling is not None and isinstance(pending.result, Call):
            pending.handling = around.handling
            around.handling.asked[pending.id] = pending.result
        if around.deadline is not None:
            pending.deadline = around.deadline
            heapq.heappush(self._deadlines, (around.deadline, next(self._order), pending))
            if self._deadlines[0][2] is pending:
                self._set_timer()

    def find(self, result: object) -> PendingCall | None:
        """Pending call that waits for this reply; None if there is no such call."""
        return next((pending for pending in self._pending.values() if pending.result is result), None)

    def all(self) -> list[PendingCall]:
        return list(self._pending.values())

    def receive(self, envelope: Envelope, payload: bytes) -> None:
        """Deliver an item, a result or a failure. One whose caller does not wait (any more) is dropped. Its errors go
        to its caller alone: other calls share its message."""
        pending = self._pending.get(envelope.call)
        if pending is None:
            return
        if envelope.kind is Kind.ITEM:
            self._receive_item(pending, envelope, payload)
            return
        self.forget(pending)
        if envelope.took is not None and pending.on_took is not None:
            pending.on_took(envelope.took)
        try:
            if envelope.kind is Kind.FAILURE:
                pending.result.fail(Failure.decode(payload).to_exception(self._signer))
            elif isinstance(pending.result, StreamReceiver):
                pending.result.end(envelope.index)
            else:
                pending.result.succeed(pending.signature.unpack_result(payload, envelope.codec, self._signer))
        except Exception as exc:
            pending.result.fail(exc)

    def _receive_item(self, pending: PendingCall, envelope: Envelope, payload: bytes) -> None:
        inflow = pending.result
        if not isinstance(inflow, StreamReceiver):
            return
        pending.credit_to = envelope.reply_to
        try:
            if inflow.expects(envelope.index):
                inflow.feed(pending.signature.unpack_result(payload, envelope.codec, self._signer))
        except Exception as exc:
            inflow.fail(exc)
            self.cancel(pending)

    def forget(self, pending: PendingCall) -> None:
        """Forget a call that has its reply, or needs none: it is not sent again."""
        self._pending.pop(pending.id, None)
        pending.result.on_cancel = None
        # no cycles: a finished call leaves no work to the collector
        outgoing, pending.outgoing = pending.outgoing, None
        if outgoing is not None:
            pending.outbox.on_reply(outgoing)
        if pending.handling is not None:
            pending.handling.asked.pop(pending.id, None)

    def cancel(self, pending: PendingCall) -> None:
        """Take a call back, or tell the actor, since the caller does not wait any more."""
        if pending.id not in self._pending:
            return
        outgoing = pending.outgoing
        self.forget(pending)
        if outgoing is None or not pending.outbox.withdraw(outgoing):
            pending.outbox.cancel(pending.id, self._sender)

    def fail_all(self, error: ActorHubError) -> None:
        """Fail all pending calls with this error."""
        pending, self._pending = self._pending, {}
        for call in pending.values():
            call.result.fail(error)
            if isinstance(call.result, Call):
                # marks the error as retrieved, for a call that was dropped
                call.result.exception()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._deadlines:
            delay = max(0.0, self._deadlines[0][0] - time.time())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        now = time.time()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].result.done()):
            _, _, pending = heapq.heappop(self._deadlines)
            if not pending.result.done():
                pending.result.fail(self._timed_out(pending.signature.label))
                self.cancel(pending)
        self._set_timer()
