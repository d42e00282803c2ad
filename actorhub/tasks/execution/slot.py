"""A slot for tasks: one synchronous task at a time, beside those that are blocked, or many `async def` ones.

The acknowledgement policy: a task is done when the broker has confirmed its reply, its next attempt, the next step that takes
its result, or its dead letter. A message is acknowledged when all its tasks are done. A slot that dies costs the attempts that
it had started; the broker delivers its messages to others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from actorhub.broker import Delivery
from actorhub.control_api.task_status import TaskStatusReport, TaskStatusTable
from actorhub.core.in_flight import InFlightRecorder
from actorhub.errors import ActorHubError, InvalidEnvelope
from actorhub.messaging.request import DeliveryAck, Reply, Request, task_request
from actorhub.tasks.chunking import CONCURRENT_TASKS, SPLIT_AFTER_SECONDS
from actorhub.tasks.client_context import Clients
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.tasks.execution.consumer import ConsumerGeneration, TaskConsumer
from actorhub.tasks.execution.invocation import AdmissionControl, TaskInvoker, cancelled, timed_out
from actorhub.tasks.execution.thread_scheduler import TaskBatch, ThreadScheduler
from actorhub.tasks.task import TaskSpec
from actorhub.wire.envelope import decode

log = logging.getLogger(__name__)

AGENT_REPLY_SECONDS = 4.0
"""Time that the agent has to say what it knows of redelivered tasks."""
CONFIRM_SECONDS = 2.0
"""Time that the broker has to confirm what follows from the tasks of a slot that stops."""
EXIT_SECONDS = 5.0
"""Time after which a slot that must exit does so, whatever the broker has confirmed."""

AskAgent = Callable[[list[str]], Awaitable[TaskStatusReport]]
"""Gets what the agent knows of these tasks, by their keys."""


class TaskSlot:
    """Takes tasks from the queues that it serves, runs the admitted ones, and completes them.

    Args:
        clients: the session of the slot, and the clients that the tasks' code uses.
        recorder: notes which tasks run, for the agent.
        node: the node's id, for error messages.
        ask_agent: asks the agent whether redelivered tasks have killed other slots.
        exit_process: ends the process, the only way to end a synchronous task that is not blocked. None if the slot shares its
            process: then such a task runs on, and its outcome is ignored.
    """

    def __init__(
        self,
        clients: Clients,
        recorder: InFlightRecorder,
        node: str,
        *,
        ask_agent: AskAgent,
        exit_process: Callable[[], None] | None,
    ) -> None:
        self._session = clients.session
        self._admission = AdmissionControl(self._session.signer, node)
        self._invoker = TaskInvoker(clients, recorder, self._admission)
        self._completion = CompletionHandler(self._session, self._admission.retry_policy)
        self._consumers: dict[str, TaskConsumer] = {}
        self._threads = ThreadScheduler(
            self._invoker,
            self._completion,
            self._consumers,
            None if exit_process is None else self._start_exit,
        )
        self._coroutines: dict[Request, asyncio.Task[None]] = {}
        self._progress_check: asyncio.TimerHandle | None = None
        self._ask_agent = ask_agent
        self._exit_process = exit_process
        self._is_stopping = False

    @property
    def statuses(self) -> TaskStatusTable:
        """Statuses of cancelled tasks, and of tasks that ended with their slot."""
        return self._admission.statuses

    @property
    def completed(self) -> int:
        """Number of tasks that have run to their end."""
        return self._completion.completed

    @property
    def is_busy(self) -> bool:
        return self._threads.is_busy or bool(self._coroutines)

    # ---- life

    async def serve(self, queues: Iterable[str]) -> None:
        """Take tasks from these queues, too."""
        for queue in queues:
            if queue not in self._consumers and not self._is_stopping:
                consumer = TaskConsumer(self._session, queue, self._on_delivery, self._threads.drop_lost)
                self._consumers[queue] = consumer
                await consumer.open()

    async def stop(self, patience: float) -> None:
        """Return what has not started, and wait `patience` seconds at most for what runs."""
        self._is_stopping = True
        await asyncio.gather(*(consumer.close() for consumer in self._consumers.values()))
        self._threads.stop()
        until = self._session.loop.time() + patience
        while self.is_busy and self._session.loop.time() < until:
            await asyncio.sleep(0.01)
        await self._completion.all_confirmed(CONFIRM_SECONDS)
        self._threads.close()
        if self._progress_check is not None:
            self._progress_check.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                await asyncio.gather(*(consumer.end() for consumer in self._consumers.values()))

    def _start_exit(self) -> None:
        """Stop, and end the process: a task runs in it that ends in no other way."""
        self._is_stopping = True
        if self._exit_process is not None:
            self._session.spawn_task(self._stop_and_exit(self._exit_process), "actorhub-exit")

    async def _stop_and_exit(self, exit_process: Callable[[], None]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_SECONDS):
                await self.stop(0.0)
        exit_process()

    def cancel(self, call_id: str) -> None:
        """Do not run this task, and end it if it runs: its caller has cancelled it."""
        self.statuses.cancel(call_id)
        self._threads.cancel(call_id)
        for request, coroutine in self._coroutines.items():
            if request.key == call_id:
                coroutine.cancel()

    # ---- taking

    def _on_delivery(self, consumer: TaskConsumer, delivery: Delivery, generation: ConsumerGeneration) -> None:
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning("a message in %s is not a task and is kept as a dead letter: %s", consumer.queue, exc)
            ack = DeliveryAck(delivery, 1, generation.on_settled)
            self._completion.dead_letter_malformed(consumer.queue, message, exc, ack)
            return
        ack = DeliveryAck(delivery, len(parcels), generation.on_settled)
        requests = [task_request(parcel, message, ack, self._completion.reply, consumer.queue) for parcel in parcels]
        batch = TaskBatch(deque(requests), consumer, delivery, generation)
        if delivery.redelivered:
            self._session.spawn_task(self._ask_agent_then_start(batch), "actorhub-deaths")
        else:
            self._start(batch)

    async def _ask_agent_then_start(self, batch: TaskBatch) -> None:
        """Start redelivered tasks unless they have killed other slots, of which the agent knows first."""
        try:
            async with asyncio.timeout(AGENT_REPLY_SECONDS):
                self.statuses.learn(await self._ask_agent([request.key for request in batch.requests]))
        except (TimeoutError, ActorHubError):
            log.debug("the agent does not say which redelivered tasks killed their slots", exc_info=True)
        if batch.generation.is_lost:
            return
        if self._is_stopping:
            batch.return_message()
        else:
            self._start(batch)

    def _start(self, batch: TaskBatch) -> None:
        """Fail the tasks that are not admitted, start the `async def` ones, and leave the others to the threads."""
        requests, batch.requests = batch.requests, deque()
        for request in requests:
            try:
                spec = self._admission.admit(request)
            except Exception as exc:
                self._completion.fail(request, exc, 0.0)
                continue
            if spec.signature.kind == "sync":
                batch.requests.append(request)
            else:
                self._start_coroutine(request, spec, batch.consumer)
        batch.is_untouched = len(batch.requests) == len(requests)
        if batch.requests:
            self._threads.submit(batch)

    # ---- running on the event loop

    def _start_coroutine(self, request: Request, spec: TaskSpec, consumer: TaskConsumer) -> None:
        consumer.expect_coroutines()
        consumer.concurrent_tasks += 1
        coroutine = self._session.loop.create_task(self._run_coroutine(request, spec))
        self._coroutines[request] = coroutine

        def on_ended(_: asyncio.Task[None]) -> None:
            self._coroutines.pop(request, None)
            consumer.concurrent_tasks -= 1

        coroutine.add_done_callback(on_ended)
        if self._progress_check is None:
            self._check_progress_later()

    def _check_progress_later(self) -> None:
        self._progress_check = self._session.loop.call_later(SPLIT_AFTER_SECONDS, self._check_progress)

    def _check_progress(self) -> None:
        """Make room for more tasks if no coroutine ends. A coroutine may wait for a task that found no room, or for something
        else: the slot cannot tell."""
        for consumer in self._consumers.values():
            consumer.check_progress()
        self._progress_check = None
        if self._coroutines and not self._is_stopping:
            self._check_progress_later()

    async def _run_coroutine(self, request: Request, spec: TaskSpec) -> None:
        outcome: Reply | BaseException
        started = time.monotonic()
        times_out_at = self._invoker.times_out_at(request, started)
        limit = asyncio.timeout(None if times_out_at is None else max(0.0, times_out_at - started))
        try:
            async with limit:
                outcome = await self._invoker.run_async(request, spec)
            # Its share: so many run at once.
            ran = (time.monotonic() - started) / CONCURRENT_TASKS
        except asyncio.CancelledError as exc:
            if self._admission.is_cancelled(request):
                outcome, ran = cancelled(request), 0.0
            elif not _is_being_cancelled():  # something that it awaited was cancelled
                outcome, ran = exc, time.monotonic() - started
            else:  # the slot ends, and the message goes back
                return
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            if self._session.is_closed:  # no fault of the task: the message goes back, and it runs elsewhere
                return
            ran = time.monotonic() - started
            outcome = timed_out(request, ran) if limit.expired() else exc
        self._completion.complete(request, outcome, ran)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
