"""Client of the task queues: sends tasks at once, after a delay, or when the futures among their arguments are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from actorhub.broker import Link, Outcome
from actorhub.control_api.requirements import NO_REQUIREMENTS, Requirements
from actorhub.control_api.services import TaskBroadcasts
from actorhub.core.futures import resolver_of, wait_until_done
from actorhub.errors import CallCancelled, HubClosed, PlacementInfeasible
from actorhub.messaging.calls import Call, Stream, StreamReceiver
from actorhub.messaging.delayed_delivery import DelayedPublisher
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.pending_calls import PendingCall
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.session import Session
from actorhub.objects.client import ObjectClient
from actorhub.objects.reference import ValuePlaceholder, placeholders_allowed
from actorhub.tasks.chunking import MeanDurations
from actorhub.tasks.fan_in import FanInSubmission
from actorhub.tasks.future import Future, placeholders_in, with_results
from actorhub.tasks.outbox import TaskOutbox, publish_task, task_message
from actorhub.tasks.router import TaskRouter
from actorhub.tasks.task import TaskSpec, is_registered
from actorhub.wire.codec import KeepAlive, by_value
from actorhub.wire.envelope import ChainStep, Codec, Envelope, EnvelopeDraft

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmitOptions:
    """Options of one submission of a task."""

    namespace: str
    resources: dict[str, float] | None = None
    """Resources instead of the task's own; None keeps those."""
    place: Requirements = NO_REQUIREMENTS
    """Requirements beside resources."""
    priority: int | None = None
    """Priority instead of the task's own; None keeps that."""
    delay: float = 0.0
    """Seconds before the task may run."""
    then: tuple[TaskSpec, ...] = ()
    """Tasks that follow in a chain, each with the result of the one before."""


class TaskClient(Recoverable):
    """Client of the task queues: sends tasks, and returns futures of their results. One for a session.

    Args:
        session: sends the tasks and receives the replies.
        objects: fetches results that stay in a store.
    """

    def __init__(self, session: Session, objects: ObjectClient) -> None:
        self._session = session
        self._objects = objects
        session.attachments.add_later(self)
        self._means = MeanDurations()
        self._router = TaskRouter(session, self._means, self._cancelled, self._gone)
        self._delays = DelayedPublisher(session.names)
        self._codes: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

    async def attach(self, link: Link) -> None:
        self._router.attach(link)

    def detach(self) -> None:
        self._router.detach()

    @property
    def unconfirmed(self) -> int:
        return self._router.unconfirmed

    # ---- sending

    def submit(self, spec: TaskSpec, args: Sequence[Any], kwargs: dict[str, Any], sending: SubmitOptions) -> Any:
        """Send a task, as soon as the futures among its arguments are done. Returns a Future, or the Stream of a generator.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending, HubClosed: nothing was sent.
            ValueError: an argument contains itself.
        """
        before = [part for part in placeholders_in([*args, *kwargs.values()]) if isinstance(part, Future)]
        label = spec.signature.label
        accepted: asyncio.Future[None] = self._session.loop.create_future()
        if all(future.done() and not future.cancelled() and future.exception() is None for future in before):
            if before:
                args, kwargs = with_results(list(args)), with_results(kwargs)
            result = self._send(spec, args, kwargs, sending, resolver_of(accepted)).result
            if isinstance(result, StreamReceiver):
                return Stream(result, self._session.loop)
            return self._future(spec, result, accepted, sending)
        if spec.signature.is_generator:
            raise TypeError(f"{label} streams, and a streaming task cannot take futures; await them first")
        call: Call[Any] = Call(loop=self._session.loop)
        waiting = self._session.spawn_task(
            self._send_when_done(before, call, spec, args, kwargs, sending, resolver_of(accepted)),
            f"actorhub-wait-{label}",
        )
        call.on_cancel = lambda: _cancel(waiting)
        waiting.add_done_callback(lambda _: self._waited(waiting, call))
        return self._future(spec, call, accepted, sending)

    def _future(
        self, spec: TaskSpec, call: Call[Any], accepted: asyncio.Future[None], sending: SubmitOptions
    ) -> Future[Any]:
        last = sending.then[-1] if sending.then else spec
        return Future(spec.signature.label, call, accepted, lambda ref: self._objects.get_result(ref, last.signature))

    async def _send_when_done(
        self,
        before: list[Future[Any]],
        call: Call[Any],
        spec: TaskSpec,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        sending: SubmitOptions,
        accepted: Callable[[None], None],
    ) -> None:
        await wait_until_done([future.settled for future in before], len(before), or_failed=True)
        for future in before:
            if future.done() and (error := _failure_of(future)) is not None:
                error.add_note(f"{spec.signature.label} was not run: it takes the result of {future.label}")
                call.fail(error)
                return
        try:
            pending = self._send(spec, with_results(list(args)), with_results(kwargs), sending, accepted)
        except Exception as exc:
            call.fail(exc)
            return
        result = cast("Call[Any]", pending.result)
        call.on_cancel = lambda: _cancel(result)
        result.add_done_callback(lambda _: _pass_on(result, call))

    @staticmethod
    def _waited(waiting: asyncio.Future[None], call: Call[Any]) -> None:
        """Fail the call of a task that was never sent, because the hub was closed while it waited."""
        if waiting.cancelled() and not call.done():
            call.fail(HubClosed("the hub was closed"))
            call.exception()  # marks it as read: no warning if the caller has dropped the future

    def _send(
        self,
        spec: TaskSpec,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        sending: SubmitOptions,
        accepted: Callable[[None], None],
    ) -> PendingCall:
        session = self._session
        places = placeholders_in([*args, *kwargs.values()])
        with KeepAlive() as keep_alive:
            payload, codec = self._pack(spec, tuple(args), kwargs, places)
        box = self._outbox_for(spec, sending)
        last = sending.then[-1] if sending.then else spec
        of_task = self._draft(spec, sending)
        pending = session.sender.expect_reply(
            last.signature,
            box,
            session.sender.next_id(),
            on_took=lambda seconds: self._means.record(last.name, seconds),
        )
        draft = session.sender.draft_call(pending)
        draft.update(of_task)
        draft["codec"] = codec

        def settled(outcome: Outcome) -> None:
            if outcome is Outcome.STORED:
                accepted(None)
            elif not pending.result.done():
                error = PlacementInfeasible(f"the task queue {box.queue} was deleted: no node can serve it")
                session.sender.fail(pending, error)

        pending.outgoing = OutgoingMessage(draft, payload, settled)
        pending.keep_alive = keep_alive
        if self._router.all_open or not (sending.then or sending.delay):
            self._put(box, pending, sending.delay)  # the outbox itself waits for control
        else:
            self._router.when_open(
                [box.queue, *(step.queue for step in draft.get("then", ()))],
                lambda: self._put(box, pending, sending.delay),
                lambda error: self._session.sender.fail(pending, error),
            )
        return pending

    def _put(self, box: TaskOutbox, pending: PendingCall, delay: float) -> None:
        if pending.outgoing is not None:  # None if it was cancelled meanwhile
            self._dispatch(box, pending.outgoing, delay)

    def _dispatch(self, box: TaskOutbox, outgoing: OutgoingMessage, delay: float) -> None:
        if delay:
            self._send_later(box.queue, outgoing, delay)
        else:
            box.put(outgoing)

    def _pack(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], places: list[Any]
    ) -> tuple[bytes, Codec]:
        signer = self._session.signer
        if any(isinstance(place, ValuePlaceholder) for place in places):
            with placeholders_allowed():
                payload, codec = spec.signature.pack_with_placeholders(args, kwargs, signer)
        else:
            payload, codec = spec.signature.pack(args, kwargs, signer)
        self._session.sender.check_sendable(payload)
        return payload, codec

    def _draft(self, spec: TaskSpec, sending: SubmitOptions) -> EnvelopeDraft:
        """The part of a task's envelope that its function and its options determine."""
        steps = tuple(self._step(after, sending) for after in sending.then)
        step = self._step(spec, sending)
        draft: EnvelopeDraft = {"method": step.method, "attempt": 1}
        if step.priority:
            draft["priority"] = step.priority
        if step.code:
            draft["code"] = step.code
        if steps:
            draft["then"] = steps
        return draft

    def _step(self, spec: TaskSpec, sending: SubmitOptions) -> ChainStep:
        queue = self._outbox_for(spec, sending).queue  # declared before anything is published to it
        return ChainStep(method=spec.name, queue=queue, priority=_priority(spec, sending), code=self._code_of(spec))

    def _outbox_for(self, spec: TaskSpec, sending: SubmitOptions) -> TaskOutbox:
        queue = self._session.names.task(sending.namespace, spec.options.queue)
        resources = spec.options.resources if sending.resources is None else sending.resources
        if not resources and sending.place is NO_REQUIREMENTS:
            return self._router.outbox_for(queue, None, 0)
        required = sending.place.model_copy(update={"resources": resources})
        return self._router.outbox_for(
            queue + required.suffix, required if required.any else None, _priority(spec, sending)
        )

    def _send_later(self, queue: str, outgoing: OutgoingMessage, delay: float) -> None:
        envelope = outgoing.envelope = Envelope(**outgoing.draft)
        message = task_message([(envelope, outgoing.payload)])

        async def send() -> None:
            try:
                await publish_task(self._session, self._delays, queue, message, delay)
            except PlacementInfeasible:
                outgoing.settled(Outcome.UNROUTABLE)
            else:
                outgoing.settled(Outcome.STORED)

        self._session.spawn_task(send(), f"actorhub-later-{queue}")

    # ---- many tasks into one

    def gather_into(
        self, collect: TaskSpec, spec: TaskSpec, rows: Iterable[tuple[Any, ...]], sending: SubmitOptions
    ) -> Future[Any]:
        """Send one task for each row of arguments, and a collecting task that takes the list of their results.

        Args:
            collect: the collecting task.
            spec: the task that runs for each row.
            rows: the positional arguments of each task.
            sending: options of the tasks.

        Returns:
            The future of the collecting task.

        Raises:
            ValueError: there are no rows.
        """
        session = self._session
        with KeepAlive() as keep_alive:
            packed = [self._pack(spec, row, {}, placeholders_in(row)) for row in rows]
        if not packed:
            raise ValueError(
                f"{spec.signature.label} has no rows of arguments, so {collect.signature.label} would never run"
            )
        box = self._outbox_for(spec, sending)
        submission = FanInSubmission(
            session,
            sending.namespace,
            box.queue,
            packed,
            self._step(collect, sending),
            put=lambda outgoing: self._dispatch(box, outgoing, sending.delay),
            cancel_task=self._cancelled,
        )
        part = self._draft(spec, sending)
        pending = session.sender.expect_reply(collect.signature, submission, session.sender.next_id())
        pending.keep_alive = keep_alive
        if pending.deadline is not None:
            part["deadline"] = pending.deadline
        self._router.when_open(
            [box.queue, submission.collect.queue],
            lambda: submission.start(pending, part),
            lambda error: session.sender.fail(pending, error),
        )
        call = cast("Call[Any]", pending.result)
        return self._future(collect, call, submission.accepted, SubmitOptions(sending.namespace))

    def _code_of(self, spec: TaskSpec) -> bytes | None:
        """Code of a function that nodes cannot import by name, pickled by value; None if they can.

        Raises:
            UntrustedPayload: the cluster has no secret.
        """
        if is_registered(spec) and not by_value(spec.function):
            return None
        with suppress(KeyError, TypeError):
            return self._codes[spec.function]
        code = self._session.signer.dumps(spec, spec.name)
        with suppress(TypeError):
            self._codes[spec.function] = code
        return code

    def _gone(self, box: TaskOutbox, reason: str) -> None:
        """Fail all tasks sent through an outbox whose queue no node can serve, and those it has not sent."""
        sender = self._session.sender
        unsent = box.give_up()
        for pending in sender.pending_calls.all():
            outbox = pending.outbox
            if outbox is box:
                sender.fail(pending, PlacementInfeasible(reason))
            elif isinstance(outbox, FanInSubmission) and outbox.parts_queue == box.queue:
                self._session.spawn_task(outbox.fail_if_incomplete(pending, reason), "actorhub-fan-in-gone")
        for outgoing in unsent:
            outgoing.settled(Outcome.UNROUTABLE)

    def _cancelled(self, call_id: str) -> None:
        """Tell every slot that a task is cancelled."""
        self._session.sender.broadcast(TaskBroadcasts.cancel_task.__name__, {"call_id": call_id})


def _priority(spec: TaskSpec, sending: SubmitOptions) -> int:
    return spec.options.priority if sending.priority is None else sending.priority


def _cancel(waited: asyncio.Future[Any]) -> None:
    waited.cancel()


def _failure_of(future: Future[Any]) -> BaseException | None:
    if future.cancelled():
        return CallCancelled(f"{future.label} was cancelled")
    return future.exception()


def _pass_on(result: Call[Any], call: Call[Any]) -> None:
    if result.cancelled():
        call.cancel()
    elif (error := result.exception()) is not None:
        call.fail(error)
    else:
        call.succeed(result.result())
