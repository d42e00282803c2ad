"""Thread scheduler for synchronous tasks: one runs at a time; a task that blocks on others yields its turn.

While a task waits for others another thread runs what comes next: so a task may wait for tasks, to any depth, in a single slot.
When its wait ends it resumes at once, beside the one that has the turn then.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from actorhub.broker import Delivery
from actorhub.errors import ActorHubError
from actorhub.messaging.request import Reply, Request
from actorhub.tasks.chunking import SPLIT_AFTER_SECONDS
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.tasks.execution.consumer import ConsumerGeneration, TaskConsumer
from actorhub.tasks.execution.invocation import TaskInvoker, cancelled, timed_out
from actorhub.tasks.execution.task_thread import RunningTask, TaskThread

log = logging.getLogger(__name__)

BLOCKED_CHECK_SECONDS = 0.5
"""Longest time between two checks whether a blocked task has timed out."""
UNWIND_SECONDS = 2.0
"""Time that a blocked task has to end after its wait was cancelled."""


@dataclass(eq=False)
class TaskBatch:
    """Synchronous tasks of one message that have not started. A thread takes them from the left end; the rest may be taken away
    from the right end meanwhile."""

    requests: deque[Request]
    consumer: TaskConsumer
    delivery: Delivery
    generation: ConsumerGeneration
    is_untouched: bool = True
    """No task of the message has started or ended: the message can be returned as it is."""

    @property
    def priority(self) -> int:
        """Tasks of one message have the same."""
        return self.requests[0].envelope.priority if self.requests else 0

    def take_last(self) -> Request | None:
        """None if the thread has just taken the last one."""
        try:
            return self.requests.pop()
        except IndexError:
            return None

    def return_message(self) -> None:
        """Give an untouched message back to the broker, for other slots."""
        self.delivery.reject(requeue=True)
        self.generation.on_settled()


class RunningBatch:
    """A batch, the thread that runs it, and a clock that stands still while its task is blocked."""

    def __init__(self, thread: TaskThread, batch: TaskBatch) -> None:
        self.thread = thread
        self.batch = batch
        self._is_paused = False
        self._since = time.monotonic()
        self._before = 0.0
        self._check: asyncio.TimerHandle | None = None

    @property
    def seconds_since_pause(self) -> float:
        """Seconds of running since the start, or since the last pause."""
        return time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """Seconds of running in all. Call it only while the clock is not paused."""
        return self._before + self.seconds_since_pause

    def pause_clock(self) -> None:
        """Stop the clock: the task is blocked, and holds up no other."""
        if not self._is_paused:
            self._is_paused = True
            self.batch.consumer.concurrent_tasks += 1
            self._before = self.seconds

    def resume_clock(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self.batch.consumer.concurrent_tasks -= 1
            self._since = time.monotonic()

    def check_after(self, seconds: float, check: Callable[[RunningBatch], None]) -> None:
        """Call `check` then, in place of the call that was set before."""
        self.cancel_check()
        self._check = asyncio.get_running_loop().call_later(seconds, check, self)

    def cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()


class ThreadScheduler:
    """Runs the synchronous tasks of one slot in threads. Implements `task_thread.ThreadOwner`.

    Args:
        invoker: runs a task in its thread.
        completion: hears of each task's end.
        consumers: the slot's consumers, by queue: they are paused while a long task runs, and resumed afterwards.
        exit_process: called once, when a task must be ended that ends only with its process. None if there is no process of its
            own: then such a task runs on, and its outcome is ignored.
    """

    def __init__(
        self,
        invoker: TaskInvoker,
        completion: CompletionHandler,
        consumers: Mapping[str, TaskConsumer],
        exit_process: Callable[[], None] | None,
    ) -> None:
        self._invoker = invoker
        self._completion = completion
        self._consumers = consumers
        self._exit_process = exit_process
        self._waiting: deque[TaskBatch] = deque()
        # True if batches of different priorities may wait.
        self._is_prioritised = False
        self._running: dict[TaskThread, RunningBatch] = {}
        self._spare_thread: TaskThread | None = None
        self._context = contextvars.copy_context()
        self._is_stopping = False

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def stop(self) -> None:
        """Start nothing more, and return what has not started."""
        self._is_stopping = True
        self._return_waiting()

    def close(self) -> None:
        """Ignore the outcomes of what still runs."""
        for running in self._running.values():
            running.cancel_check()
            running.thread.close()
        if self._spare_thread is not None:
            self._spare_thread.close()

    # ---- from the slot

    def submit(self, batch: TaskBatch) -> None:
        self._waiting.append(batch)
        self._is_prioritised = self._is_prioritised or batch.priority > 0
        self._dispatch()

    def drop_lost(self) -> None:
        """Forget the unstarted tasks of lost consumers: the broker delivers them to others."""
        self._waiting = deque(batch for batch in self._waiting if not batch.generation.is_lost)
        for running in self._running.values():
            if running.batch.generation.is_lost:
                running.batch.requests.clear()

    def cancel(self, call_id: str) -> None:
        """End the task if it runs."""
        for running in list(self._running.values()):
            task = running.thread.running
            if task is not None and task.request.key == call_id:
                self._abort(running, task, cancelled(task.request))

    # ---- which task runs

    @property
    def _has_turn_free(self) -> bool:
        return not self._is_stopping and all(thread.is_blocked for thread in self._running)

    def _dispatch(self) -> None:
        """Give the next batch to a thread if no task has the turn."""
        if not self._waiting or not self._has_turn_free:
            return
        thread, self._spare_thread = self._spare_thread, None
        try:
            thread = thread or self._context.copy().run(TaskThread, self._invoker.run, self)
        except RuntimeError as exc:
            log.warning("a task waits for one of %d running tasks to end: %s", len(self._running), exc)
            return
        batch = self._next_batch()
        running = self._running[thread] = RunningBatch(thread, batch)
        timeout = self._invoker.shortest_timeout(batch.requests)
        running.check_after(min(SPLIT_AFTER_SECONDS, timeout or SPLIT_AFTER_SECONDS), self._check)
        thread.put(batch.requests)

    def _next_batch(self) -> TaskBatch:
        """The oldest of the highest priority, from whichever queue."""
        if not self._is_prioritised:
            return self._waiting.popleft()
        batch = max(self._waiting, key=lambda batch: batch.priority)
        self._waiting.remove(batch)
        self._is_prioritised = any(batch.priority for batch in self._waiting)
        return batch

    def _take_more(self) -> None:
        """A thread's state has changed: consume again if no task has the turn, and run what waits."""
        if self._has_turn_free:
            for consumer in self._consumers.values():
                consumer.resume()
                if not self._waiting:
                    consumer.make_room()
        if self._is_stopping:
            self._return_waiting()
        self._dispatch()

    # ---- from the threads

    @property
    def has_waiting_batch(self) -> bool:
        return bool(self._waiting)

    def on_completed(self, request: Request, outcome: Reply | BaseException, ran: float) -> None:
        self._completion.complete(request, outcome, ran)

    def on_idle(self, thread: TaskThread) -> None:
        running = self._remove(thread)
        running.batch.consumer.record_duration(running.seconds)
        if self._spare_thread is None and not self._is_stopping:
            self._spare_thread = thread
        else:
            thread.close()
        self._take_more()

    def on_block_changed(self, thread: TaskThread) -> None:
        running = self._running.get(thread)
        if running is None:  # it was detached meanwhile
            return
        is_blocked = thread.is_blocked
        if is_blocked:
            running.pause_clock()
        else:
            running.resume_clock()
        running.check_after(SPLIT_AFTER_SECONDS, self._check)
        if is_blocked:
            self._requeue_unstarted(running)
            self._take_more()

    def _remove(self, thread: TaskThread) -> RunningBatch:
        running = self._running.pop(thread)
        running.resume_clock()
        running.cancel_check()
        return running

    def _requeue_unstarted(self, running: RunningBatch) -> None:
        """Put the unstarted tasks of a blocked batch in front of the queue."""
        batch, rest = running.batch, deque[Request]()
        while (request := batch.take_last()) is not None:
            rest.appendleft(request)
        if rest:
            first = TaskBatch(rest, batch.consumer, batch.delivery, batch.generation, is_untouched=False)
            self._waiting.appendleft(first)
            self._is_prioritised = self._is_prioritised or first.priority > 0
        batch.is_untouched = False

    # ---- tasks that take long

    def _check(self, running: RunningBatch) -> None:
        """Let other slots have what waits behind a long task, and end the task if it has timed out."""
        pause = SPLIT_AFTER_SECONDS
        if running.thread.is_blocked:
            pause = BLOCKED_CHECK_SECONDS
        elif running.seconds_since_pause >= SPLIT_AFTER_SECONDS:
            self._return_unstarted(running)
        task = running.thread.running
        times_out_at = self._invoker.times_out_at(task.request, task.started) if task is not None else None
        if task is not None and times_out_at is not None:
            now = time.monotonic()
            if times_out_at > now:
                pause = min(pause, max(SPLIT_AFTER_SECONDS, times_out_at - now))
            elif self._abort(running, task, timed_out(task.request, now - task.started)):
                return
        running.check_after(pause, self._check)

    def _return_unstarted(self, running: RunningBatch) -> None:
        """Give everything that has not started to other slots, and pause the consumers from which more would come."""
        running.batch.is_untouched = False
        self._send_back(running.batch)
        for consumer in self._consumers.values():
            if consumer.may_deliver or any(batch.consumer is consumer for batch in self._waiting):
                consumer.pause()
        self._return_waiting()

    def _return_waiting(self) -> None:
        while self._waiting:
            batch = self._waiting.popleft()
            if batch.is_untouched:
                batch.return_message()
            else:
                self._send_back(batch)

    def _send_back(self, batch: TaskBatch) -> None:
        """Publish the unstarted tasks of a message anew, each by itself."""
        while (request := batch.take_last()) is not None:
            self._completion.send_back(request)

    # ---- tasks that must end

    def _abort(self, running: RunningBatch, task: RunningTask, error: ActorHubError) -> bool:
        """Fail a running task with this error, and end it: a blocked one by cancelling its wait, another one with its process.

        Returns False if it has ended by itself.
        """
        thread = running.thread
        completed = thread.detach(task)
        if completed is None:
            return False
        self._remove(thread)
        for request, outcome, ran in completed:
            self._completion.complete(request, outcome, ran)
        self._send_back(running.batch)
        self._completion.fail(task.request, error, time.monotonic() - task.started)
        if thread.is_blocked:
            asyncio.get_running_loop().call_later(UNWIND_SECONDS, partial(self._exit_if_running, thread, error))
        else:
            self._exit(error)
        self._take_more()
        return True

    def _exit_if_running(self, thread: TaskThread, error: ActorHubError) -> None:
        if thread.running is not None:
            self._exit(error)

    def _exit(self, error: ActorHubError) -> None:
        if self._exit_process is None:
            log.warning("%s; it runs on in a thread; use Hub.local() or a node for tasks that can be ended", error)
        elif not self._is_stopping:
            self._is_stopping = True
            log.warning("%s; its slot's process exits, and another one replaces it", error)
            self._exit_process()
