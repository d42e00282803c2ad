"""Agent of one machine or container: it supervises worker processes, reports to control, and stands by to run it.

The agent carries no user data and runs no user code, so it replies whatever user code does.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Unpack

from pydantic import BaseModel, ConfigDict, Field

from actorhub.actors.service import ServiceEndpoint
from actorhub.broker import Message
from actorhub.control.standby import ControlStandby
from actorhub.control_api.commands import StartSlot
from actorhub.control_api.directory import cluster_session
from actorhub.control_api.events import (
    Running,
    SlotEnded,
    WorkerLost,
    WorkerStopped,
)
from actorhub.control_api.services import NodeService
from actorhub.control_api.task_status import TaskStatusReport
from actorhub.core.addressing import new_id
from actorhub.core.resources import Resources, checked
from actorhub.errors import ActorHubError, InvalidEnvelope, ObjectLost, PlacementInfeasible
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.delayed_delivery import DelayedPublisher, DelayForwarder
from actorhub.node import echo
from actorhub.node.gpu_allocation import GpuAllocator
from actorhub.node.process_manager import ProcessManager, WorkerExit, retry_until_started
from actorhub.node.reporter import NodeReporter
from actorhub.node.resource_detection import detect_resources
from actorhub.node.slot_manager import RESTART_PAUSE_SECONDS, START_FAILED_SECONDS, SlotManager
from actorhub.node.worker_process import WorkerOptions
from actorhub.objects.location import sweep
from actorhub.objects.server import ObjectServer
from actorhub.objects.store import ObjectStore
from actorhub.settings import Settings
from actorhub.tasks.execution.draining import fail_message
from actorhub.tasks.outbox import publish_task

log = logging.getLogger(__name__)


class NodeConfig(BaseModel):
    """Configuration of one node."""

    model_config = ConfigDict(frozen=True)

    modules: list[str] = Field(default_factory=list)
    workers: int = Field(2, ge=0)
    """Number of processes that share the node's actors."""
    slots: int | None = Field(None, ge=0)
    """Number of processes that run tasks; None for as many as workers."""
    resources: Resources = Field(default_factory=dict)
    """Amounts beside the detected cpu, memory (bytes) and gpu, or instead of them."""
    labels: dict[str, str] = Field(default_factory=dict)
    node_id: str = Field(default_factory=lambda: f"{socket.gethostname()[:40].replace('.', '-')}-{new_id(6)}")


class NodeAgent:
    """Agent of one node.

    Call `start`, then `wait`, which returns after SIGTERM, SIGINT or `request_stop`, then `stop`, which drains.
    """

    def __init__(
        self, config: NodeConfig, settings: Settings, processes: type[ProcessManager] = ProcessManager
    ) -> None:
        self.config = config
        self.settings = settings
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self.session = cluster_session(settings, name=f"node {config.node_id}")
        modules = [echo.__name__, *config.modules]
        preload = [type(self.session.broker).__module__, *modules]
        self._processes = processes(config.node_id, modules, preload, settings, self._worker_ended)
        self.slots = SlotManager(self.session, config.node_id, self._processes, self._start_worker, self._report_end)
        self.reporter = NodeReporter(
            self.session, config.node_id, config.labels, self._processes, self.slots, self._changed.set
        )
        self._devices = GpuAllocator(0.0, {})
        self._store: ObjectStore | None = None
        self._object_server: ObjectServer | None = None
        names = self.session.names
        queue = names.node(config.node_id)
        self._endpoint = ServiceEndpoint(
            self.session, queue, NodeService, lambda: _NodeServiceActor(self), exchange=names.tasks
        )
        self._standby = ControlStandby(self.session, name=f"node {config.node_id}")
        self._delays = DelayedPublisher(names)
        self._forwarder = DelayForwarder(self.session, self._delays, self._unroutable)

    # ---- life

    async def start(self) -> None:
        """Start the node; returns when the workers are ready and control knows the node.

        Raises:
            BrokerUnavailable: no broker was reached within `connect_timeout`.
            ActorHubError: a node with this id lives on this machine.
        """
        await self.session.open()
        resources = self.reporter.resources = checked(
            {**await asyncio.to_thread(detect_resources), **self.config.resources}
        )
        self._devices = GpuAllocator(resources.get("gpu", 0.0), os.environ)
        self._store = await asyncio.to_thread(self._make_store)
        self.reporter.store_path = self._store.path
        self._object_server = ObjectServer(self.session, self._store, self.config.node_id)
        await asyncio.gather(self._start_workers(), self._open(), self._object_server.open())
        self.session.spawn_task(self.reporter.keep_reporting(), "actorhub-heartbeat")
        await self._until(
            lambda: self.reporter.is_known and all(worker.ready for worker in self.reporter.actor_workers())
        )
        slots = self.config.workers if self.config.slots is None else self.config.slots
        self.session.spawn_task(self.slots.open(slots), "actorhub-slots")

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        await self._stop.wait()

    def request_stop(self) -> None:
        self._stop.set()

    async def stop(self) -> None:
        """Drain: control moves the actors elsewhere, workers end running calls, other messages stay in their queues."""
        self.reporter.is_leaving = True
        log.info("node %s drains", self.config.node_id)
        try:
            async with asyncio.timeout(2.0):
                await self.reporter.report(full=False)
        except (TimeoutError, ActorHubError):
            log.warning("control could not be told that this node leaves; it notices after node_timeout")
        await self._processes.stop(self.settings.drain_timeout + 5.0)
        await self._endpoint.close()
        await self._forwarder.close()
        await self._standby.close()
        if self._object_server is not None:
            await self._object_server.close()
        await self.session.close()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    def _make_store(self) -> ObjectStore:
        """Create the object store, and free the stores that killed agents left behind."""
        sweep()
        settings = self.settings
        return ObjectStore.create(
            self.session.names.prefix,
            self.config.node_id,
            capacity=settings.store_capacity,
            spill_capacity=settings.store_spill_capacity,
        )

    async def _open(self) -> None:
        await self._endpoint.open()
        await self._standby.open()
        await self._forwarder.open()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # ---- workers

    async def _start_workers(self) -> None:
        for _ in range(self.config.workers):
            await self._start_worker()

    async def _start_worker(
        self, worker_id: str | None = None, *, gpu: float = 0.0, **more: Unpack[WorkerOptions]
    ) -> None:
        await self._until(
            lambda: self.reporter.is_leaving or self._devices.has_room(gpu) or not self._is_any_releasing_devices()
        )
        if not self.reporter.is_leaving:
            store = self._store.path if self._store is not None else None
            worker_id = worker_id or new_id(8)
            environment = self._devices.take(worker_id, gpu)
            try:
                given: WorkerOptions = {**more, "store": store, "environment": environment}
                await self._processes.start(worker_id, **given)
            except BaseException:
                self._devices.give_back(worker_id)
                raise

    def _is_any_releasing_devices(self) -> bool:
        """True if a process that is ending still holds GPUs, which control has given to others already."""
        ending = (each.config.worker for each in self._processes.running if each.stopping or each.killed)
        return any(self._devices.is_held_by(worker) for worker in ending)

    async def start_worker(self, worker_id: str, actor_id: str, gpu: float) -> None:
        try:
            if self._processes.get(worker_id) is None:
                await self._start_worker(worker_id, actor_id=actor_id, gpu=gpu)
        except OSError as exc:
            log.warning("worker %s cannot be started: %s", worker_id, exc)
            await asyncio.sleep(RESTART_PAUSE_SECONDS)
        # It could not be started, or the node leaves.
        if self._processes.get(worker_id) is None:
            await self._report_end(WorkerStopped(node=self.config.node_id, worker=worker_id))

    def stop_worker(self, worker_id: str) -> None:
        ending = self._processes.end(worker_id, self.settings.drain_timeout + 5.0)
        self.session.spawn_task(ending, f"actorhub-end-{worker_id}")

    async def worker_ready(self, worker_id: str) -> None:
        found = await self._processes.find(worker_id)
        if found is not None and not found.ready:
            found.ready = True
            if found.config.kind == "task":
                await self.slots.on_ready(found)
            await self.reporter.report()
            self._changed.set()

    async def worker_draining(self, worker_id: str) -> None:
        found = self._processes.get(worker_id)
        if found is not None:
            await self.slots.on_leaving(found)

    def _worker_ended(self, end: WorkerExit) -> None:
        self._devices.give_back(end.worker.config.worker)
        self._changed.set()
        if end.worker.config.kind == "task":
            self.slots.note_deaths(end)
        if end.worker.config.kind == "actors" and end.worker.ready:
            self.reporter.report_until_acknowledged(end.worker)
        self.session.spawn_task(self._replace(end), "actorhub-replace")

    async def _replace(self, end: WorkerExit) -> None:
        """Tell control of a worker's death and its running calls; start another if it was a shared worker."""
        if self._store is not None:
            with suppress(ObjectLost):
                await asyncio.to_thread(self._store.collect)
        config = end.worker.config
        if config.kind == "task":
            if not self.reporter.is_leaving:
                await self.slots.on_ended(end)
            return
        if self.reporter.is_leaving or end.worker.stopping:
            await self._report_end(WorkerStopped(node=config.node, worker=config.worker))
            return
        log.error("%s", end.cause, extra={"in_hand": [call.method for call in end.in_hand]})
        running = [Running(actor=call.actor, call=call.call, method=call.method) for call in end.in_hand]
        lost = WorkerLost(node=config.node, worker=config.worker, cause=end.cause, running=running)
        await self._report_end(lost)
        if config.actor_id is None:
            if end.worker.age < START_FAILED_SECONDS and not end.worker.ready:
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
            await retry_until_started(self._start_worker)

    async def _report_end(self, event: WorkerLost | WorkerStopped | SlotEnded) -> None:
        await self.reporter.report_end(event)

    # ---- messages without a queue

    async def _unroutable(self, target: str | None, message: Message) -> None:
        """Handle a due task whose queue was deleted, or a message that cannot be delivered to any queue."""
        names = self.session.names
        if target is None or not names.is_task(target):
            error = InvalidEnvelope(f"its queue {target or names.due} does not exist")
            letter = DeadLetter.malformed(target or names.due, message, error)
            await DeadLetterQueue(self.session, self.settings.namespace).store(letter)
        elif names.has_dedicated_slots(target):
            gone = PlacementInfeasible(f"it was due for {target}, which is gone: nobody can serve it any more")
            await fail_message(self.session, target, message, gone)
        else:
            await publish_task(self.session, self._delays, target, message)


class _NodeServiceActor(NodeService):
    def __init__(self, node: NodeAgent) -> None:
        self._node = node

    async def worker_ready(self, worker: str, pid: int) -> None:
        await self._node.worker_ready(worker)

    async def worker_draining(self, worker: str) -> None:
        await self._node.worker_draining(worker)

    async def start_worker(self, worker: str, actor_id: str, gpu: float = 0.0) -> None:
        await self._node.start_worker(worker, actor_id, gpu)

    async def stop_worker(self, worker: str) -> None:
        self._node.stop_worker(worker)

    async def start_slot(self, order: StartSlot) -> None:
        await self._node.slots.start(order)

    async def stop_slot(self, slot: str, now: bool) -> None:
        await self._node.slots.stop(slot, now=now)

    async def serve(self, queues: list[str]) -> None:
        await self._node.slots.serve(queues)

    async def cancel_task(self, call_id: str) -> None:
        self._node.slots.statuses.cancel(call_id)

    async def task_died(self, call_id: str, times: int) -> None:
        self._node.slots.statuses.died(call_id, times)

    async def task_timed_out(self, call_id: str, attempt: int) -> None:
        self._node.slots.statuses.record_timeout(call_id, attempt)

    async def task_statuses(self, call_ids: list[str]) -> TaskStatusReport:
        return await self._node.slots.statuses_of(call_ids)

    async def report(self) -> None:
        await self._node.reporter.report()

    async def drain(self) -> None:
        self._node.request_stop()

    async def acknowledge(self) -> None:
        self._node.reporter.acknowledged()


async def run(config: NodeConfig, settings: Settings, *, with_parent: bool = False) -> None:
    """Run a node in the foreground until SIGTERM or SIGINT, or, if `with_parent`, until standard input ends.

    Raises:
        BrokerUnavailable: no broker was reached within `connect_timeout`.
        ImportError: one of the modules cannot be imported.
    """
    for module in config.modules:
        importlib.import_module(module)
    node = NodeAgent(config, settings)
    if with_parent:
        asyncio.get_running_loop().add_reader(sys.stdin, node.request_stop)
    stopped = asyncio.create_task(node.wait())
    started = asyncio.create_task(node.start())
    try:
        await asyncio.wait([stopped, started], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            log.info("node %s is ready with %d workers", config.node_id, config.workers)
            await stopped
    finally:
        started.cancel()
        stopped.cancel()
        await node.stop()
