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
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actorhub.actor import binder
from actorhub.admission import Admission
from actorhub.blackbox import BlackBox
from actorhub.broker import Delivery, Message
from actorhub.chunks import CONCURRENT, SPLIT_AFTER
from actorhub.context import Handling, Surroundings, surroundings
from actorhub.depot import Depot
from actorhub.envelope import Codec, Hop, Kind, Parcel, decode
from actorhub.errors import (
    ActorHubError,
    BrokerUnavailable,
    CallCancelled,
    CallTimeout,
    InvalidArguments,
    InvalidEnvelope,
)
from actorhub.intake import Intake, Shift
from actorhub.outflow import Outflow
from actorhub.ref import Residence, residence
from actorhub.runner import Current, Runner
from actorhub.session import HEADER_ROOM, Session
from actorhub.settle import Settling
from actorhub.task import TaskSpec
from actorhub.work import Answer, Receipt, Work, from_stranger, key_of_stranger

log = logging.getLogger(__name__)

HEARING = 1.0  # seconds for which the agent is waited for
SETTLING = 2.0  # seconds that a slot which ends gives the broker to confirm what became of its tasks
LEAVING = 5.0  # seconds after which a slot that is to leave does so, whatever the broker says


@dataclass(eq=False)
class Batch:
    """The `def` tasks of one message that were not begun yet, at the right end of which the rest may be taken away."""

    works: deque[Work]
    intake: Intake
    delivery: Delivery
    shift: Shift
    whole: bool  # no task of the message has been begun or settled


Deaths = Callable[[list[str]], Awaitable[dict[str, int]]]
"""Which of these tasks, by their keys, have killed workers of this node, and how often."""


class Slot:
    """`leave` ends the process, the only way to end a `def` task; where there is none, it runs on, and nobody hears of it."""

    def __init__(
        self, session: Session, blackbox: BlackBox, node: str, *, deaths: Deaths, leave: Callable[[], None] | None
    ) -> None:
        self.done = 0
        self._session = session
        self._blackbox = blackbox
        self._admission = Admission(session.signer, node)
        self._deaths = deaths
        self._leave = leave
        self._depot = Depot.of(session)
        self._settling = Settling(session)
        self._intakes: dict[str, Intake] = {}
        self._batches: deque[Batch] = deque()
        self._running: Batch | None = None
        self._runner: Runner | None = None
        self._tasks: dict[Work, asyncio.Task[None]] = {}
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
                intake = self._intakes[queue] = Intake(self._session, queue, self._on_delivery, self._on_lost)
                link = self._session.link
                try:
                    await intake.open()
                except BrokerUnavailable as exc:  # it is set up again on the next link, and so are those after it
                    if link is not None:
                        self._session.renew(link, f"{queue} could not be consumed: {exc}")

    async def stop(self, patience: float) -> None:
        """Give back what was not begun; let what was begun end, for `patience` seconds."""
        self._stopping = True
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        self._give_back()
        until = self._session.loop.time() + patience
        while self.busy and self._session.loop.time() < until:
            await asyncio.sleep(0.01)
        await self._settling.settled(SETTLING)
        if self._runner is not None:
            self._runner.leave()
        if self._watch is not None:
            self._watch.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLING):
                await asyncio.gather(*(intake.end() for intake in self._intakes.values()))

    @property
    def busy(self) -> bool:
        return self._running is not None or bool(self._tasks)

    # ---- what every slot is told

    def cancel(self, call_id: str) -> None:
        """Nobody waits for the task any more: it is not run, and is ended where it runs."""
        self._admission.cancel(call_id)
        current = self._runner.current if self._runner is not None else None
        if current is not None and current.work.key == call_id:
            self._abandon(current, CallCancelled(f"{current.work.envelope.method} was cancelled while it ran"))
        for work, task in self._tasks.items():
            if work.key == call_id:
                task.cancel()

    def died(self, call_id: str, times: int) -> None:
        """So many workers have died while they ran the task."""
        self._admission.died(call_id, times)

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
        works = [self._work(parcel, message, receipt, intake.queue) for parcel in parcels]
        if delivery.redelivered:
            self._session.spawn_task(self._hear_first(works, intake, delivery, shift), "actorhub-deaths")
        else:
            self._take(works, intake, delivery, shift)

    def _work(self, parcel: Parcel, message: Message, receipt: Receipt, queue: str) -> Work:
        envelope, payload = parcel
        foreign, key = None, envelope.id
        if not envelope.sender:
            key = key_of_stranger(envelope, message)
            envelope, foreign = from_stranger(envelope, message)
        return Work(envelope, payload, receipt, self._settling.answer, foreign, queue=queue, key=key)

    async def _hear_first(self, works: list[Work], intake: Intake, delivery: Delivery, shift: Shift) -> None:
        """Others had it in hand. The agent knows whether they died of it, a moment before everybody hears."""
        try:
            async with asyncio.timeout(HEARING):
                for key, times in (await self._deaths([work.key for work in works])).items():
                    self.died(key, times)
        except (TimeoutError, ActorHubError):
            log.debug("the agent does not say of what its slots died", exc_info=True)
        if self._stopping and not shift.lost:
            delivery.reject(requeue=True)
            shift.acked()
        elif not shift.lost:
            self._take(works, intake, delivery, shift)

    def _take(self, works: list[Work], intake: Intake, delivery: Delivery, shift: Shift) -> None:
        batch = Batch(deque(), intake, delivery, shift, whole=True)
        for work in works:
            self._sort(work, batch)
        if len(batch.works) < len(works):
            batch.whole = False
        if batch.works:
            self._batches.append(batch)
            self._next()

    def _on_lost(self) -> None:
        """The broker gives to others what was not begun."""
        self._batches = deque(batch for batch in self._batches if not batch.shift.lost)
        if self._running is not None and self._running.shift.lost:
            self._running.works.clear()

    def _sort(self, work: Work, batch: Batch) -> None:
        """To the thread, to the event loop, or away."""
        try:
            spec = self._admission.admit(work)
        except Exception as exc:
            self._settling.fail(work, None, exc, 0.0)
            return
        if spec.signature.kind == "sync":
            batch.works.append(work)
        else:
            batch.intake.widen()
            task = self._session.loop.create_task(self._run_async(work, spec))
            self._tasks[work] = task
            task.add_done_callback(lambda _: self._tasks.pop(work, None))

    # ---- running in the thread

    def _next(self) -> None:
        """Give the thread the next message's tasks."""
        runner = self._runner
        if runner is None or runner.busy or self._stopping:
            return
        if self._batches:
            batch = self._running = self._batches.popleft()
            self._batch_began = time.monotonic()
            self._watch = self._session.loop.call_later(self._soonest(batch), self._look)
            runner.put(batch.works)

    def _run(self, work: Work) -> Answer:
        """In the thread: decode, call, pack."""
        envelope = work.envelope
        spec = self._admission.admit(work)
        slot = self._blackbox.enter("task", work.key, envelope.method)
        self._enter(work)
        try:
            args, kwargs = self._arguments(work, spec)
            value = spec.function(*args, **kwargs)
            packed = spec.signature.pack_small_result(value, self._session.signer, self._limit(work))
            payload, codec = packed if isinstance(packed, tuple) else self._depot.keep_result(packed)
            self._session.check_size(payload)
        finally:
            self._blackbox.leave(slot)
        return Answer({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    def _arguments(self, work: Work, spec: TaskSpec) -> tuple[list[Any], dict[str, Any]]:
        envelope, signer = work.envelope, self._session.signer
        if envelope.codec is not Codec.STORED:
            return spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
        return spec.signature.accept(self._depot.fill_in_thread(signer.loads(work.payload)), alone=envelope.alone)

    def _limit(self, work: Work) -> int | None:
        """Bytes up to which a result travels; None where it always does. What another task goes on with stays with the broker,
        if that can take it, for it must survive this node. Other languages cannot read what is in a store."""
        envelope, link = work.envelope, self._session.link
        if work.foreign is not None:
            return None
        if link is None or not (envelope.then or envelope.into):
            return self._session.settings.inline_limit
        together = 1 if envelope.into is None else 2 * envelope.into.count  # in one message, and encoded anew
        return (link.max_message - HEADER_ROOM) // together

    def _ended(self, work: Work, outcome: Answer | BaseException, took: float) -> None:
        self.done += 1
        if isinstance(outcome, Answer):
            self._settling.succeed(work, outcome, took)
        else:
            self._settling.fail(work, self._admission.known(work), outcome, took)

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

    # ---- watching what runs in the thread

    def _soonest(self, batch: Batch) -> float:
        """Seconds until somebody should look whether it is late."""
        limits = [
            spec.options.timeout
            for work in batch.works
            if (spec := self._admission.known(work)) and spec.options.timeout
        ]
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
                late = CallTimeout(f"{current.work.envelope.method} was ended: it had run for {limit:.2f} s")
                if self._abandon(current, late):
                    return
        self._watch = self._session.loop.call_later(SPLIT_AFTER, self._look)

    def _until(self, work: Work, began: float) -> float | None:
        """Monotonic time at which an attempt that began then is late."""
        spec = self._admission.known(work)
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

    def _abandon(self, current: Current, error: ActorHubError) -> bool:
        """The task in the thread shall end: settle it for it, and leave the process or the thread. False where it has ended."""
        runner, batch = self._runner, self._running
        assert runner is not None
        ended = runner.abandon(current)
        if ended is None:
            return False
        self._running = None
        for work, outcome, took in ended:
            self._ended(work, outcome, took)
        if self._watch is not None:
            self._watch.cancel()
        if batch is not None:
            self._send_back(batch)
        self._settling.fail(current.work, self._admission.known(current.work), error, time.monotonic() - current.began)
        if self._leave is None:
            log.warning("%s; it runs on in a thread; use Hub.local() or a node for tasks that can be ended", error)
            self._runner = Runner(self._run, self._ended, self._idle)
            self._go_on()
        else:
            self._stopping = True
            log.warning("%s; its worker ends, and another takes its place", error)
            self._session.spawn_task(self._leave_soon(self._leave), "actorhub-leave")
        return True

    async def _leave_soon(self, leave: Callable[[], None]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                await self.stop(0.0)
        leave()

    # ---- running on the event loop

    async def _run_async(self, work: Work, spec: TaskSpec) -> None:
        envelope = work.envelope
        self._enter(work)
        slot = self._blackbox.enter("task", work.key, envelope.method)
        began = time.monotonic()
        limit = self._until(work, began)
        scope = asyncio.timeout(None if limit is None else max(0.0, limit - began))
        try:
            async with scope:
                answer = await self._answer(work, spec)
        except asyncio.CancelledError as exc:
            if self._admission.is_cancelled(work):
                self._settling.fail(work, spec, CallCancelled(f"{envelope.method} was cancelled while it ran"), 0.0)
            elif not _is_being_cancelled():
                self._settling.fail(work, spec, exc, time.monotonic() - began)  # its own: of something that it awaited
            # else the slot ends: the message goes back
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
        if envelope.codec is Codec.STORED:
            given = await self._depot.fill(signer.loads(work.payload))
            args, kwargs = spec.signature.accept(given, alone=envelope.alone)
        else:
            args, kwargs = spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
        if spec.signature.is_generator:
            if envelope.kind is not Kind.STREAM:
                raise InvalidArguments(f"{envelope.method} streams; submit it as `async for item in hub.submit(...)`")
            count = await Outflow(self._session, envelope, spec.signature).send_all(spec.function(*args, **kwargs))
            return Answer({"kind": Kind.REPLY, "call": envelope.id, "index": count}, b"null")
        value = await spec.function(*args, **kwargs)
        packed = spec.signature.pack_small_result(value, signer, self._limit(work))
        if not isinstance(packed, tuple):
            packed = await asyncio.to_thread(self._depot.keep_result, packed)
        payload, codec = packed
        self._session.check_size(payload)
        return Answer({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    def _enter(self, work: Work) -> None:
        """What the task's code finds around it."""
        envelope = work.envelope
        binder.set(self._session)
        residence.set(Residence(None, self._session, self._session.names.namespace_of(work.queue)))
        hop = Hop(actor=f"task {envelope.method}", call=envelope.id)
        handling = Handling(hop.actor, envelope.id)
        surroundings.set(Surroundings(envelope.deadline, (*envelope.chain, hop), False, handling))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
