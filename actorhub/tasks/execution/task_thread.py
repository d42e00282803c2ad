"""A thread in which a slot runs `def` tasks, one after the other. One that waits can lend its turn to another thread's."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actorhub.messaging.request import Reply, Request


@dataclass(frozen=True, slots=True)
class RunningTask:
    """The task that runs now. `began` is monotonic time."""

    work: Request
    began: float


Result = tuple[Request, Reply | BaseException, float]
Ended = Callable[[Request, Reply | BaseException, float], None]
"""Hears what became of a task, and how many seconds it ran."""


class TaskThread:
    """`run` runs one task in the thread; `on_ended` is called on the event loop for each, in order, and `on_idle` when a batch
    is through. What is left of a batch may be taken away meanwhile: the thread takes from its left end. `on_turned` hears that
    a task has lent its turn (`waits`), or has gone on. `is_awaited`: whether a batch waits for a thread."""

    def __init__(
        self,
        run: Callable[[Request, TaskThread], Reply],
        on_ended: Ended,
        on_idle: Callable[[TaskThread], None],
        on_turned: Callable[[TaskThread], None],
        is_awaited: Callable[[], bool],
    ) -> None:
        self.current: RunningTask | None = None
        self.waits: Future[Any] | None = None
        self.busy = False
        self._run = run
        self._on_ended = on_ended
        self._on_idle = on_idle
        self._on_turned = on_turned
        self._is_awaited = is_awaited
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[deque[Request] | None] = queue.SimpleQueue()
        self._results: deque[Result] = deque()
        self._told = False
        self._left = False
        self._turning = threading.Lock()  # while a task begins, ends, or turns to wait
        self._outside, context = contextvars.copy_context(), contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._serve,), name="actorhub-tasks", daemon=True).start()

    def put(self, batch: deque[Request]) -> None:
        """Only when it is not busy."""
        self.busy = True
        self._batches.put(batch)

    def leave(self) -> None:
        """Nothing more is heard of it. The thread ends after what it runs."""
        with self._turning:
            self._left = True
        self._batches.put(None)

    def detach(self, current: RunningTask) -> list[Result] | None:
        """Leave it while it runs this, which can be ended only where it waits: there it is cancelled. Returns what has ended
        before and was not heard yet; None where `current` has ended meanwhile: then nothing was done."""
        with self._turning:
            if self.current is not current:
                return None
            self._left = True
            if self.waits is not None:
                self.waits.cancel()
        self._batches.put(None)
        return list(self._results)

    # ---- in the thread

    @contextmanager
    def yield_turn(self, wait: Future[Any]) -> Generator[None]:
        """While its task waits for this, others may run.

        Raises:
            asyncio.CancelledError: it has been abandoned, before or meanwhile.
        """
        self._turn(wait)
        try:
            yield
        finally:
            self._turn(None)

    def _turn(self, wait: Future[Any] | None) -> None:
        with self._turning:
            if self._left:
                raise asyncio.CancelledError("the task was ended while it waited")
            self.waits = wait
        self._call(lambda: self._on_turned(self), self._outside)

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            while (current := self._begin(batch)) is not None:
                self._run_one(current, last=not batch)
            self._call(self._finished)

    def _begin(self, batch: deque[Request]) -> RunningTask | None:
        with self._turning:
            if self._left:
                return None
            try:
                work = batch.popleft()
            except IndexError:
                return None
            self.current = RunningTask(work, time.monotonic())
            return self.current

    def _run_one(self, current: RunningTask, *, last: bool) -> None:
        outcome: Reply | BaseException
        try:
            outcome = self._run(current.work, self)
        except BaseException as exc:
            outcome = exc
        with self._turning:
            self.current = None
            if self._left:
                return
            self._results.append((current.work, outcome, time.monotonic() - current.began))
        if not last and not self._told:  # of the last one, the event loop hears together with the batch's end
            self._told = True
            self._call(self._hear)

    def _call(self, callback: Callable[[], None], context: contextvars.Context | None = None) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:  # the loop is closed: the process ends
            self._left = True

    # ---- on the event loop

    def _hear(self) -> None:
        self._told = False
        while self._results and not self._left:
            self._on_ended(*self._results.popleft())

    def _finished(self) -> None:
        """Where a batch waits, the thread goes on before the answers of this one are sent; else they leave first."""
        if self._is_awaited() and not self._left:
            ended, self._results = self._results, deque()  # the thread stands still
            self._rest()
            self._loop.call_soon(self._tell, ended)
        else:
            self._hear()
            self._loop.call_soon(self._rest)

    def _tell(self, ended: deque[Result]) -> None:
        """Also where nothing more is heard of the thread from now on."""
        for result in ended:
            self._on_ended(*result)

    def _rest(self) -> None:
        self.busy = False
        if not self._left:
            self._on_idle(self)
