"""Worker process that is one slot for tasks."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys

import psutil

from actorhub.actors.handle import tell
from actorhub.actors.service import ServiceEndpoint, stub
from actorhub.control_api.directory import cluster_session
from actorhub.control_api.services import NodeService, SlotService
from actorhub.core.in_flight import InFlightRecorder
from actorhub.node.worker_process import WorkerConfig, run_worker
from actorhub.settings import Settings
from actorhub.tasks.client_context import Clients
from actorhub.tasks.execution.slot import TaskSlot

log = logging.getLogger(__name__)

EXIT_REPLACED = 75
"""Exit code of a slot that has ended itself on purpose: its agent starts another one in its place."""
RECYCLE_CHECK_SECONDS = 0.5
"""Time between two looks whether the slot has run enough tasks, or has too much memory."""
IDLE_CHECK_SECONDS = 0.2
FLUSH_SECONDS = 2.0
"""Time that the broker has to confirm what a slot that leaves has sent."""
SWITCH_SECONDS = 0.0005
"""Time for which a task that holds the interpreter may keep the event loop waiting."""


class TaskWorker:
    """Slot that serves the task queues that its agent names, until `stop`.

    Args:
        config: configuration of its process, from the agent.
        settings: of the cluster.
        is_process: the slot has the process for itself, and may end it.
    """

    def __init__(self, config: WorkerConfig, settings: Settings, *, is_process: bool = True) -> None:
        self.config = config
        self.settings = settings
        self.session = cluster_session(settings, name=f"slot {config.worker}")
        self.clients = Clients.of(self.session)
        self.recorder = InFlightRecorder(config.recorder)
        names = self.session.names
        self._node = stub(self.session, names.node(config.node), NodeService)
        exit_process = _exit_process if is_process else None
        self.slot = TaskSlot(
            self.clients, self.recorder, config.node, ask_agent=self._node.task_statuses, exit_process=exit_process
        )
        queue = names.worker(config.worker)
        self._endpoint = ServiceEndpoint(
            self.session, queue, SlotService, lambda: _SlotServiceActor(self), exchange=names.tasks
        )
        self._is_process = is_process
        self._is_leaving = False

    async def start(self) -> None:
        await self.session.open()
        self.clients.objects.open(self.config.store, self.config.node)
        self.slot.statuses.learn(self.config.task_statuses)
        await self._endpoint.open()
        await self.slot.serve(self.config.queues)
        if self._is_process and (self.settings.recycle_tasks or self.settings.recycle_memory):
            self.session.spawn_task(self._recycle(), "actorhub-recycle")
        if self.config.placed:
            self.session.spawn_task(self._leave_when_idle(), "actorhub-idle")
        await tell(self._node.worker_ready, self.config.worker, os.getpid())

    async def stop(self) -> None:
        """Let running tasks end, for `drain_timeout` seconds at most, and return everything else to the broker."""
        await self._endpoint.close()
        await self.slot.stop(self.settings.drain_timeout)
        await self.session.close()

    async def _recycle(self) -> None:
        """Leave after `recycle_tasks` tasks, or with `recycle_memory` bytes; the agent starts another slot at once."""
        process = psutil.Process()
        while True:
            await asyncio.sleep(RECYCLE_CHECK_SECONDS)
            tasks, memory = self.settings.recycle_tasks, self.settings.recycle_memory
            resident = process.memory_info().rss
            completed = self.slot.completed
            if (tasks is not None and completed >= tasks) or (memory is not None and resident >= memory):
                log.info("slot %s is recycled after %d tasks, with %d bytes", self.config.worker, completed, resident)
                await tell(self._node.worker_draining, self.config.worker)
                await self.leave()

    async def _leave_when_idle(self) -> None:
        """Leave after `slot_idle` seconds without a task, so that the slot's resources are free for others."""
        completed, since = -1, self.session.loop.time()
        while self.session.loop.time() - since < self.settings.slot_idle:
            await asyncio.sleep(min(IDLE_CHECK_SECONDS, self.settings.slot_idle / 4))
            if self.slot.is_busy or self.slot.completed != completed:
                completed, since = self.slot.completed, self.session.loop.time()
        await self.leave()

    async def leave(self) -> None:
        """Take no more tasks, and end when the running tasks have ended, however long they take."""
        if self._is_leaving:
            return
        self._is_leaving = True
        await self.slot.stop(math.inf)
        await self.session.flush(timeout=FLUSH_SECONDS)
        if self._is_process:
            _exit_process()
        else:
            await tell(self._node.stop_worker, self.config.worker)


class _SlotServiceActor(SlotService):
    def __init__(self, worker: TaskWorker) -> None:
        self._worker = worker
        self._slot = worker.slot

    async def serve(self, queues: list[str]) -> None:
        await self._slot.serve(queues)

    async def leave(self) -> None:
        self._worker.session.spawn_task(self._worker.leave(), "actorhub-leave")

    async def cancel_task(self, call_id: str) -> None:
        self._slot.cancel(call_id)

    async def task_died(self, call_id: str, times: int) -> None:
        self._slot.statuses.died(call_id, times)

    async def task_timed_out(self, call_id: str, attempt: int) -> None:
        self._slot.statuses.record_timeout(call_id, attempt)


def _exit_process() -> None:
    logging.shutdown()
    os._exit(EXIT_REPLACED)


def main(config: WorkerConfig, settings: Settings) -> None:
    """Run the process of a slot."""
    sys.setswitchinterval(SWITCH_SECONDS)
    run_worker(lambda: TaskWorker(config, settings), config, settings)
