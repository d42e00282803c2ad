"""Thread that runs the synchronous tasks of a slot, one after the other, and hands their outcomes to the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from actorhub.actors.execution import YieldTurn
from actorhub.messaging.request import Reply, Request

CompletedTask = tuple[Request, Reply | BaseException, float]
"""A task, its reply or its error, and the seconds for which it ran."""

OnCompleted = Callable[[Request, Reply | BaseException, float], None]


@dataclass(frozen=True, slots=True)
class RunningTask:
    """The task that a thread runs now."""

    request: Request
    started: float
    """Monotonic time."""


class ThreadOwner(Protocol):
    """Owner of task threads. They call it on the event loop."""

    @property
    def has_waiting_batch(self) -> bool:
        """True if a batch waits for a thread."""
        ...

    def on_completed(self, request: Request, outcome: Reply | BaseException, ran: float) -> None:
        """A task has ended; called once for each, in order. `ran`: the seconds that it took."""

    def on_idle(self, thread: TaskThread) -> None:
        """A batch is through: the thread can take the next one."""

    def on_block_changed(self, thread: TaskThread) -> None:
        """The thread's task has blocked (`thread.is_blocked`) or resumed."""


class TaskThread:
    """Daemon thread that runs batches of synchronous tasks.

    The event loop calls `put`, `detach` and `close`; the running task calls `yield_turn`. The thread takes tasks from the left
    end of its batch; meanwhile the event loop may take the rest away from the right end.

    Args:
        invoke: runs one task in the thread. Gets the thread's `yield_turn`, to enter while the task blocks.
        owner: hears of the tasks' ends and of the thread's states.
    """

    def __init__(self, invoke: Callable[[Request, YieldTurn], Reply], owner: ThreadOwner) -> None:
        self.running: RunningTask | None = None
        self.blocked_on: Future[Any] | None = None
        """The future for which the running task waits."""
        self._invoke = invoke
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._mailbox = LoopMailbox(self._loop, owner.on_completed)
        self._batches: queue.SimpleQueue[deque[Request] | None] = queue.SimpleQueue()
        # Held while a task starts, ends, blocks or resumes, and while the thread is detached.
        self._state_lock = threading.Lock()
        self._loop_context, thread_context = contextvars.copy_context(), contextvars.copy_context()
        threading.Thread(target=thread_context.run, args=(self._serve,), name="actorhub-tasks", daemon=True).start()

    @property
    def is_blocked(self) -> bool:
        return self.blocked_on is not None

    def put(self, batch: deque[Request]) -> None:
        """Run this batch. Only for a new thread, or one that has called `on_idle`."""
        self._batches.put(batch)

    def close(self) -> None:
        """Call the owner no more. The thread ends after the task that it runs."""
        with self._state_lock:
            self._mailbox.close()
        self._batches.put(None)

    def detach(self, running: RunningTask) -> list[CompletedTask] | None:
        """Close the thread while it runs this task, and cancel the future on which the task blocks, if it does.

        Returns the completed tasks that the owner has not been told of; None if `running` has ended meanwhile, and the
        thread goes on as it was.
        """
        with self._state_lock:
            if self.running is not running:
                return None
            self._mailbox.close()
            if self.blocked_on is not None:
                self.blocked_on.cancel()
        self._batches.put(None)
        return list(self._mailbox.take_all())

    # ---- in the thread

    @contextmanager
    def yield_turn(self, future: Future[Any]) -> Generator[None]:
        """Let other threads run tasks while the running task blocks on this future.

        Raises:
            asyncio.CancelledError: the thread was detached, before or meanwhile.
        """
        self._set_blocked_on(future)
        try:
            yield
        finally:
            self._set_blocked_on(None)

    def _set_blocked_on(self, future: Future[Any] | None) -> None:
        with self._state_lock:
            if self._mailbox.is_closed:
                raise asyncio.CancelledError("the task was ended while it waited")
            self.blocked_on = future
        # Without the context variables of the task.
        self._mailbox.call_on_loop(lambda: self._owner.on_block_changed(self), self._loop_context)

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            while (running := self._start_next(batch)) is not None:
                self._run(running, is_last=not batch)
            self._mailbox.call_on_loop(self._on_batch_done)

    def _start_next(self, batch: deque[Request]) -> RunningTask | None:
        with self._state_lock:
            if self._mailbox.is_closed:
                return None
            try:
                request = batch.popleft()
            except IndexError:
                return None
            self.running = RunningTask(request, time.monotonic())
            return self.running

    def _run(self, running: RunningTask, *, is_last: bool) -> None:
        outcome: Reply | BaseException
        try:
            outcome = self._invoke(running.request, self.yield_turn)
        except BaseException as exc:
            outcome = exc
        with self._state_lock:
            self.running = None
            if self._mailbox.is_closed:
                return
            self._mailbox.put((running.request, outcome, time.monotonic() - running.started))
        if not is_last:  # the last outcome is delivered together with the end of the batch
            self._mailbox.wake_loop()

    # ---- on the event loop

    def _on_batch_done(self) -> None:
        """Start a waiting batch before the replies of this one are sent; if none waits, send the replies first."""
        if self._owner.has_waiting_batch and not self._mailbox.is_closed:
            self._take_next_batch_then_report()
        else:
            self._report_then_take_next_batch()

    def _take_next_batch_then_report(self) -> None:
        completed = self._mailbox.take_all()
        self._become_idle()
        self._loop.call_soon(self._report, completed)

    def _report_then_take_next_batch(self) -> None:
        self._mailbox.deliver()
        self._loop.call_soon(self._become_idle)

    def _report(self, completed: Iterable[CompletedTask]) -> None:
        """Also if the thread was closed meanwhile: these outcomes are in no mailbox any more."""
        for request, outcome, ran in completed:
            self._owner.on_completed(request, outcome, ran)

    def _become_idle(self) -> None:
        if not self._mailbox.is_closed:
            self._owner.on_idle(self)


class LoopMailbox:
    """Completed tasks on their way from one thread to the event loop, in order.

    The thread calls `put`, `wake_loop` and `call_on_loop`; the event loop calls `deliver` and `take_all`; both may call
    `close`. No lock is needed: the thread puts before it tests the wake-up flag, and the loop clears the flag before it reads.
    So one wake-up serves all that was put before the loop came to it, and nothing that was put stays behind.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_completed: OnCompleted) -> None:
        self.is_closed = False
        self._loop = loop
        self._on_completed = on_completed
        self._completed: deque[CompletedTask] = deque()
        self._has_woken_loop = False

    def close(self) -> None:
        """Deliver nothing more."""
        self.is_closed = True

    def put(self, completed: CompletedTask) -> None:
        self._completed.append(completed)

    def wake_loop(self) -> None:
        """Have the event loop deliver what was put, unless it was woken for that already."""
        if not self._has_woken_loop:
            self._has_woken_loop = True
            self.call_on_loop(self.deliver)

    def call_on_loop(self, callback: Callable[[], None], context: contextvars.Context | None = None) -> None:
        """Call this on the event loop, in this context or in a copy of the thread's; close it if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:  # the process ends
            self.close()

    def deliver(self) -> None:
        self._has_woken_loop = False
        while self._completed and not self.is_closed:
            self._on_completed(*self._completed.popleft())

    def take_all(self) -> Iterable[CompletedTask]:
        """Take what was put and not delivered. Only while the thread puts nothing: it is idle, or the mailbox is closed."""
        completed, self._completed = self._completed, deque()
        return completed
