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
from actorhub.core.in_flight import InFlightCall, last_heartbeat, read_in_flight
from actorhub.errors import ActorHubError
from actorhub.messaging.session import Session
from actorhub.node.process_manager import ProcessManager, WorkerExit, WorkerProcess, retry_until_started
from actorhub.node.worker_process import WorkerOptions
from actorhub.tasks.task import tasks

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Time between two checks."""
STOPPED_AFTER_SECONDS = 2.0
"""Time without a heartbeat after which an event loop counts as stopped."""
START_FAILED_SECONDS = 5.0
"""A process that dies younger, and before it is ready, is replaced after a pause."""
RESTART_PAUSE_SECONDS = 0.5
EXIT_NOTICED_SECONDS = 2.0
"""Time within which an agent notices that a slot has ended, on a busy machine, too."""


class SlotWatchdog:
    """Watchdog of one agent.

    Args:
        processes: the agent's worker processes, slots among them.
        cancelled: the keys of cancelled tasks.
        on_timed_out: told of each attempt that has timed out, before its slot is killed.
    """

    def __init__(
        self, processes: ProcessManager, cancelled: Container[str], on_timed_out: Callable[[InFlightCall], None]
    ) -> None:
        self._processes = processes
        self._cancelled = cancelled
        self._on_timed_out = on_timed_out

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for slot in self._processes.running:
                if slot.config.kind == "task":
                    self._check(slot)

    def _check(self, slot: WorkerProcess) -> None:
        """Kill this slot if its event loop has stopped under a task that must end."""
        path, now = slot.config.recorder, time.monotonic()
        heartbeat = last_heartbeat(path)
        if heartbeat is None or now - heartbeat < STOPPED_AFTER_SECONDS:
            return
        in_flight = read_in_flight(path)
        timed_out = [task for task in in_flight if task.late_at is not None and task.late_at <= now]
        must_end = timed_out + [task for task in in_flight if task.call in self._cancelled and task not in timed_out]
        if must_end:
            log.warning(
                "slot %s (pid %d) is killed and replaced: its event loop has stopped, and it must end %s",
                slot.config.worker,
                slot.pid,
                ", ".join(task.method for task in must_end),
            )
            for task in timed_out:
                self._on_timed_out(task)
            self._processes.kill(slot.config.worker)


class StartProcess(Protocol):
    """Starts a worker process with this id, or with a new one; does nothing while the node leaves."""

    def __call__(
        self, worker_id: str | None = None, *, gpu: float = 0.0, **more: Unpack[WorkerOptions]
    ) -> Awaitable[None]: ...


class SlotManager:
    """Starts, replaces and stops the slots of one node.

    Args:
        session: of the agent.
        node: the node's id.
        processes: the agent's worker processes, slots among them.
        start_process: starts a slot.
        report_ended: tells control that a dedicated slot has ended.
    """

    def __init__(
        self,
        session: Session,
        node: str,
        processes: ProcessManager,
        start_process: StartProcess,
        report_ended: Callable[[SlotEnded], Awaitable[None]],
    ) -> None:
        self.statuses = TaskStatusTable()
        """Statuses of cancelled tasks, and of tasks that ended with their slot, as far as the agent knows."""
        self._session = session
        self._node = node
        self._processes = processes
        self._start_process = start_process
        self._report_ended = report_ended
        self._queues = dict.fromkeys(
            session.names.task(session.settings.namespace, spec.options.queue)
            for spec in tasks.values()
            if not spec.options.resources
        )
        self._watchdog = SlotWatchdog(processes, self.statuses.cancelled, self._on_timed_out)

    @property
    def queues(self) -> list[str]:
        """Queues that every shared slot serves."""
        return list(self._queues)

    @property
    def running(self) -> list[WorkerProcess]:
        return [worker for worker in self._processes.running if worker.config.kind == "task"]

    @property
    def placed(self) -> list[str]:
        """Ids of the dedicated slots."""
        return [slot.config.worker for slot in self.running if slot.config.placed]

    async def open(self, count: int) -> None:
        """Start so many shared slots."""
        for _ in range(count):
            await self._start_shared()
        self._session.spawn_task(self._watchdog.watch(), "actorhub-watchdog")

    async def _start_shared(self) -> None:
        await retry_until_started(
            lambda: self._start_process(kind="task", queues=self.queues, task_statuses=self.statuses.all())
        )

    # ---- queues

    async def serve(self, queues: list[str]) -> None:
        """Have every shared slot serve these queues, too."""
        self._queues.update(dict.fromkeys(queues))
        for slot in self.running:
            if slot.ready and not slot.config.placed:
                await self._serve_in(slot, queues)

    async def on_ready(self, slot: WorkerProcess) -> None:
        """Tell a slot that is ready the queues that were added since it was started."""
        later = [queue for queue in self._queues if queue not in slot.config.queues]
        if later and not slot.config.placed:
            await self._serve_in(slot, later)

    async def _serve_in(self, slot: WorkerProcess, queues: list[str]) -> None:
        try:
            await tell(self._service(slot.config.worker).serve, queues)
        except ActorHubError:
            log.debug("slot %s ends; its successor serves %s", slot.config.worker, queues, exc_info=True)

    def _service(self, slot: str) -> SlotService:
        return stub(self._session, self._session.names.worker(slot), SlotService)

    # ---- dedicated slots

    async def start(self, order: StartSlot) -> None:
        """Start a dedicated slot; tell control if that is not possible."""
        try:
            if self._processes.get(order.slot) is None:
                await self._start_process(
                    order.slot,
                    kind="task",
                    queues=[order.queue],
                    placed=True,
                    task_statuses=self.statuses.all(),
                    gpu=order.gpu,
                )
        except OSError as exc:
            log.warning("slot %s cannot be started; control places it again: %s", order.slot, exc)
            await asyncio.sleep(RESTART_PAUSE_SECONDS)
        # It could not be started, or the node leaves.
        if self._processes.get(order.slot) is None:
            await self._report_ended(SlotEnded(node=self._node, slot=order.slot))

    async def stop(self, slot_id: str, *, now: bool) -> None:
        """Stop a dedicated slot: at once, or when its running tasks have ended."""
        slot = await self._processes.find(slot_id)
        if slot is None:
            await self._report_ended(SlotEnded(node=self._node, slot=slot_id))
        elif now:
            self._processes.kill(slot_id)
        elif not slot.ready:
            self._processes.terminate(slot_id)
        else:
            try:
                await tell(self._service(slot_id).leave)
            except ActorHubError:
                log.debug("slot %s has ended already", slot_id, exc_info=True)

    # ---- slots that end

    async def on_leaving(self, slot: WorkerProcess) -> None:
        """Start the successor of a slot now that ends with its running tasks."""
        if not slot.replaced and not slot.config.placed:
            slot.replaced = True
            await self._start_shared()

    def note_deaths(self, end: WorkerExit) -> None:
        """Count the deaths at once: a slot that has the tasks already may ask for their statuses in the next moment."""
        if not end.meant:
            for running in end.in_hand:
                self.statuses.died(running.call, self.statuses.deaths.get(running.call, 0) + 1)

    async def on_ended(self, end: WorkerExit) -> None:
        """Replace a slot, and tell every slot its running tasks: a task that kills many slots is not run again."""
        slot = end.worker
        if not end.meant and not slot.stopping:
            log.error("%s", end.cause, extra={"in_hand": [call.method for call in end.in_hand]})
            for running in end.in_hand:
                times = self.statuses.deaths.get(running.call, 1)
                self._session.sender.broadcast(
                    TaskBroadcasts.task_died.__name__, {"call_id": running.call, "times": times}
                )
            if slot.age < START_FAILED_SECONDS and not slot.ready:
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
        if slot.config.placed:
            await self._report_ended(SlotEnded(node=self._node, slot=slot.config.worker))
        elif not slot.replaced:
            await self._start_shared()

    # ---- single tasks

    async def statuses_of(self, call_ids: list[str]) -> TaskStatusReport:
        """Statuses of these tasks, once their last slot has ended.

        The broker may have noticed that end before its agent, and delivered the tasks to the calling slot."""
        until = asyncio.get_running_loop().time() + EXIT_NOTICED_SECONDS
        while self._processes.holds(call_ids) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        return self.statuses.of(call_ids)

    def _on_timed_out(self, task: InFlightCall) -> None:
        """Tell every slot that this attempt has failed, before its slot is killed and another one gets the task."""
        self.statuses.record_timeout(task.call, task.attempt)
        self._session.sender.broadcast(
            TaskBroadcasts.task_timed_out.__name__, {"call_id": task.call, "attempt": task.attempt}
        )
