"""The nodes that control knows, and their workers. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping

from actorhub.control.placement import NodeEntry, PlacementRequest, WorkerEntry
from actorhub.control.strategies import NodeCapacity, rank
from actorhub.control_api.events import NodeReport, WorkerReport
from actorhub.core.resources import units


class NodeRegistry:
    """`touched`: the ids of nodes of which more has changed than the time of their last word, since somebody took that down.
    `room` changes whenever something may fit that did not fit before. `sites`: the nodes that stay, in order of their load;
    `wholes`: the same with all that they have, as if they were empty."""

    def __init__(self) -> None:
        self.by_id: dict[str, NodeEntry] = {}
        self.workers: dict[str, WorkerEntry] = {}
        self.touched: dict[str, None] = {}
        self.sites: list[NodeCapacity] = []
        self.wholes: list[NodeCapacity] = []
        self.room = 0
        self._sites: dict[str, NodeCapacity] = {}
        self._unheard: set[str] = set()  # since this process runs control
        self._having: dict[str, set[str]] = {}  # the nodes that have any of a resource, or a label

    # ---- nodes

    def on_report(self, report: NodeReport, now: float) -> bool:
        """A node lives. Returns whether nobody knew it; one that has started again is another one with the former's workers,
        which are gone."""
        former = self.by_id.get(report.node)
        is_new = former is None or (former.host, former.pid, former.run) != (report.host, report.pid, report.run)
        if former is None or is_new:
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
            self.by_id[node.id] = node
            for key in _keys(node):
                self._having.setdefault(key, set()).add(node.id)
        else:
            node = former
        if is_new or (node.slots, node.leaving) != (report.slots, report.leaving):
            self.touched[node.id] = None
        self._unheard.discard(node.id)
        node.seen, node.slots = now, report.slots
        if is_new or node.leaving != report.leaving:
            node.leaving = report.leaving
            self.room += 1
            self._rank(node)
        return is_new

    @property
    def is_heard(self) -> bool:
        """All nodes have said something since this process runs control."""
        return not self._unheard

    def drop_if_left(self, node: NodeEntry) -> None:
        if node.leaving and not node.workers:
            self.drop(node)

    def drop(self, node: NodeEntry) -> None:
        if self.by_id.pop(node.id, None) is not None:
            self.touched[node.id] = None
            self._forget(node)

    def silent(self, since: float) -> list[NodeEntry]:
        """Those that have said nothing since then."""
        return [node for node in self.by_id.values() if node.seen < since]

    def _forget(self, node: NodeEntry) -> None:
        self._unheard.discard(node.id)
        self._withdraw(node.id)
        for key in _keys(node):
            self._having[key].discard(node.id)

    # ---- workers

    def join(self, node: NodeEntry, report: WorkerReport, load: int) -> WorkerEntry:
        """A worker of it is ready, and `load` actors are meant for it."""
        worker = WorkerEntry(report.id, node.id, report.pid, report.dedicated_to, load)
        node.workers[worker.id] = self.workers[worker.id] = worker
        self.touched[node.id] = None
        self.room += 1
        self._rank(node)
        return worker

    def remove_worker(self, worker_id: str, node_id: str) -> None:
        """A worker is gone, and with the last one a node that leaves."""
        self.workers.pop(worker_id, None)
        node = self.by_id.get(node_id)
        if node is not None:
            node.workers.pop(worker_id, None)
            self.touched[node_id] = None
            self._rank(node)
            self.drop_if_left(node)

    # ---- room

    def candidates(self, ask: PlacementRequest) -> Iterator[NodeEntry]:
        """Nodes in order of their load, among them all that could have what is asked for."""
        if ask.node is not None:
            found = self.by_id.get(ask.node)
            return iter([found] if found is not None else [])
        keys = [*ask.units, *(f"{name}={value}" for name, value in ask.labels.items())]
        having = min((self._having.get(key, set()) for key in keys), key=len, default=None)
        if having is None or 4 * len(having) > len(self.sites):
            return (self.by_id[site.id] for site in self.sites)
        sites = sorted((self._sites[id_] for id_ in having if id_ in self._sites), key=rank)
        return (self.by_id[site.id] for site in sites)

    def take(self, units: Mapping[str, int], node_id: str | None, worker_id: str | None, sign: int = 1) -> None:
        """Somebody takes up room there; with -1 takes it up no longer. What a bundle has is no room of the node's."""
        worker = self.workers.get(worker_id) if worker_id is not None else None
        if worker is not None:
            worker.load += sign
        node = self.by_id.get(node_id) if node_id is not None else None
        if node is not None:
            node.reserve(units, sign)
            self.room += sign < 0
            if worker is not None:
                self._rank(node)

    def restore(self, nodes: Iterable[NodeEntry]) -> None:
        """As another fleet had them. Before any change."""
        for node in nodes:
            self.by_id[node.id] = node
            self.workers.update(node.workers)
            self._unheard.add(node.id)
            for key in _keys(node):
                self._having.setdefault(key, set()).add(node.id)
            self._rank(node)

    def _rank(self, node: NodeEntry) -> None:
        """Its load may have changed, or it leaves."""
        known = self._sites.get(node.id)
        if node.leaving or node.id not in self.by_id:
            self._withdraw(node.id)
            return
        site = node.site()
        if known is None:
            insort(self.wholes, NodeCapacity(node.id, node.total), key=rank)
        elif known.load == site.load:
            return
        else:
            del self.sites[bisect_left(self.sites, rank(known), key=rank)]
        self._sites[node.id] = site
        insort(self.sites, site, key=rank)

    def _withdraw(self, node_id: str) -> None:
        """Nothing more goes there."""
        site = self._sites.pop(node_id, None)
        if site is not None:
            del self.sites[bisect_left(self.sites, rank(site), key=rank)]
            del self.wholes[bisect_left(self.wholes, (0.0, node_id), key=rank)]


def _keys(node: NodeEntry) -> list[str]:
    return [*node.total, *(f"{name}={value}" for name, value in node.labels.items())]
