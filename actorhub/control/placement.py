"""Where an actor goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actorhub.control.messages import ANY_CLASS, ActorPlan, NodeInfo, WorkerInfo


@dataclass(eq=False)
class Worker:
    """A worker process that lives. `load` counts the actors placed on it."""

    id: str
    node: str
    pid: int
    dedicated_to: str | None = None
    load: int = 0


@dataclass(eq=False)
class Node:
    """A node that lives, and what of its resources is not reserved."""

    id: str
    host: str
    pid: int
    version: str
    labels: Mapping[str, str]
    total: Mapping[str, float]
    classes: frozenset[str]
    seen: float
    is_heard: bool = False  # since the process began that runs control
    leaving: bool = False
    store: str | None = None
    reserved: dict[str, float] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)  # pids by id

    def free(self, name: str) -> float:
        return self.total.get(name, 0.0) - self.reserved.get(name, 0.0)

    def info(self, hosted: Mapping[str, list[str]]) -> NodeInfo:
        """For people. `hosted`: the ids of each worker's actors."""
        return NodeInfo(
            id=self.id,
            host=self.host,
            pid=self.pid,
            version=self.version,
            labels=dict(self.labels),
            resources_total=dict(self.total),
            resources_free={name: self.free(name) for name in self.total},
            leaving=self.leaving,
            workers=[
                WorkerInfo(
                    id=worker.id,
                    pid=worker.pid,
                    kind="process" if worker.dedicated_to else "shared",
                    actors=hosted.get(worker.id, []),
                )
                for worker in self.workers.values()
            ]
            + [WorkerInfo(id=slot, pid=pid, kind="task", actors=[]) for slot, pid in self.slots.items()],
            store=self.store,
        )

    def reserve(self, resources: Mapping[str, float], sign: int = 1) -> None:
        for name, amount in resources.items():
            self.reserved[name] = self.reserved.get(name, 0.0) + sign * amount


def may_run(node: Node, plan: ActorPlan) -> bool:
    """Whether the node could run it if it were empty."""
    return (
        (plan.code is not None or _knows(node, plan))
        and (plan.node is None or plan.node == node.id)
        and all(node.labels.get(name) == value for name, value in plan.labels.items())
        and all(node.total.get(name, 0.0) >= amount for name, amount in plan.options.resources.items())
    )


def has_room(node: Node, plan: ActorPlan) -> bool:
    return not node.leaving and all(node.free(name) >= amount for name, amount in plan.options.resources.items())


def choose_node(nodes: Iterable[Node], plan: ActorPlan) -> Node | None:
    """For an actor that gets a worker of its own: the node with the fewest workers."""
    fitting = [node for node in nodes if may_run(node, plan) and has_room(node, plan)]
    return min(fitting, key=lambda node: (len(node.workers), node.id), default=None)


def choose_worker(nodes: Iterable[Node], plan: ActorPlan, *, beside: tuple[str, str] | None = None) -> Worker | None:
    """The shared worker with the fewest actors; None where all that could run it are full or not there yet. `beside`: where
    the actor is already, by node and worker: then another worker, on another node if there is one."""
    home = beside or ("", "")
    fitting = (
        worker
        for node in nodes
        if may_run(node, plan) and has_room(node, plan)
        for worker in node.workers.values()
        if worker.dedicated_to is None and worker.id != home[1]
    )
    return min(fitting, key=lambda worker: (worker.node == home[0], worker.load, worker.id), default=None)


def infeasible(nodes: Iterable[Node], plan: ActorPlan) -> str | None:
    """Why no node could ever run it, with the best that there is; None where one could, or where there is no node yet."""
    there = list(nodes)
    if not there or any(may_run(node, plan) for node in there):
        return None
    what = f"{plan.class_name} {plan.name or plan.actor_id}"
    if plan.node is not None and all(node.id != plan.node for node in there):
        return f"{what} asks for node {plan.node!r}; there are: {', '.join(sorted(node.id for node in there))}"
    if plan.code is None and not any(_knows(node, plan) for node in there):
        known = sorted({name for node in there for name in node.classes})
        module = plan.class_name.partition(":")[0]
        hint = f"start one with `actorhub node {module}`; nodes know: {', '.join(known) or 'none'}"
        return f"no node knows {plan.class_name}; {hint}"
    if plan.labels and not any(node.labels.items() >= plan.labels.items() for node in there):
        return f"{what} asks for labels {dict(plan.labels)}; nodes have: {[dict(node.labels) for node in there]}"
    best = {name: max(node.total.get(name, 0.0) for node in there) for name in plan.options.resources}
    return f"{what} asks for resources {plan.options.resources}; the most that any node has: {best}"


def waits_for(nodes: Iterable[Node], plan: ActorPlan) -> str:
    """What there is not that the actor needs to run."""
    there = list(nodes)
    reason = infeasible(there, plan)
    if reason is not None:
        return reason
    able = [node for node in there if may_run(node, plan)]
    staying = [node for node in able if not node.leaving]
    if not staying:
        return f"the nodes that could run it are leaving: {', '.join(node.id for node in able)}" if able else "a node"
    if not any(has_room(node, plan) for node in staying):
        free = {node.id: {name: node.free(name) for name in plan.options.resources} for node in staying}
        return f"it asks for resources {plan.options.resources}, and free are: {free}"
    return f"a worker process on {', '.join(node.id for node in staying)}"


def _knows(node: Node, plan: ActorPlan) -> bool:
    return plan.class_name in node.classes or ANY_CLASS in node.classes
