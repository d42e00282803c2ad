"""Runs tasks: one `def` task at a time beside those that wait, or many `async def` ones.

The acknowledgement policy: a task is done when the broker has confirmed its answer, its next attempt, what goes on with its
result, or its dead letter. A message is acknowledged when all tasks of its chunk are done. A slot that dies costs the attempts
that it had begun; the broker gives its messages to others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from actorhub.broker import Delivery
from actorhub.control_api.task_status import TaskStatusReport
from actorhub.core.in_flight import InFlightRecorder
from actorhub.errors import ActorHubError, CallCancelled, CallTimeout, InvalidEnvelope
from actorhub.messaging.request import DeliveryAck, Reply, Request, task_work
from actorhub.tasks.chunking import CONCURRENT, SPLIT_AFTER
from actorhub.tasks.client_context import Clients
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.tasks.execution.consumer import ConsumerGeneration, TaskConsumer
from actorhub.tasks.execution.invocation import AdmissionControl, TaskInvoker
from actorhub.tasks.execution.thread_scheduler import TaskBatch, ThreadScheduler
from actorhub.tasks.task import TaskSpec
from actorhub.wire.envelope import decode

log = logging.getLogger(__name__)

HEARING = 4.0  # seconds for which the agent is waited for
SETTLING = 2.0  # seconds that a slot which ends gives the broker to confirm what became of its tasks
LEAVING = 5.0  # seconds after which a slot that is to leave does so, whatever the broker says

Ask = Callable[[list[str]], Awaitable[TaskStatusReport]]
"""What the agent knows of these tasks, by their keys."""


class TaskSlot:
    """`leave` ends the process, the only way to end a `def` task that does not wait; where there is none, it runs on, and
    nobody hears of it."""

    def __init__(
        self, clients: Clients, blackbox: InFlightRecorder, node: str, *, ask: Ask, leave: Callable[[], None] | None
    ) -> None:
        self.done = 0
        self._session = session = clients.session
        self._admission = AdmissionControl(session.signer, node)
        self.fates = self._admission.fates
        self._attempts = TaskInvoker(clients, blackbox, self._admission)
        self._ask = ask
        self._leave = leave
        self._settling = CompletionHandler(session)
        self._intakes: dict[str, TaskConsumer] = {}
        self._crew = ThreadScheduler(
            session,
            self._admission,
            self._attempts,
            self._settling,
            self._intakes,
            on_ended=self._ended,
            leave=None if leave is None else self._begin_to_leave,
        )
        self._tasks: dict[Request, asyncio.Task[None]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._stopping = False

    # ---- life

    async def serve(self, queues: Iterable[str]) -> None:
        """Take tasks of these queues, too."""
        for queue in queues:
            if queue not in self._intakes and not self._stopping:
                intake = self._intakes[queue] = TaskConsumer(self._session, queue, self._on_delivery, self._crew.lost)
                await intake.open()

    async def stop(self, patience: float) -> None:
        """Give back what was not begun; let what was begun end, for `patience` seconds."""
        self._stopping = True
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        self._crew.stop()
        until = self._session.loop.time() + patience
        while self.busy and self._session.loop.time() < until:
            await asyncio.sleep(0.01)
        await self._settling.settled(SETTLING)
        self._crew.end()
        if self._look is not None:
            self._look.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLING):
                await asyncio.gather(*(intake.end() for intake in self._intakes.values()))

    @property
    def busy(self) -> bool:
        return self._crew.busy or bool(self._tasks)

    def _begin_to_leave(self) -> None:
        self._stopping = True
        if self._leave is not None:
            self._session.spawn_task(self._leave_soon(self._leave), "actorhub-leave")

    async def _leave_soon(self, leave: Callable[[], None]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                await self.stop(0.0)
        leave()

    # ---- what every slot is told

    def cancel(self, call_id: str) -> None:
        """Nobody waits for the task any more: it is not run, and is ended where it runs."""
        self.fates.cancel(call_id)
        self._crew.cancel(call_id)
        for work, task in self._tasks.items():
            if work.key == call_id:
                task.cancel()

    # ---- taking

    def _on_delivery(self, intake: TaskConsumer, delivery: Delivery, shift: ConsumerGeneration) -> None:
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning("a message in %s is no task and is kept as dead: %s", intake.queue, exc)
            self._settling.malformed(intake.queue, message, exc, DeliveryAck(delivery, 1, shift.acked))
            return
        receipt = DeliveryAck(delivery, len(parcels), shift.acked)
        works = [task_work(parcel, message, receipt, self._settling.answer, intake.queue) for parcel in parcels]
        if delivery.redelivered:
            self._session.spawn_task(self._hear_first(works, intake, delivery, shift), "actorhub-deaths")
        else:
            self._take(works, intake, delivery, shift)

    async def _hear_first(
        self, works: list[Request], intake: TaskConsumer, delivery: Delivery, shift: ConsumerGeneration
    ) -> None:
        """Others had it in hand. The agent knows whether they died of it, a moment before everybody hears."""
        try:
            async with asyncio.timeout(HEARING):
                self.fates.learn(await self._ask([work.key for work in works]))
        except (TimeoutError, ActorHubError):
            log.debug("the agent does not say what it knows of redelivered tasks", exc_info=True)
        if self._stopping and not shift.lost:
            delivery.reject(requeue=True)
            shift.acked()
        elif not shift.lost:
            self._take(works, intake, delivery, shift)

    def _take(self, works: list[Request], intake: TaskConsumer, delivery: Delivery, shift: ConsumerGeneration) -> None:
        batch = TaskBatch(deque(), intake, delivery, shift, whole=True)
        for work in works:
            self._sort(work, batch)
        if len(batch.works) < len(works):
            batch.whole = False
        if batch.works:
            self._crew.take(batch)

    def _sort(self, work: Request, batch: TaskBatch) -> None:
        """To a thread, to the event loop, or away."""
        try:
            spec = self._admission.admit(work)
        except Exception as exc:
            self._settling.fail(work, self._admission.known(work), exc, 0.0)
            return
        if spec.signature.kind == "sync":
            batch.works.append(work)
        else:
            self._begin_async(work, spec, batch.intake)

    def _ended(self, work: Request, outcome: Reply | BaseException, took: float) -> None:
        self.done += 1
        if isinstance(outcome, Reply):
            self._settling.succeed(work, outcome, took)
        else:
            self._settling.fail(work, self._admission.known(work), outcome, took)

    # ---- running on the event loop

    def _begin_async(self, work: Request, spec: TaskSpec, intake: TaskConsumer) -> None:
        intake.widen()
        intake.waiting += 1
        task = self._session.loop.create_task(self._run_async(work, spec))
        self._tasks[work] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.pop(work, None)
            intake.waiting -= 1

        task.add_done_callback(ended)
        if self._look is None:
            self._watch()

    def _watch(self) -> None:
        self._look = self._session.loop.call_later(SPLIT_AFTER, self._make_room)

    def _make_room(self) -> None:
        """Nobody sees whether a task waits for others or for something else. Where none ends, what they wait for may have
        found no room."""
        for intake in self._intakes.values():
            intake.look()
        self._look = None
        if self._tasks and not self._stopping:
            self._watch()

    async def _run_async(self, work: Request, spec: TaskSpec) -> None:
        envelope = work.envelope
        began = time.monotonic()
        limit = self._attempts.until(work, began)
        scope = asyncio.timeout(None if limit is None else max(0.0, limit - began))
        try:
            async with scope:
                answer = await self._attempts.run_async(work, spec)
        except asyncio.CancelledError as exc:
            if self._admission.is_cancelled(work):
                self._settling.fail(work, spec, CallCancelled(f"{envelope.method} was cancelled while it ran"), 0.0)
            elif not _is_being_cancelled():
                self._settling.fail(work, spec, exc, time.monotonic() - began)  # its own: of something that it awaited
            # else the slot ends: the message goes back
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            if self._session.is_closed:  # no outcome of the task: it goes back, and is run elsewhere
                return
            ran = time.monotonic() - began
            late = CallTimeout(f"{envelope.method} was ended: it had run for {ran:.2f} s")
            self._settling.fail(work, spec, late if scope.expired() else exc, ran)
        else:
            self._settling.succeed(work, answer, (time.monotonic() - began) / CONCURRENT)
        finally:
            self.done += 1


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
