"""Reports of a node to control: heartbeats, full reports with the actors that its workers host, and ends of workers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from actorhub.actors.handle import ask, tell
from actorhub.actors.service import stub
from actorhub.actors.spec import registry
from actorhub.control_api.client import control_client
from actorhub.control_api.events import ANY_CLASS, NodeReport, SlotEnded, WorkerLost, WorkerReport, WorkerStopped
from actorhub.control_api.services import WorkerService
from actorhub.control_api.specs import Activation
from actorhub.errors import ActorHubError
from actorhub.messaging.session import Session
from actorhub.node.process_manager import ProcessManager, WorkerProcess
from actorhub.node.slot_manager import SlotManager

log = logging.getLogger(__name__)

INVENTORY_TIMEOUT_SECONDS = 2.0
"""Time in which a worker must list the actors that it hosts."""
_VERSION = version("actorhub-mq")


class NodeReporter:
    """Reporter of one node.

    Args:
        session: the agent's.
        node_id: id of the node.
        labels: of the node.
        processes: its worker processes.
        slots: its slots for tasks.
        on_known: called when control has acknowledged the node.
    """

    def __init__(
        self,
        session: Session,
        node_id: str,
        labels: Mapping[str, str],
        processes: ProcessManager,
        slots: SlotManager,
        on_known: Callable[[], None],
    ) -> None:
        self.resources: dict[str, float] = {}
        """Amounts of the node's resources, as its agent found them."""
        self.store_path: Path | None = None
        """Directory of the node's object store."""
        self.is_known = False
        """True once control has acknowledged the node."""
        self.is_leaving = False
        """True while the node drains."""
        self._session = session
        self._node_id = node_id
        self._labels = dict(labels)
        self._processes = processes
        self._slots = slots
        self._on_known = on_known
        self._control = control_client(session)
        # control receives reports and ends in the order in which they happened
        self._sending = asyncio.Lock()
        self._unreported_ends: dict[str, WorkerProcess] = {}

    async def keep_reporting(self) -> None:
        """Send a heartbeat, or a full report to a control that does not know the node, again and again."""
        while True:
            try:
                await self.report(full=not self.is_known)
            except ActorHubError:
                log.warning("control did not acknowledge this node's report", exc_info=True)
            await asyncio.sleep(self._session.settings.heartbeat)

    async def report(self, *, full: bool = True) -> None:
        """Send a report: a full one lists the actors of each worker, a heartbeat says only that the workers live.

        The list of workers is taken in the moment of sending: a later report never lists less than an earlier one did.
        """
        hosted = await self._inventories() if full else {}
        async with self._sending:
            await tell(self._control.report, self._node_report(hosted))

    def acknowledged(self) -> None:
        """Note that control knows the node."""
        self.is_known = True
        self._on_known()

    def actor_workers(self) -> list[WorkerProcess]:
        """The running workers that host actors."""
        return [worker for worker in self._processes.running if worker.config.kind == "actors"]

    def report_until_acknowledged(self, worker: WorkerProcess) -> None:
        """List a worker that has ended until `report_end` has told control.

        Else control would take it for lost, without knowing its running calls.
        """
        self._unreported_ends[worker.config.worker] = worker

    async def report_end(self, event: WorkerLost | WorkerStopped | SlotEnded) -> None:
        """Tell control that a worker or a slot has ended."""
        async with self._sending:
            await tell(self._control.notice, event)
            if not isinstance(event, SlotEnded):
                self._unreported_ends.pop(event.worker, None)

    def _node_report(self, hosted: Mapping[str, list[Activation] | None]) -> NodeReport:
        workers = [
            WorkerReport(
                id=worker.config.worker,
                pid=worker.pid,
                dedicated_to=worker.config.actor_id,
                hosted=hosted.get(worker.config.worker),
            )
            for worker in [*self._ready(), *self._unreported_ends.values()]
        ]
        return NodeReport(
            node=self._node_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=_VERSION,
            labels=self._labels,
            resources=self.resources,
            classes=[ANY_CLASS] if self._processes.knows_everything else list(registry),
            workers=workers,
            slots={slot.config.worker: slot.pid for slot in self._slots.running if slot.ready},
            placed=self._slots.placed,
            queues=self._slots.queues,
            known=self.is_known,
            leaving=self.is_leaving,
            store=str(self.store_path) if self.store_path is not None else None,
            run=self._session.id,
        )

    def _ready(self) -> list[WorkerProcess]:
        return [worker for worker in self.actor_workers() if worker.ready]

    async def _inventories(self) -> dict[str, list[Activation] | None]:
        """The actors of each worker; none for a control that does not know the node, and so has started none here."""
        ready = self._ready()
        if not self.is_known:
            return {worker.config.worker: [] for worker in ready}
        found = await asyncio.gather(*(self._inventory(worker) for worker in ready))
        return {worker.config.worker: hosted for worker, hosted in zip(ready, found, strict=True)}

    async def _inventory(self, worker: WorkerProcess) -> list[Activation] | None:
        """The actors of a worker; None if it does not reply: it may be dying."""
        service = stub(self._session, self._session.names.worker(worker.config.worker), WorkerService)
        try:
            async with asyncio.timeout(INVENTORY_TIMEOUT_SECONDS):
                return await ask(service.inventory)
        except (TimeoutError, ActorHubError):
            return None
