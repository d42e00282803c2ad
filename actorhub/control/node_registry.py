"""Registry of live nodes and their workers, in the order of their load. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping

from actorhub.control.group_placement import NodeCapacity, rank
from actorhub.control.placement import NodeEntry, PlacementRequest, WorkerEntry
from actorhub.control_api.events import NodeReport, WorkerReport
from actorhub.core.resources import units


class NodeRegistry:
    """Live nodes and workers, and what is free on them."""

    def __init__(self) -> None:
        self.by_id: dict[str, NodeEntry] = {}
        self.workers: dict[str, WorkerEntry] = {}
        self.changed: dict[str, None] = {}
        """Ids of nodes of which more has changed than `seen` since they were last persisted, in order."""
        self.capacities: list[NodeCapacity] = []
        """Nodes that stay, with what is free on them, in the order of their load."""
        self.total_capacities: list[NodeCapacity] = []
        """The same nodes as if they were empty, in the order of their ids."""
        self.room_version = 0
        """Counts the changes by which something may fit that did not fit before."""
        self._capacity: dict[str, NodeCapacity] = {}
        self._unheard: set[str] = set()  # restored nodes that have not reported to this process yet
        self._by_feature: dict[str, set[str]] = {}  # ids of nodes by a resource, or a label and its value

    # ---- nodes

    def on_report(self, report: NodeReport, now: float) -> bool:
        """Add or update the node that reports. Returns True if it is new to control.

        An agent that has started again is a new node. It keeps the former's workers until control removes them one by one.
        """
        former = self.by_id.get(report.node)
        is_new = former is None or (former.host, former.pid, former.run) != (report.host, report.pid, report.run)
        node = self._add(report, former, now) if former is None or is_new else former
        if is_new or (node.slots, node.leaving) != (report.slots, report.leaving):
            self.changed[node.id] = None
        self._unheard.discard(node.id)
        node.seen, node.slots = now, report.slots
        if is_new or node.leaving != report.leaving:
            node.leaving = report.leaving
            self.room_version += 1
            self._update_rank(node)
        return is_new

    def _add(self, report: NodeReport, former: NodeEntry | None, now: float) -> NodeEntry:
        node = NodeEntry(
            id=report.node,
            host=report.host,
            pid=report.pid,
            version=report.version,
            labels=report.labels,
            total=units(report.resources),
            classes=frozenset(report.classes),
            seen=now,
            store=report.store,
            run=report.run,
        )
        if former is not None:
            node.workers = former.workers
            node.reserve(former.reserved)
            self._forget(former)
        self._index(node)
        return node

    @property
    def all_have_reported(self) -> bool:
        """True once every restored node has reported to this process."""
        return not self._unheard

    def remove_if_left(self, node: NodeEntry) -> None:
        """Remove a leaving node that has no worker left."""
        if node.leaving and not node.workers:
            self.remove(node)

    def remove(self, node: NodeEntry) -> None:
        if self.by_id.pop(node.id, None) is not None:
            self.changed[node.id] = None
            self._forget(node)

    def silent_since(self, moment: float) -> list[NodeEntry]:
        """Nodes that have not reported since then."""
        return [node for node in self.by_id.values() if node.seen < moment]

    def _forget(self, node: NodeEntry) -> None:
        self._unheard.discard(node.id)
        self._unrank(node.id)
        for feature in _features(node):
            self._by_feature[feature].discard(node.id)

    def _index(self, node: NodeEntry) -> None:
        self.by_id[node.id] = node
        for feature in _features(node):
            self._by_feature.setdefault(feature, set()).add(node.id)

    # ---- workers

    def add_worker(self, node: NodeEntry, report: WorkerReport, load: int) -> WorkerEntry:
        """Add a worker that is ready, and to which `load` actors are assigned already."""
        worker = WorkerEntry(report.id, node.id, report.pid, report.dedicated_to, load)
        node.workers[worker.id] = self.workers[worker.id] = worker
        self.changed[node.id] = None
        self.room_version += 1
        self._update_rank(node)
        return worker

    def remove_worker(self, worker_id: str, node_id: str) -> None:
        """Remove a worker, and with its last worker a node that leaves."""
        self.workers.pop(worker_id, None)
        node = self.by_id.get(node_id)
        if node is not None:
            node.workers.pop(worker_id, None)
            self.changed[node_id] = None
            self._update_rank(node)
            self.remove_if_left(node)

    # ---- capacity

    def candidates(self, request: PlacementRequest) -> Iterator[NodeEntry]:
        """Nodes in the order of their load: at least all those that could have what the request asks for."""
        if request.node is not None:
            found = self.by_id.get(request.node)
            return iter([found] if found is not None else [])
        features = [*request.units, *(f"{name}={value}" for name, value in request.labels.items())]
        having = min((self._by_feature.get(feature, set()) for feature in features), key=len, default=None)
        if having is None or 4 * len(having) > len(self.capacities):  # few enough to be worth sorting
            return (self.by_id[each.id] for each in self.capacities)
        capacities = sorted((self._capacity[id_] for id_ in having if id_ in self._capacity), key=rank)
        return (self.by_id[each.id] for each in capacities)

    def reserve(self, units: Mapping[str, int], node_id: str, worker_id: str | None, sign: int = 1) -> None:
        """Reserve units of resources on a node, and a place in a worker; a `sign` of -1 releases both.

        Args:
            units: what to reserve; nothing for an actor or slot in a bundle, whose units are reserved with its group.
            node_id: the node, which may be gone.
            worker_id: the worker that hosts an actor, which may be gone; None for a slot or a bundle.
            sign: 1 or -1.
        """
        worker = self.workers.get(worker_id) if worker_id is not None else None
        if worker is not None:
            worker.load += sign
        node = self.by_id.get(node_id)
        if node is not None:
            node.reserve(units, sign)
            self.room_version += sign < 0
            if worker is not None:
                self._update_rank(node)

    def restore(self, nodes: Iterable[NodeEntry]) -> None:
        """Fill an empty registry with persisted nodes, none of which has reported yet."""
        for node in nodes:
            self.workers.update(node.workers)
            self._unheard.add(node.id)
            self._index(node)
            self._update_rank(node)

    def _update_rank(self, node: NodeEntry) -> None:
        """Put the node where its load belongs in the order, or take it out if it leaves."""
        known = self._capacity.get(node.id)
        if node.leaving or node.id not in self.by_id:
            self._unrank(node.id)
            return
        capacity = node.capacity()
        if known is None:
            insort(self.total_capacities, NodeCapacity(node.id, node.total), key=rank)
        elif known.load == capacity.load:
            return
        else:
            del self.capacities[bisect_left(self.capacities, rank(known), key=rank)]
        self._capacity[node.id] = capacity
        insort(self.capacities, capacity, key=rank)

    def _unrank(self, node_id: str) -> None:
        """Take the node out of the order, so that nothing more is placed there."""
        known = self._capacity.pop(node_id, None)
        if known is not None:
            del self.capacities[bisect_left(self.capacities, rank(known), key=rank)]
            del self.total_capacities[bisect_left(self.total_capacities, (0.0, node_id), key=rank)]


def _features(node: NodeEntry) -> list[str]:
    return [*node.total, *(f"{name}={value}" for name, value in node.labels.items())]
