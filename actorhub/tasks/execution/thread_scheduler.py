"""The threads of a slot, and the `def` tasks that wait for them.

One task has the turn at a time. While it waits for others it lends its turn, and another thread takes what comes next: so a
task may wait for tasks, to any depth, in a single slot. When its wait ends it goes on at once, beside the one that has the turn
then.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from actorhub.broker import Delivery
from actorhub.errors import ActorHubError, CallCancelled, CallTimeout
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.tasks.chunking import SPLIT_AFTER
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.tasks.execution.consumer import ConsumerGeneration, TaskConsumer
from actorhub.tasks.execution.invocation import AdmissionControl, TaskInvoker
from actorhub.tasks.execution.task_thread import Ended, RunningTask, TaskThread

log = logging.getLogger(__name__)

SEEN = 0.5  # seconds after which at the latest a task that waits is looked at again
UNWINDING = 2.0  # seconds that a task has to end after its wait was cancelled


@dataclass(eq=False)
class TaskBatch:
    """The `def` tasks of one message that were not begun yet, at the right end of which the rest may be taken away."""

    works: deque[Request]
    intake: TaskConsumer
    delivery: Delivery
    shift: ConsumerGeneration
    whole: bool  # no task of the message has been begun or settled

    @property
    def priority(self) -> int:
        """Tasks of one message have the same."""
        return self.works[0].envelope.priority if self.works else 0


class RunningBatch:
    """A thread, and the batch that it runs. `since`: when it last went on; `worked`: the seconds before that."""

    def __init__(self, runner: TaskThread, batch: TaskBatch) -> None:
        self.runner = runner
        self.batch = batch
        self.since = time.monotonic()
        self.worked = 0.0
        self.lent = False
        self.watch: Callable[[], None] = lambda: None

    def turn(self, *, lent: bool) -> None:
        """Its task waits from now on, or goes on."""
        if lent != self.lent:
            self.lent = lent
            self.batch.intake.waiting += 1 if lent else -1
            self.worked += time.monotonic() - self.since if lent else 0.0
            self.since = time.monotonic()


class ThreadScheduler:
    """`leave` is called, once, where a task must be ended that can be only with its process; None where there is no process to
    end: such a task runs on, and nobody hears of it."""

    def __init__(
        self,
        session: Session,
        admission: AdmissionControl,
        attempts: TaskInvoker,
        settling: CompletionHandler,
        intakes: dict[str, TaskConsumer],
        *,
        on_ended: Ended,
        leave: Callable[[], None] | None,
    ) -> None:
        self._session = session
        self._admission = admission
        self._attempts = attempts
        self._settling = settling
        self._intakes = intakes
        self._on_ended = on_ended
        self._leave = leave
        self._batches: deque[TaskBatch] = deque()
        self._are_ranked = False  # there may be one of a higher priority than others among them
        self._turns: dict[TaskThread, RunningBatch] = {}
        self._spare: TaskThread | None = None
        self._context = contextvars.copy_context()
        self._stopping = False

    @property
    def busy(self) -> bool:
        return bool(self._turns)

    def stop(self) -> None:
        """Begin nothing more, and give back what was not begun."""
        self._stopping = True
        self._give_back()

    def end(self) -> None:
        """Hear nothing more of what runs."""
        for turn in self._turns.values():
            turn.watch()
            turn.runner.leave()
        if self._spare is not None:
            self._spare.leave()

    # ---- what there is to do

    def take(self, batch: TaskBatch) -> None:
        self._batches.append(batch)
        self._are_ranked = self._are_ranked or batch.priority > 0
        self._next()

    def lost(self) -> None:
        """The broker gives to others what was not begun."""
        self._batches = deque(batch for batch in self._batches if not batch.shift.lost)
        for turn in self._turns.values():
            if turn.batch.shift.lost:
                turn.batch.works.clear()

    def cancel(self, call_id: str) -> None:
        """End the task where it runs."""
        for turn in list(self._turns.values()):
            current = turn.runner.current
            if current is not None and current.work.key == call_id:
                error = CallCancelled(f"{current.work.envelope.method} was cancelled while it ran")
                self._detach(turn, current, error)

    # ---- turns

    @property
    def _is_free(self) -> bool:
        return not self._stopping and all(turn.runner.waits is not None for turn in self._turns.values())

    def _next(self) -> None:
        """Give a thread the next message's tasks, where no task has the turn."""
        if not self._batches or not self._is_free:
            return
        runner, self._spare = self._spare, None
        try:
            runner = runner or self._context.copy().run(self._make_runner)
        except RuntimeError as exc:
            log.warning("a task waits for the end of others, %d of which wait: %s", len(self._turns), exc)
            return
        turn = self._turns[runner] = RunningBatch(runner, self._take_next())
        self._watch(turn, self._soonest(turn.batch))
        runner.put(turn.batch.works)

    def _take_next(self) -> TaskBatch:
        """The first of the highest priority, whichever queue it is from."""
        if not self._are_ranked:
            return self._batches.popleft()
        batch = max(self._batches, key=lambda batch: batch.priority)
        self._batches.remove(batch)
        self._are_ranked = any(batch.priority for batch in self._batches)
        return batch

    def _make_runner(self) -> TaskThread:
        return TaskThread(self._run, self._on_ended, self._idle, self._turned, lambda: bool(self._batches))

    def _run(self, work: Request, runner: TaskThread) -> Reply:
        return self._attempts.run(work, runner.yield_turn)

    def _idle(self, runner: TaskThread) -> None:
        """Its batch is through."""
        turn = self._end_turn(runner)
        turn.batch.intake.measured(turn.worked + time.monotonic() - turn.since)
        if self._spare is None and not self._stopping:
            self._spare = runner
        else:
            runner.leave()
        self._go_on()

    def _end_turn(self, runner: TaskThread) -> RunningBatch:
        turn = self._turns.pop(runner)
        turn.turn(lent=False)
        turn.watch()
        return turn

    def _turned(self, runner: TaskThread) -> None:
        """Its task has begun to wait, or goes on. While it waits, all that would wait behind it has the turn."""
        turn = self._turns.get(runner)
        if turn is None:
            return
        turn.turn(lent=runner.waits is not None)
        self._watch(turn, SPLIT_AFTER)
        if turn.lent:
            rest = deque[Request]()
            while (work := _last(turn.batch.works)) is not None:
                rest.appendleft(work)
            if rest:
                batch = turn.batch
                left = TaskBatch(rest, batch.intake, batch.delivery, batch.shift, whole=False)
                self._batches.appendleft(left)
                self._are_ranked = self._are_ranked or left.priority > 0
            turn.batch.whole = False
            self._go_on()

    def _go_on(self) -> None:
        if self._is_free:
            for intake in self._intakes.values():
                intake.resume()
                if not self._batches:
                    intake.make_room()
        if self._stopping:
            self._give_back()
        self._next()

    # ---- watching what runs

    def _watch(self, turn: RunningBatch, seconds: float) -> None:
        turn.watch()
        turn.watch = self._session.loop.call_later(seconds, partial(self._look, turn)).cancel

    def _soonest(self, batch: TaskBatch) -> float:
        """Seconds until somebody should look whether it is late."""
        limits = [
            spec.options.timeout
            for work in batch.works
            if (spec := self._admission.known(work)) and spec.options.timeout
        ]
        return min([SPLIT_AFTER, *limits])

    def _look(self, turn: RunningBatch) -> None:
        """What runs takes long: others shall not wait behind it, and it may be late itself."""
        now, pause = time.monotonic(), SPLIT_AFTER
        if turn.runner.waits is not None:
            pause = SEEN
        elif now - turn.since >= SPLIT_AFTER:
            self._let_others_do_the_rest(turn)
        current = turn.runner.current
        until = self._attempts.until(current.work, current.began) if current is not None else None
        if current is not None and until is not None:
            if until <= now:
                late = CallTimeout(
                    f"{current.work.envelope.method} was ended: it had run for {now - current.began:.2f} s"
                )
                if self._detach(turn, current, late):
                    return
            else:
                pause = min(pause, max(SPLIT_AFTER, until - now))
        self._watch(turn, pause)

    def _let_others_do_the_rest(self, turn: RunningBatch) -> None:
        turn.batch.whole = False
        self._send_back(turn.batch)
        for intake in self._intakes.values():
            if intake.may_deliver or any(waiting.intake is intake for waiting in self._batches):
                intake.pause()
        self._give_back()

    def _give_back(self) -> None:
        """Messages that wait here go to others."""
        while self._batches:
            batch = self._batches.popleft()
            if batch.whole:
                batch.delivery.reject(requeue=True)
                batch.shift.acked()
            else:
                self._send_back(batch)

    def _send_back(self, batch: TaskBatch) -> None:
        """What is left of a chunk goes back to the queue, each task by itself."""
        while (work := _last(batch.works)) is not None:
            self._settling.send_back(work)

    def _detach(self, turn: RunningBatch, current: RunningTask, error: ActorHubError) -> bool:
        """The task shall end: settle it for it. Where it waits it is cancelled there; else it ends with the process. False
        where it has ended."""
        runner = turn.runner
        ended = runner.detach(current)
        if ended is None:
            return False
        self._end_turn(runner)
        for work, outcome, took in ended:
            self._on_ended(work, outcome, took)
        self._send_back(turn.batch)
        self._settling.fail(current.work, self._admission.known(current.work), error, time.monotonic() - current.began)
        if runner.waits is not None:
            self._session.loop.call_later(UNWINDING, self._leave_if_it_runs, runner, error)
        else:
            self._leave_now(error)
        self._go_on()
        return True

    def _leave_if_it_runs(self, runner: TaskThread, error: ActorHubError) -> None:
        if runner.current is not None:
            self._leave_now(error)

    def _leave_now(self, error: ActorHubError) -> None:
        if self._leave is None:
            log.warning("%s; it runs on in a thread; use Hub.local() or a node for tasks that can be ended", error)
        elif not self._stopping:
            self._stopping = True
            log.warning("%s; its worker ends, and another takes its place", error)
            self._leave()


def _last(works: deque[Request]) -> Request | None:
    """Take it; None where the thread has just taken the last one."""
    try:
        return works.pop()
    except IndexError:
        return None
