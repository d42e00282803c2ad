"""Lifecycle of nodes and their workers: reports, shared task queues, silence, loss. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from actorhub.control.actor_lifecycle import ActorLifecycle
from actorhub.control.cleanup import Cleanup
from actorhub.control.decision import Decision
from actorhub.control.group_lifecycle import GroupLifecycle
from actorhub.control.placement import NodeEntry
from actorhub.control.slot_scheduler import SlotScheduler
from actorhub.control.tables import ControlTables
from actorhub.control_api.commands import Acknowledge, RequestReport, ServeQueues, StopWorker
from actorhub.control_api.events import NodeReport, WorkerLost, WorkerReport, WorkerStopped


class NodeLifecycle:
    """Decides what follows from reports of nodes, and from their silence.

    Args:
        tables: everything that control knows.
        actors: moves actors away from lost workers and nodes.
        groups: moves bundles away from lost and leaving nodes.
        slots: scheduler of dedicated slots.
        cleanup: reassigns the deletions of lost workers.
        node_timeout: seconds of silence after which a node is taken for lost.
    """

    def __init__(
        self,
        tables: ControlTables,
        actors: ActorLifecycle,
        groups: GroupLifecycle,
        slots: SlotScheduler,
        cleanup: Cleanup,
        node_timeout: float,
    ) -> None:
        self._directory = tables.directory
        self._nodes = tables.nodes
        self._cluster = tables.cluster
        self._actors = actors
        self._groups = groups
        self._slots = slots
        self._cleanup = cleanup
        self._node_timeout = node_timeout

    # ---- reports

    def on_report(self, report: NodeReport, decision: Decision) -> None:
        """Take over what a node reports: its workers, slots and task queues, and whether it leaves."""
        is_new = self._nodes.on_report(report, decision.now)
        node = self._nodes.by_id[report.node]
        self._greet(node, is_new, report.known, decision)
        self.share_queues(report.queues, decision)
        reported = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in reported]:
            cause = f"worker {worker_id} of node {node.id} is no longer there"
            self._remove_worker(worker_id, node.id, cause, decision)
        if is_new:  # orders to the agent before this one are lost
            self._slots.on_node_gone(node.id)
            self._actors.leave_node(node.id, f"node {node.id} started again", decision)
        for worker in report.workers:
            self._on_worker_report(node, worker, decision)
        self._slots.on_node_report(node.id, report.placed, report.slots, decision)
        self._nodes.remove_if_left(node)
        self._check_gone(node.id, decision)
        if is_new or node.leaving:
            self._groups.leave_node(node.id)

    def _greet(self, node: NodeEntry, is_new: bool, knows_control: bool, decision: Decision) -> None:
        """Tell a node what it needs to know of control.

        Args:
            node: the node.
            is_new: control did not know this node.
            knows_control: a control has acknowledged this node before: if it is new nevertheless, it was taken for lost.
            decision: takes the orders.
        """
        queues = self._cluster.queues
        if is_new and queues:
            decision.emit(ServeQueues(node=node.id, queues=queues))
        if is_new and knows_control:
            decision.emit(RequestReport(node=node.id))
        if is_new or not knows_control:
            decision.emit(Acknowledge(node=node.id))

    def _on_worker_report(self, node: NodeEntry, report: WorkerReport, decision: Decision) -> None:
        worker = node.workers.get(report.id)
        if worker is None:
            worker = self._nodes.add_worker(node, report, self._directory.load_of(report.id))
            if report.dedicated_to is not None:
                self._actors.start_dedicated(worker, report.dedicated_to, decision)
        for residency in report.hosted or ():
            self._actors.stop_unless_at(worker.id, residency, decision)
        if report.dedicated_to is not None and not worker.load:  # its actor is dead, or elsewhere
            decision.emit(StopWorker(node=node.id, worker=worker.id))

    def share_queues(self, queues: Iterable[str], decision: Decision) -> None:
        """Tell all nodes of those task queues that are new: every slot without a queue of its own serves them."""
        new = self._cluster.add_queues(queues)
        if new:
            for node_id in self._nodes.by_id:
                decision.emit(ServeQueues(node=node_id, queues=new))

    # ---- loss

    def on_worker_lost(self, event: WorkerLost, decision: Decision) -> None:
        self._actors.count_kills(event.worker, event.running)
        methods = ", ".join(sorted({running.method for running in event.running}))
        cause = f"{event.cause}{f', while it ran {methods}' if methods else ''}"
        self._remove_worker(event.worker, event.node, cause, decision)

    def on_worker_stopped(self, event: WorkerStopped, decision: Decision) -> None:
        self._remove_worker(event.worker, event.node, None, decision)

    def remove_silent(self, decision: Decision) -> None:
        """Remove nodes that have been silent for too long."""
        for node in self._nodes.silent_since(decision.now - self._node_timeout):
            cause = f"node {node.id} was lost: silent for {decision.now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._remove_worker(worker_id, node.id, cause, decision)
            self._slots.on_node_gone(node.id)
            self._nodes.remove(node)
            self._groups.leave_node(node.id)
            self._actors.leave_node(node.id, cause, decision)

    def _remove_worker(self, worker_id: str, node_id: str, cause: str | None, decision: Decision) -> None:
        """Remove a worker. `cause` is None if it ended at control's order; then its actors move without a restart."""
        self._nodes.remove_worker(worker_id, node_id)
        self._actors.leave_worker(worker_id, cause, decision)
        self._cleanup.on_worker_gone(worker_id)
        self._check_gone(node_id, decision)

    def _check_gone(self, node_id: str, decision: Decision) -> None:
        """Give up what was ordered from a node that is gone: a node that leaves in order does not report that it is."""
        if node_id not in self._nodes.by_id:
            self._slots.on_node_gone(node_id)
            self._actors.leave_node(node_id, None, decision)
