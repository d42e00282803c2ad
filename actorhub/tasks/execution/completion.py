"""What becomes of a task that has ended: an answer, another attempt, a next step, or a dead letter; then it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
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
from actorhub.tasks.task import Retry, TaskSpec
from actorhub.wire.envelope import ChainStep, Codec, Envelope, EnvelopeDraft, FanInTarget, Kind
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

_INVALID = (InvalidArguments, InvalidResult, NotSerialisable, PayloadTooLarge, TaskNotFound, UntrustedPayload)
_HOPELESS = (*_INVALID, CallCancelled, PlacementInfeasible, WorkerDied)  # trying again changes nothing


class CompletionHandler:
    """Of the tasks that one slot has run. Everything is confirmed by the broker before the task is acknowledged."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._delays = DelayedPublisher(session.names)
        self._dead: dict[str, DeadLetterQueue] = {}
        self._open = 0

    async def settled(self, timeout: float) -> bool:
        """Wait until the broker has confirmed all of it. False where it has not in `timeout` seconds."""
        until = self._session.loop.time() + timeout
        while self._open:
            if self._session.loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return True

    # ---- the outcomes

    def succeed(self, work: Request, answer: Reply, took: float) -> None:
        envelope = work.envelope
        if envelope.into is not None:
            self._in_background(self._gather(work, envelope.into, answer))
        elif envelope.then:
            self._in_background(self._go_on(work, answer))
        else:
            self.answer(work, Reply({**answer.draft, "took": round(took, 6)}, answer.payload))

    def fail(self, work: Request, spec: TaskSpec | None, error: BaseException, took: float) -> None:
        """Another attempt where its policy has one; else it has failed for good."""
        envelope = work.envelope
        age = time.time() - envelope.since if envelope.since is not None else took
        retry = spec.options.retry if spec is not None else None
        late = envelope.deadline is not None and envelope.deadline <= time.time()
        if retry is not None and not late and not isinstance(error, _HOPELESS):
            pause = _pause(retry, envelope, error, age)
            if pause is not None:
                log.info(
                    "%s failed (attempt %d) and is tried again in %.1f s: %.1000r",
                    *_label_and_attempt(envelope),
                    pause,
                    error,
                )
                again = {"attempt": max(1, envelope.attempt) + 1, "since": time.time() - age}
                self._in_background(self._publish(work, envelope.model_copy(update=again), delay=pause))
                return
        failure = Failure.of(error, self._session.signer)
        answer = Reply({"kind": Kind.FAILURE, "call": envelope.id, "took": round(took, 6)}, failure.encode(), failure)
        if isinstance(error, CallCancelled):
            self.answer(work, answer)
        else:
            is_said = isinstance(error, PlacementInfeasible)  # of the queue, once
            level = logging.DEBUG if is_said else logging.WARNING
            log.log(level, "%s failed for good (attempt %d): %.1000r", *_label_and_attempt(envelope), error)
            self._in_background(self._dead_letter(work, answer, failure, "expired" if late else _reason(error)))

    def malformed(self, queue: str, message: Message, error: InvalidEnvelope, receipt: DeliveryAck | None) -> None:
        self._in_background(self._keep(queue, DeadLetter.malformed(queue, message, error), receipt))

    def send_back(self, work: Request) -> None:
        """It was not begun here: another may take it."""
        self._in_background(self._publish(work, work.envelope))

    def answer(self, work: Request, answer: Reply) -> None:
        """To the caller, where one wants it; persistent, for nobody would answer a second time."""
        reply_to = work.envelope.reply_to
        if not reply_to:
            work.done()
            return
        self._open += 1

        def settled(outcome: Outcome) -> None:
            self._open -= 1
            work.done()

        self._session.sender.respond(
            reply_to, answer.draft, answer.payload, settled, persistent=True, foreign=work.foreign
        )

    # ---- what waits for the broker

    def _in_background(self, coroutine: Any) -> None:
        self._open += 1
        self._session.spawn_task(coroutine, "actorhub-settle").add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._open -= 1

    async def _dead_letter(self, work: Request, answer: Reply, failure: Failure, reason: Reason) -> None:
        envelope = work.envelope
        letter = DeadLetter.of(reason, work.queue, envelope, work.payload, failure, attempts=envelope.attempt)
        await self._dead_letters(work.queue).keep(letter)
        if envelope.into is not None:
            await self._gather(work, envelope.into, answer)
        else:
            self.answer(work, answer)

    async def _keep(self, queue: str, letter: DeadLetter, receipt: DeliveryAck | None) -> None:
        await self._dead_letters(queue).keep(letter)
        if receipt is not None:
            receipt.done()

    def _dead_letters(self, queue: str) -> DeadLetterQueue:
        namespace = self._session.names.namespace_of(queue)
        if namespace not in self._dead:
            self._dead[namespace] = DeadLetterQueue(self._session, namespace)
        return self._dead[namespace]

    async def _go_on(self, work: Request, answer: Reply) -> None:
        """The next step takes the result; the answer goes to whom this one's would have gone."""
        step, *later = work.envelope.then
        changes = {"then": tuple(later), "attempt": 1, "since": None, "codec": answer.draft.get("codec", Codec.JSON)}
        try:
            await self._take_step(step, work.envelope.model_copy(update=changes), answer.payload)
        except PlacementInfeasible as exc:
            self.fail(work, None, exc, 0.0)
        else:
            work.done()

    async def _take_step(self, step: ChainStep, envelope: Envelope, payload: bytes) -> None:
        to_step = {"method": step.method, "code": step.code, "priority": step.priority, "alone": True}
        parcel = envelope.model_copy(update=to_step), payload
        await publish_task(self._session, self._delays, step.queue, task_message([parcel]))

    async def _gather(self, work: Request, into: FanInTarget, answer: Reply) -> None:
        """Add it to the results that were there before; who brings the last one gives them all to the next task."""
        gathering = FanInQueue(self._session, into)
        results = await gathering.add(answer)
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
                    deadline=work.envelope.deadline,
                )
                try:
                    await self._take_step(into.step, envelope, payload)
                except PlacementInfeasible as exc:
                    await self._bury_step(into, envelope, payload, exc)
            elif into.reply_to:
                await self._tell_failure(into, failure[1])
            await gathering.end()
        work.done()

    async def _bury_step(
        self, into: FanInTarget, envelope: Envelope, payload: bytes, error: PlacementInfeasible
    ) -> None:
        """Nobody can run the task that takes all the results."""
        failure = Failure.of(error, self._session.signer)
        taken = envelope.model_copy(update={"method": into.step.method, "code": into.step.code})
        letter = DeadLetter.of(_reason(error), into.step.queue, taken, payload, failure, attempts=0)
        await self._dead_letters(into.step.queue).keep(letter)
        if into.reply_to:
            await self._tell_failure(into, failure.encode())

    async def _tell_failure(self, into: FanInTarget, payload: bytes) -> None:
        told: asyncio.Future[Outcome] = self._session.loop.create_future()
        draft: EnvelopeDraft = {"kind": Kind.FAILURE, "call": into.call}
        self._session.sender.respond(into.reply_to, draft, payload, resolver_of(told), persistent=True)
        await told

    async def _publish(self, work: Request, envelope: Envelope, *, delay: float = 0.0) -> None:
        message = task_message([(envelope, work.payload)], correlation_id=work.foreign)
        try:
            await publish_task(self._session, self._delays, work.queue, message, delay)
        except PlacementInfeasible as exc:
            self.fail(work, None, exc, 0.0)
        else:
            work.done()


def _pause(retry: Retry, envelope: Envelope, error: BaseException, age: float) -> float | None:
    """Seconds until the next attempt; None where there is none, and where the policy itself fails: its strategies are the
    user's code."""
    try:
        return retry.pause(max(1, envelope.attempt), error, age)
    except Exception as exc:
        log.exception("%s is not tried again (attempt %d): its retry policy failed", *_label_and_attempt(envelope))
        with suppress(Exception):  # not every exception takes a note
            error.add_note(f"it is not tried again, for its retry policy failed: {type(exc).__name__}: {exc}")
        return None


def _label_and_attempt(envelope: Envelope) -> tuple[str, int]:
    return f"{envelope.method} (task {envelope.id})", max(1, envelope.attempt)


def _reason(error: BaseException) -> Reason:
    if isinstance(error, WorkerDied):
        return "poison"
    if isinstance(error, _INVALID):
        return "invalid"
    return "exception"
