"""Runs tasks: one `def` task at a time, or many `async def` ones.

The acknowledgement policy: a task is done when the broker has confirmed its answer, its next attempt, what goes on with its
result, or its dead letter. A message is acknowledged when all tasks of its chunk are done. A slot that dies costs the attempts
that it had begun; the broker gives its messages to others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from actorhub.actor import binder
from actorhub.blackbox import BlackBox
from actorhub.broker import Delivery
from actorhub.chunks import CONCURRENT, SPLIT_AFTER
from actorhub.context import Handling, Surroundings, surroundings
from actorhub.envelope import Envelope, Hop, Kind, decode
from actorhub.errors import (
    ActorHubError,
    CallCancelled,
    CallTimeout,
    InvalidArguments,
    InvalidEnvelope,
    TaskNotFound,
    WorkerDied,
)
from actorhub.intake import Intake, Shift
from actorhub.outflow import Outflow
from actorhub.ref import Residence, residence
from actorhub.remembered import Remembered
from actorhub.runner import Runner
from actorhub.session import Session
from actorhub.settle import Settling
from actorhub.task import TaskSpec, tasks
from actorhub.work import Answer, Receipt, Work, from_stranger

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Batch:
    """The `def` tasks of one message that were not begun yet, at the right end of which the rest may be taken away."""

    works: deque[Work]
    intake: Intake
    delivery: Delivery
    shift: Shift
    whole: bool  # no task of the message has been begun or settled


class Slot:
    """`leave` ends the process, the only way to end a `def` task; where there is none, it runs on, and nobody hears of it."""

    def __init__(self, session: Session, blackbox: BlackBox, node: str, *, leave: Callable[[], None] | None) -> None:
        self.done = 0
        self._session = session
        self._blackbox = blackbox
        self._node = node
        self._leave = leave
        self._settling = Settling(session)
        self._intakes: dict[str, Intake] = {}
        self._batches: deque[Batch] = deque()
        self._running: Batch | None = None
        self._runner: Runner | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: Remembered[str, bool] = Remembered()
        self._deaths: Remembered[str, int] = Remembered()
        self._specs: Remembered[bytes, TaskSpec] = Remembered()  # of functions that came by value
        self._watch: asyncio.TimerHandle | None = None
        self._stopping = False
        self._batch_began = 0.0

    # ---- life

    def start(self) -> None:
        self._runner = Runner(self._run, self._ended, self._idle)

    async def serve(self, queues: Iterable[str]) -> None:
        """Take tasks of these queues, too."""
        for queue in queues:
            if queue not in self._intakes and not self._stopping:
                intake = self._intakes[queue] = Intake(self._session, queue, self._on_delivery)
                await intake.open()

    async def stop(self, patience: float) -> None:
        """Give back what was not begun; let what was begun end, for `patience` seconds."""
        self._stopping = True
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        self._give_back()
        until = self._session.loop.time() + patience
        while self.busy and self._session.loop.time() < until:
            await asyncio.sleep(0.01)
        await self._settling.settled(2.0)
        if self._runner is not None:
            self._runner.abandon()
        if self._watch is not None:
            self._watch.cancel()

    @property
    def busy(self) -> bool:
        return self._running is not None or bool(self._tasks)

    # ---- what every slot is told

    def cancel(self, call_id: str) -> None:
        """Nobody waits for the task any more: it is not run, and is ended where it runs."""
        self._cancelled[call_id] = True
        current = self._runner.current if self._runner is not None else None
        if current is not None and current.work.envelope.id == call_id:
            self._abandon(CallCancelled(f"{current.work.envelope.method} was cancelled while it ran"))
        elif call_id in self._tasks:
            self._tasks[call_id].cancel()

    def died(self, call_id: str, times: int = 1) -> None:
        """Workers died while they ran the task."""
        self._deaths[call_id] = self._deaths.get(call_id, 0) + times

    # ---- taking

    def _on_delivery(self, intake: Intake, delivery: Delivery, shift: Shift) -> None:
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            log.warning("a message in %s is no task and is kept as dead: %s", intake.queue, exc)
            self._settling.malformed(intake.queue, message, exc, Receipt(delivery, 1, shift.acked))
            return
        receipt = Receipt(delivery, len(parcels), shift.acked)
        batch = Batch(deque(), intake, delivery, shift, whole=True)
        for envelope, payload in parcels:
            foreign = None
            if not envelope.sender:
                envelope, foreign = from_stranger(envelope, message)
            work = Work(envelope, payload, receipt, self._settling.answer, foreign, queue=intake.queue)
            self._sort(work, batch)
        if len(batch.works) < len(parcels):
            batch.whole = False
        if batch.works:
            self._batches.append(batch)
            self._next()

    def _sort(self, work: Work, batch: Batch) -> None:
        """To the thread, to the event loop, or away."""
        try:
            spec = self._admit(work.envelope)
        except (ActorHubError, ValueError) as exc:
            self._settling.fail(work, None, exc, 0.0)
            return
        if spec.signature.kind == "sync":
            batch.works.append(work)
        else:
            batch.intake.widen()
            task = self._session.loop.create_task(self._run_async(work, spec))
            self._tasks[work.envelope.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(work.envelope.id, None))

    def _admit(self, envelope: Envelope) -> TaskSpec:
        """Raises:
        CallCancelled, CallTimeout, WorkerDied, TaskNotFound, UntrustedPayload: it is not run.
        """
        if envelope.deadline is not None and envelope.deadline <= time.time():
            raise CallTimeout(f"{envelope.method} came after its deadline and was not run")
        if envelope.id in self._cancelled:
            raise CallCancelled(f"{envelope.method} was cancelled before it began")
        spec = self._spec(envelope)
        deaths = self._deaths.get(envelope.id, 0)
        if deaths > spec.options.max_redeliveries:
            raise WorkerDied(
                f"{envelope.method} (task {envelope.id}) killed its worker {deaths} times and is not run again"
            )
        return spec

    def _spec(self, envelope: Envelope) -> TaskSpec:
        if envelope.code is None:
            spec = tasks.get(envelope.method)
            if spec is None:
                module = envelope.method.partition(":")[0]
                raise TaskNotFound(
                    f"no task {envelope.method!r} is registered on node {self._node}; start it with `actorhub node {module}`"
                )
            return spec
        found = self._specs.get(envelope.code)
        if found is None:
            found = self._specs[envelope.code] = self._session.signer.loads(envelope.code)
        if not isinstance(found, TaskSpec):
            raise InvalidArguments(f"{envelope.method}: its code holds a {type(found).__name__}, and no task")
        return found

    # ---- running in the thread

    def _next(self) -> None:
        """Give the thread the next message's tasks."""
        runner = self._runner
        if runner is None or runner.busy or self._stopping:
            return
        while self._batches:
            batch = self._batches.popleft()
            if batch.shift.lost:
                continue
            self._running = batch
            self._batch_began = time.monotonic()
            self._watch = self._session.loop.call_later(self._soonest(batch), self._look)
            runner.put(batch.works)
            return

    def _run(self, work: Work) -> Answer:
        """In the thread: decode, call, pack."""
        envelope = work.envelope
        spec = self._admit(envelope)
        slot = self._blackbox.enter("task", envelope.id, envelope.method)
        self._enter(work)
        try:
            signer = self._session.signer
            args, kwargs = spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
            value = spec.function(*args, **kwargs)
            payload, codec = spec.signature.pack_result(value, signer)
        finally:
            self._blackbox.leave(slot)
        return Answer({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    def _ended(self, work: Work, outcome: Answer | BaseException, took: float) -> None:
        self.done += 1
        if isinstance(outcome, Answer):
            self._settling.succeed(work, outcome, took)
        else:
            self._settling.fail(work, self._known(work), outcome, took)

    def _idle(self) -> None:
        batch, self._running = self._running, None
        if self._watch is not None:
            self._watch.cancel()
        if batch is not None:
            batch.intake.measured(time.monotonic() - self._batch_began)
        self._go_on()

    def _go_on(self) -> None:
        if not self._stopping:
            for intake in self._intakes.values():
                intake.resume()
        self._next()

    def _known(self, work: Work) -> TaskSpec | None:
        try:
            return self._spec(work.envelope)
        except ActorHubError:
            return None

    # ---- watching what runs in the thread

    def _soonest(self, batch: Batch) -> float:
        """Seconds until somebody should look whether it is late."""
        limits = [spec.options.timeout for work in batch.works if (spec := self._known(work)) and spec.options.timeout]
        return min([SPLIT_AFTER, *limits])

    def _look(self) -> None:
        """What runs takes long: others shall not wait behind it, and it may be late itself."""
        runner = self._runner
        assert runner is not None
        current = runner.current
        if time.monotonic() - self._batch_began >= SPLIT_AFTER:
            self._let_others_do_the_rest()
        if current is not None:
            until = self._until(current.work, current.began)
            if until is not None and until <= time.monotonic():
                limit = time.monotonic() - current.began
                self._abandon(CallTimeout(f"{current.work.envelope.method} was ended: it had run for {limit:.2f} s"))
                return
        self._watch = self._session.loop.call_later(SPLIT_AFTER, self._look)

    def _until(self, work: Work, began: float) -> float | None:
        """Monotonic time at which an attempt that began then is late."""
        spec = self._known(work)
        limits = [began + spec.options.timeout] if spec is not None and spec.options.timeout is not None else []
        if work.envelope.deadline is not None:
            limits.append(time.monotonic() + work.envelope.deadline - time.time())
        return min(limits, default=None)

    def _let_others_do_the_rest(self) -> None:
        batch = self._running
        if batch is not None:
            batch.whole = False
            self._send_back(batch)
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

    def _send_back(self, batch: Batch) -> None:
        """What is left of a chunk goes back to the queue, each task by itself."""
        while batch.works:
            try:
                work = batch.works.pop()
            except IndexError:  # the thread has just taken the last one
                return
            self._settling.send_back(work)

    def _abandon(self, error: ActorHubError | None) -> None:
        """The task in the thread shall end: settle it for it, and leave the process, or the thread."""
        runner, batch = self._runner, self._running
        current = runner.current if runner is not None else None
        if runner is None or batch is None or current is None:
            return
        self._running = None
        for work, outcome, took in runner.abandon():
            self._ended(work, outcome, took)
            if work is current.work:  # it was quicker
                error = None
        if self._watch is not None:
            self._watch.cancel()
        self._send_back(batch)
        if error is not None:
            self._settling.fail(current.work, self._known(current.work), error, time.monotonic() - current.began)
        if self._leave is None:
            log.warning("%s; it runs on in a thread; use Hub.local() or a node for tasks that can be ended", error)
            self._runner = Runner(self._run, self._ended, self._idle)
            self._go_on()
        else:
            self._stopping = True
            log.warning("%s; its worker ends, and another takes its place", error)
            self._session.spawn_task(self._leave_soon(self._leave), "actorhub-leave")

    async def _leave_soon(self, leave: Callable[[], None]) -> None:
        await self.stop(0.0)
        leave()

    # ---- running on the event loop

    async def _run_async(self, work: Work, spec: TaskSpec) -> None:
        envelope = work.envelope
        self._enter(work)
        slot = self._blackbox.enter("task", envelope.id, envelope.method)
        began = time.monotonic()
        limit = self._until(work, began)
        scope = asyncio.timeout(None if limit is None else max(0.0, limit - began))
        try:
            async with scope:
                answer = await self._answer(work, spec)
        except asyncio.CancelledError:
            if envelope.id not in self._cancelled:
                return  # the slot ends: the message goes back
            self._settling.fail(work, spec, CallCancelled(f"{envelope.method} was cancelled while it ran"), 0.0)
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            ran = time.monotonic() - began
            late = CallTimeout(f"{envelope.method} was ended: it had run for {ran:.2f} s")
            self._settling.fail(work, spec, late if scope.expired() else exc, ran)
        else:
            self._settling.succeed(work, answer, (time.monotonic() - began) / CONCURRENT)
        finally:
            self.done += 1
            self._blackbox.leave(slot)

    async def _answer(self, work: Work, spec: TaskSpec) -> Answer:
        envelope, signer = work.envelope, self._session.signer
        args, kwargs = spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
        if spec.signature.is_generator:
            if envelope.kind is not Kind.STREAM:
                raise InvalidArguments(f"{envelope.method} streams; submit it as `async for item in hub.submit(...)`")
            count = await Outflow(self._session, envelope, spec.signature).send_all(spec.function(*args, **kwargs))
            return Answer({"kind": Kind.REPLY, "call": envelope.id, "index": count}, b"null")
        value = await spec.function(*args, **kwargs)
        payload, codec = spec.signature.pack_result(value, signer)
        return Answer({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    def _enter(self, work: Work) -> None:
        """What the task's code finds around it."""
        envelope = work.envelope
        binder.set(self._session)
        residence.set(Residence(None, self._session, self._session.names.namespace_of(work.queue)))
        hop = Hop(actor=f"task {envelope.method}", call=envelope.id)
        handling = Handling(hop.actor, envelope.id)
        surroundings.set(Surroundings(envelope.deadline, (*envelope.chain, hop), False, handling))
