"""Completion of tasks that have ended: a reply, a retry, a next step or a dead letter, and then the acknowledgement."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from actorhub.broker import Message, Outcome
from actorhub.core.futures import resolver_of
from actorhub.errors import (
    CallCancelled,
    InvalidArguments,
    InvalidEnvelope,
    InvalidResult,
    NotSerialisable,
    PayloadTooLarge,
    PlacementInfeasible,
    TaskNotFound,
    UntrustedPayload,
    WorkerDied,
)
from actorhub.messaging.dead_letter import DeadLetter, Reason
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.delayed_delivery import DelayedPublisher
from actorhub.messaging.request import DeliveryAck, Reply, Request
from actorhub.messaging.session import Session
from actorhub.tasks.fan_in import FanInQueue, merge_results
from actorhub.tasks.outbox import publish_task, task_message
from actorhub.tasks.retry import Retry
from actorhub.wire.envelope import ChainStep, Codec, Envelope, EnvelopeDraft, FanInTarget, Kind
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

_INVALID = (InvalidArguments, InvalidResult, NotSerialisable, PayloadTooLarge, TaskNotFound, UntrustedPayload)
# A retry cannot help.
_NEVER_RETRIED = (*_INVALID, CallCancelled, PlacementInfeasible, WorkerDied)


class CompletionHandler:
    """Completes tasks. A task is acknowledged when the broker has confirmed everything that follows from it.

    Args:
        session: sends the replies, the retries and the next steps.
        retry_policy: finds the policy of a task that has failed; None if it has none.
    """

    def __init__(self, session: Session, retry_policy: Callable[[Request], Retry | None] = lambda _: None) -> None:
        self.completed = 0
        """Tasks that have run and ended."""
        self._session = session
        self._retry_policy = retry_policy
        self._delays = DelayedPublisher(session.names)
        self._dead_letters_of: dict[str, DeadLetterQueue] = {}
        # Tasks that the broker has not confirmed.
        self._unconfirmed = 0

    async def all_confirmed(self, timeout: float) -> bool:
        """Wait until the broker has confirmed everything; False if it has not within `timeout` seconds."""
        until = self._session.loop.time() + timeout
        while self._unconfirmed:
            if self._session.loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return True

    # ---- outcomes

    def complete(self, request: Request, outcome: Reply | BaseException, ran: float) -> None:
        """Complete a task that has run for `ran` seconds."""
        self.completed += 1
        if not isinstance(outcome, Reply):
            self.fail(request, outcome, ran)
        elif request.envelope.into is not None:
            self._in_background(self._add_to_fan_in(request, request.envelope.into, outcome))
        elif request.envelope.then:
            self._in_background(self._continue_chain(request, outcome))
        else:
            self.reply(request, Reply({**outcome.draft, "took": round(ran, 6)}, outcome.payload))

    def fail(self, request: Request, error: BaseException, ran: float) -> None:
        """Retry the task if its policy says so; else reply with the error, and keep a dead letter unless it was cancelled."""
        envelope, now = request.envelope, time.time()
        is_expired = envelope.deadline is not None and envelope.deadline <= now
        if not is_expired and not isinstance(error, _NEVER_RETRIED):
            since = envelope.since if envelope.since is not None else now - ran
            pause = self._retry_pause(request, error, now - since)
            if pause is not None:
                label = _label_and_attempt(envelope)
                log.info("%s failed (attempt %d) and is retried in %.1f s: %.1000r", *label, pause, error)
                retry = envelope.model_copy(update={"attempt": max(1, envelope.attempt) + 1, "since": since})
                self._in_background(self._publish(request, retry, delay=pause))
                return
        failure = Failure.of(error, self._session.signer)
        draft: EnvelopeDraft = {"kind": Kind.FAILURE, "call": envelope.id, "took": round(ran, 6)}
        reply = Reply(draft, failure.encode(), failure)
        if isinstance(error, CallCancelled):
            self.reply(request, reply)
            return
        # If no slot can run the tasks of a queue, that is logged once for all of them.
        level = logging.DEBUG if isinstance(error, PlacementInfeasible) else logging.WARNING
        log.log(level, "%s failed and is not retried (attempt %d): %.1000r", *_label_and_attempt(envelope), error)
        self._in_background(self._dead_letter(request, reply, failure, "expired" if is_expired else _reason(error)))

    def dead_letter_malformed(
        self, queue: str, message: Message, error: InvalidEnvelope, ack: DeliveryAck | None
    ) -> None:
        """Keep a message that is no task, and acknowledge it."""
        self._in_background(self._keep(queue, DeadLetter.malformed(queue, message, error), ack))

    def send_back(self, request: Request) -> None:
        """Publish a task that has not started here to its queue, for other slots."""
        self._in_background(self._publish(request, request.envelope))

    def reply(self, request: Request, reply: Reply) -> None:
        """Reply to the caller, if there is one. The reply is persistent: the task will not run a second time for it."""
        reply_to = request.envelope.reply_to
        if not reply_to:
            request.done()
            return
        self._unconfirmed += 1

        def confirmed(outcome: Outcome) -> None:
            self._unconfirmed -= 1
            request.done()

        self._session.sender.respond(
            reply_to, reply.draft, reply.payload, confirmed, persistent=True, foreign=request.foreign
        )

    def _retry_pause(self, request: Request, error: BaseException, age: float) -> float | None:
        """Seconds until the next attempt; None if there is none. `age`: seconds since the first attempt started.

        A policy whose strategies, users' code, fail allows no other attempt.
        """
        retry, envelope = self._retry_policy(request), request.envelope
        if retry is None:
            return None
        try:
            return retry.next_delay(max(1, envelope.attempt), error, age)
        except Exception as exc:
            log.exception("%s is not retried (attempt %d): its retry policy failed", *_label_and_attempt(envelope))
            with suppress(Exception):  # not every exception takes a note
                error.add_note(f"it is not retried because its retry policy failed: {type(exc).__name__}: {exc}")
            return None

    # ---- what the broker must confirm

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._unconfirmed += 1
        self._session.spawn_task(coroutine, "actorhub-completion").add_done_callback(self._on_background_ended)

    def _on_background_ended(self, _: asyncio.Task[None]) -> None:
        self._unconfirmed -= 1

    async def _publish(self, request: Request, envelope: Envelope, *, delay: float = 0.0) -> None:
        message = task_message([(envelope, request.payload)], correlation_id=request.foreign)
        try:
            await publish_task(self._session, self._delays, request.queue, message, delay)
        except PlacementInfeasible as exc:
            self.fail(request, exc, 0.0)
        else:
            request.done()

    async def _dead_letter(self, request: Request, reply: Reply, failure: Failure, reason: Reason) -> None:
        envelope = request.envelope
        letter = DeadLetter.of(reason, request.queue, envelope, request.payload, failure, attempts=envelope.attempt)
        await self._keep(request.queue, letter)
        if envelope.into is not None:
            await self._add_to_fan_in(request, envelope.into, reply)
        else:
            self.reply(request, reply)

    async def _keep(self, queue: str, letter: DeadLetter, ack: DeliveryAck | None = None) -> None:
        namespace = self._session.names.namespace_of(queue)
        if namespace not in self._dead_letters_of:
            self._dead_letters_of[namespace] = DeadLetterQueue(self._session, namespace)
        await self._dead_letters_of[namespace].store(letter)
        if ack is not None:
            ack.done()

    # ---- next steps

    async def _continue_chain(self, request: Request, reply: Reply) -> None:
        """Publish the next task, which takes the result. Its reply goes where this one's would have gone."""
        step, *later = request.envelope.then
        changes = {"then": tuple(later), "attempt": 1, "since": None, "codec": reply.draft.get("codec", Codec.JSON)}
        try:
            await self._publish_step(step, request.envelope.model_copy(update=changes), reply.payload)
        except PlacementInfeasible as exc:
            self.fail(request, exc, 0.0)
        else:
            request.done()

    async def _publish_step(self, step: ChainStep, envelope: Envelope, payload: bytes) -> None:
        to_step = {"method": step.method, "code": step.code, "priority": step.priority, "alone": True}
        parcel = envelope.model_copy(update=to_step), payload
        await publish_task(self._session, self._delays, step.queue, task_message([parcel]))

    async def _add_to_fan_in(self, request: Request, into: FanInTarget, reply: Reply) -> None:
        """Add a result to those of the other tasks. The last one publishes the task that takes them all."""
        fan_in = FanInQueue(self._session, into)
        results = await fan_in.add(reply)
        if results is not None:
            failure = next((result for result in results if result[0].kind is Kind.FAILURE), None)
            if failure is None:
                payload, codec = merge_results(results, self._session.signer)
                envelope = Envelope(
                    id=into.call,
                    sender=into.sender,
                    reply_to=into.reply_to,
                    codec=codec,
                    attempt=1,
                    deadline=request.envelope.deadline,
                )
                try:
                    await self._publish_step(into.step, envelope, payload)
                except PlacementInfeasible as exc:
                    await self._dead_letter_step(into, envelope, payload, exc)
            elif into.reply_to:
                await self._reply_failure(into, failure[1])
            await fan_in.end()
        request.done()

    async def _dead_letter_step(
        self, into: FanInTarget, envelope: Envelope, payload: bytes, error: PlacementInfeasible
    ) -> None:
        """Fail the task that would take all results: no slot can run it."""
        failure = Failure.of(error, self._session.signer)
        unsent = envelope.model_copy(update={"method": into.step.method, "code": into.step.code})
        letter = DeadLetter.of(_reason(error), into.step.queue, unsent, payload, failure, attempts=0)
        await self._keep(into.step.queue, letter)
        if into.reply_to:
            await self._reply_failure(into, failure.encode())

    async def _reply_failure(self, into: FanInTarget, payload: bytes) -> None:
        """Fail the future of a fan-in. Returns when the broker has the reply."""
        confirmed: asyncio.Future[Outcome] = self._session.loop.create_future()
        draft: EnvelopeDraft = {"kind": Kind.FAILURE, "call": into.call}
        self._session.sender.respond(into.reply_to, draft, payload, resolver_of(confirmed), persistent=True)
        await confirmed


def _label_and_attempt(envelope: Envelope) -> tuple[str, int]:
    """For the log."""
    return f"{envelope.method} (task {envelope.id})", max(1, envelope.attempt)


def _reason(error: BaseException) -> Reason:
    if isinstance(error, WorkerDied):
        return "poison"
    if isinstance(error, _INVALID):
        return "invalid"
    return "exception"
