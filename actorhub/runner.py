"""The thread in which a slot runs its `def` tasks, one after the other."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from actorhub.work import Answer, Work


@dataclass(frozen=True, slots=True)
class Current:
    """The task that runs now. `began` is monotonic time."""

    work: Work
    began: float


Result = tuple[Work, Answer | BaseException, float]
Ended = Callable[[Work, Answer | BaseException, float], None]
"""Hears what became of a task, and how many seconds it ran."""


class Runner:
    """`run` runs one task in the thread; `on_ended` is called on the event loop for each, in order, and `on_idle` when a batch
    is through. What is left of a batch may be taken away meanwhile: the thread takes from its left end."""

    def __init__(self, run: Callable[[Work], Answer], on_ended: Ended, on_idle: Callable[[], None]) -> None:
        self.current: Current | None = None
        self.busy = False
        self._run = run
        self._on_ended = on_ended
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[deque[Work] | None] = queue.SimpleQueue()
        self._results: deque[Result] = deque()
        self._told = False
        self._abandoned = False
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._serve,), name="actorhub-tasks", daemon=True).start()

    def put(self, batch: deque[Work]) -> None:
        """Only when it is not busy."""
        self.busy = True
        self._batches.put(batch)

    def stop(self) -> None:
        """After what it runs."""
        self._batches.put(None)

    def abandon(self) -> list[Result]:
        """Nobody waits for what it runs, which cannot be ended; nothing more is heard of it. Returns what has ended already."""
        self._abandoned = True
        self.stop()
        ended, self._results = list(self._results), deque()
        return ended

    # ---- in the thread

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            while batch and not self._abandoned:
                try:
                    work = batch.popleft()
                except IndexError:  # the last one was taken away in this moment
                    break
                self._run_one(work, last=not batch)
            self._call(self._finished)

    def _run_one(self, work: Work, *, last: bool) -> None:
        began = time.monotonic()
        self.current = Current(work, began)
        outcome: Answer | BaseException
        try:
            outcome = self._run(work)
        except BaseException as exc:
            outcome = exc
        self.current = None
        self._results.append((work, outcome, time.monotonic() - began))
        if not last and not self._told:  # of the last one, the event loop hears together with the batch's end
            self._told = True
            self._call(self._hear)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process ends
            self._abandoned = True

    # ---- on the event loop

    def _hear(self) -> None:
        self._told = False
        while self._results and not self._abandoned:
            self._on_ended(*self._results.popleft())

    def _finished(self) -> None:
        self._hear()
        self.busy = False
        if not self._abandoned:
            self._on_idle()
