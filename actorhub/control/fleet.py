"""The nodes that control knows, and their workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from actorhub.control.directory import Actor
from actorhub.control.messages import NodeReport, WorkerReport
from actorhub.control.placement import Node, Worker


class Fleet:
    """`touched`: the ids of nodes of which more has changed than the time of their last word, since somebody took that down."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.workers: dict[str, Worker] = {}
        self.touched: dict[str, None] = {}

    def hear(self, report: NodeReport, now: float) -> bool:
        """A node lives. Returns whether nobody knew it; one that has started again is another one with the former's workers,
        which are gone."""
        former = self.nodes.get(report.node)
        is_new = former is None or (former.host, former.pid) != (report.host, report.pid)
        if former is None or is_new:
            node = self.nodes[report.node] = Node(
                id=report.node,
                host=report.host,
                pid=report.pid,
                version=report.version,
                labels=report.labels,
                total=report.resources,
                classes=frozenset(report.classes),
                seen=now,
                store=report.store,
            )
            if former is not None:
                node.workers, node.reserved = former.workers, former.reserved
        else:
            node = former
        if is_new or (node.slots, node.leaving) != (report.slots, report.leaving):
            self.touched[node.id] = None
        node.seen, node.is_heard, node.slots, node.leaving = now, True, report.slots, report.leaving
        return is_new

    @property
    def is_heard(self) -> bool:
        """All nodes have said something since this process runs control."""
        return all(node.is_heard for node in self.nodes.values())

    def join(self, node: Node, report: WorkerReport, load: int) -> Worker:
        """A worker of it is ready, and `load` actors are meant for it."""
        worker = Worker(report.id, node.id, report.pid, report.dedicated_to, load)
        node.workers[worker.id] = self.workers[worker.id] = worker
        self.touched[node.id] = None
        return worker

    def part(self, worker_id: str, node_id: str) -> None:
        """A worker is gone, and with the last one a node that leaves."""
        self.workers.pop(worker_id, None)
        node = self.nodes.get(node_id)
        if node is not None:
            node.workers.pop(worker_id, None)
            self.touched[node_id] = None
            self.drop_if_left(node)

    def drop_if_left(self, node: Node) -> None:
        if node.leaving and not node.workers:
            self.drop(node)

    def drop(self, node: Node) -> None:
        if self.nodes.pop(node.id, None) is not None:
            self.touched[node.id] = None

    def silent(self, since: float) -> list[Node]:
        """Those that have said nothing since then."""
        return [node for node in self.nodes.values() if node.seen < since]

    def take(self, actor: Actor, node: str | None, worker: str | None, sign: int = 1) -> None:
        """The actor takes up room there; with -1 it takes it up no longer."""
        if node is not None and node in self.nodes:
            self.nodes[node].reserve(actor.plan.options.resources, sign)
        if worker is not None and worker in self.workers:
            self.workers[worker].load += sign

    def restore(self, nodes: Iterable[Node], actors: Iterable[Actor]) -> None:
        """As another fleet had them, with these actors. Before any change."""
        for node in nodes:
            self.nodes[node.id] = node
            self.workers.update(node.workers)
        for actor in actors:
            self.take(actor, actor.node, actor.worker)
            if actor.standby is not None:
                self.take(actor, actor.standby.node, actor.standby.worker)
