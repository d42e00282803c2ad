"""Task slots of one node, shared and dedicated, and the watchdog that ends slots which cannot end a task themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container
from typing import Protocol, Unpack

from actorhub.actors.handle import tell
from actorhub.actors.service import stub
from actorhub.control_api.commands import StartSlot
from actorhub.control_api.events import SlotEnded
from actorhub.control_api.services import SlotService, TaskBroadcasts
from actorhub.control_api.task_status import TaskStatusReport, TaskStatusTable
from actorhub.core import in_flight
from actorhub.core.in_flight import InFlightCall
from actorhub.errors import ActorHubError
from actorhub.messaging.session import Session
from actorhub.node.process_manager import ProcessManager, WorkerExit, WorkerProcess, retry_until_started
from actorhub.node.worker_process import WorkerOptions
from actorhub.tasks.task import tasks

log = logging.getLogger(__name__)

ROUND = 1.0  # seconds
STUCK = 2.0  # seconds without a beat after which an event loop counts as stopped
YOUNG = 5.0  # seconds; a process that dies younger is replaced after a pause
PAUSE = 0.5
NOTICING = 2.0  # seconds after which the end of a slot is seen, also on a busy machine


class SlotWatchdog:
    """Of one agent. `on_late` hears of each attempt that is late before its slot is killed."""

    def __init__(
        self, processes: ProcessManager, cancelled: Container[str], on_late: Callable[[InFlightCall], None]
    ) -> None:
        self._processes = processes
        self._cancelled = cancelled
        self._on_late = on_late

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(ROUND)
            for slot in self._processes.living:
                if slot.config.kind == "task":
                    self._look(slot)

    def _look(self, slot: WorkerProcess) -> None:
        """Where its event loop runs the slot ends late and cancelled tasks itself."""
        box, now = slot.config.blackbox, time.monotonic()
        beat = in_flight.last_heartbeat(box)
        if beat is None or now - beat < STUCK:
            return
        in_hand = in_flight.read_in_flight(box)
        late = [task for task in in_hand if task.late_at is not None and task.late_at <= now]
        ended = late + [task for task in in_hand if task.call in self._cancelled and task not in late]
        if ended:
            methods = ", ".join(task.method for task in ended)
            who = f"slot {slot.config.worker} (pid {slot.pid})"
            log.warning(
                "%s is late or cancelled and holds the interpreter; %s is killed, and another comes", methods, who
            )
            for task in late:
                self._on_late(task)
            self._processes.kill(slot.config.worker)


class Start(Protocol):
    """Starts a worker process, with this id or a new one, unless the node leaves."""

    def __call__(
        self, worker_id: str | None = None, *, gpu: float = 0.0, **more: Unpack[WorkerOptions]
    ) -> Awaitable[None]: ...


class SlotManager:
    """`tell_ended` tells control that one which it has placed is not there any more."""

    def __init__(
        self,
        session: Session,
        node: str,
        processes: ProcessManager,
        start: Start,
        tell_ended: Callable[[SlotEnded], Awaitable[None]],
    ) -> None:
        self.fates = TaskStatusTable()
        self._session = session
        self._node = node
        self._processes = processes
        self._start = start
        self._tell_ended = tell_ended
        self._queues = dict.fromkeys(
            session.names.task(session.settings.namespace, spec.options.queue)
            for spec in tasks.values()
            if not spec.options.resources
        )
        self._warden = SlotWatchdog(processes, self.fates.cancelled, self._task_late)

    @property
    def queues(self) -> list[str]:
        """Those that every slot serves."""
        return list(self._queues)

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self._processes.living if worker.config.kind == "task"]

    @property
    def placed(self) -> list[str]:
        """The ids of those that control has placed."""
        return [slot.config.worker for slot in self.living if slot.config.placed]

    async def open(self, count: int) -> None:
        for _ in range(count):
            await self._start_one()
        self._session.spawn_task(self._warden.watch(), "actorhub-warden")

    async def _start_one(self) -> None:
        await retry_until_started(lambda: self._start(kind="task", queues=self.queues, fates=self.fates.all()))

    # ---- queues

    async def serve(self, queues: list[str]) -> None:
        self._queues.update(dict.fromkeys(queues))
        for slot in self.living:
            if slot.ready and not slot.config.placed:
                await self._tell(slot, queues)

    async def ready(self, slot: WorkerProcess) -> None:
        """What has come up since it was started."""
        later = [queue for queue in self._queues if queue not in slot.config.queues]
        if later and not slot.config.placed:
            await self._tell(slot, later)

    async def _tell(self, slot: WorkerProcess, queues: list[str]) -> None:
        try:
            await tell(self._service(slot.config.worker).serve, queues)
        except ActorHubError:
            log.debug("slot %s ends; another one serves %s", slot.config.worker, queues, exc_info=True)

    def _service(self, slot: str) -> SlotService:
        return stub(self._session, self._session.names.worker(slot), SlotService)

    # ---- those that control places

    async def start(self, order: StartSlot) -> None:
        try:
            if self._processes.get(order.slot) is None:
                await self._start(
                    order.slot, kind="task", queues=[order.queue], placed=True, fates=self.fates.all(), gpu=order.gpu
                )
        except OSError as exc:
            log.warning("slot %s cannot be started: %s", order.slot, exc)
            await asyncio.sleep(PAUSE)
        if self._processes.get(order.slot) is None:  # or the node leaves
            await self._tell_ended(SlotEnded(node=self._node, slot=order.slot))

    async def stop(self, slot_id: str, *, now: bool) -> None:
        slot = await self._processes.find(slot_id)
        if slot is None:
            await self._tell_ended(SlotEnded(node=self._node, slot=slot_id))
        elif now:
            self._processes.kill(slot_id)
        elif not slot.ready:
            self._processes.terminate(slot_id)
        else:
            try:
                await tell(self._service(slot_id).leave)
            except ActorHubError:
                log.debug("slot %s has ended already", slot_id, exc_info=True)

    # ---- their ends

    async def leaves(self, slot: WorkerProcess) -> None:
        """It ends with what it runs: another takes its place now."""
        if not slot.replaced and not slot.config.placed:
            slot.replaced = True
            await self._start_one()

    def note_deaths(self, end: WorkerExit) -> None:
        """Now: a slot that has got the task already may ask in the next moment."""
        if not end.meant:
            for running in end.in_hand:
                self.fates.died(running.call, self.fates.deaths.get(running.call, 0) + 1)

    async def ended(self, end: WorkerExit) -> None:
        """Every slot hears which tasks it ran when it died: one that does so again and again is not run any more."""
        slot = end.worker
        if not end.meant and not slot.stopping:
            log.error("%s", end.cause, extra={"in_hand": [call.method for call in end.in_hand]})
            for running in end.in_hand:
                times = self.fates.deaths.get(running.call, 1)
                self._session.sender.broadcast(
                    TaskBroadcasts.task_died.__name__, {"call_id": running.call, "times": times}
                )
            if slot.age < YOUNG and not slot.ready:
                await asyncio.sleep(PAUSE)
        if slot.config.placed:
            await self._tell_ended(SlotEnded(node=self._node, slot=slot.config.worker))
        elif not slot.replaced:
            await self._start_one()

    # ---- single tasks

    async def fates_of(self, call_ids: list[str]) -> TaskStatusReport:
        """The broker may have seen the end of a slot first, and given its tasks to the one that asks."""
        until = asyncio.get_running_loop().time() + NOTICING
        while self._processes.holds(call_ids) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        return self.fates.of(call_ids)

    def _task_late(self, task: InFlightCall) -> None:
        """Whoever gets it next hears that it has failed, before its slot is killed."""
        self.fates.record_timeout(task.call, task.attempt)
        self._session.sender.broadcast(
            TaskBroadcasts.task_late.__name__, {"call_id": task.call, "attempt": task.attempt}
        )
