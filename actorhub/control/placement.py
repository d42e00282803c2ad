"""Placement of one actor or slot: which nodes could run it, and which of them it goes to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actorhub.control.group_placement import NodeCapacity
from actorhub.control_api.events import ANY_CLASS
from actorhub.control_api.info import NodeInfo, WorkerInfo
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.resources import amounts, fits, minus, units


@dataclass(eq=False)
class WorkerEntry:
    """A live worker process."""

    id: str
    node: str
    pid: int
    dedicated_to: str | None = None
    """The only actor that it hosts; None for a shared worker."""
    load: int = 0
    """Number of actors assigned to it, those included for which it is the standby."""


@dataclass(eq=False)
class NodeEntry:
    """A live node."""

    id: str
    host: str
    pid: int
    version: str
    labels: Mapping[str, str]
    total: Mapping[str, int]
    """Units of each resource that it has."""
    classes: frozenset[str]
    """Names of the actor classes that it can run; `ANY_CLASS` among them stands for all."""
    seen: float
    """When it last reported, by control's clock."""
    leaving: bool = False
    store: str | None = None
    """Directory of its object store, for processes of its machine."""
    run: str = ""
    """Identity of the agent's process; see `NodeReport`."""
    free: dict[str, int] = field(default_factory=dict)
    """Units of each resource that nothing has reserved. Negative where a node came back with less than is reserved on it."""
    workers: dict[str, WorkerEntry] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    """Process ids of its task slots, by the slots' ids."""

    def __post_init__(self) -> None:
        self.free = self.free or dict(self.total)

    def reserve(self, units: Mapping[str, int], sign: int = 1) -> None:
        """Reserve units of resources; a `sign` of -1 releases them."""
        for name, amount in units.items():
            self.free[name] = self.free.get(name, 0) - sign * amount

    @property
    def reserved(self) -> Mapping[str, int]:
        return minus(self.total, self.free)

    def least_loaded_worker(self, *, except_for: str | None = None) -> WorkerEntry | None:
        """The shared worker with the fewest actors, other than `except_for`."""
        shared = [worker for worker in self.workers.values() if worker.dedicated_to is None and worker.id != except_for]
        return min(shared, key=lambda worker: (worker.load, worker.id), default=None)

    def capacity(self) -> NodeCapacity:
        """Capacity of the node, for placement strategies: a live view of `free`, and the present load."""
        worker = self.least_loaded_worker()
        return NodeCapacity(self.id, self.free, worker.load if worker is not None else 0)

    def info(self, hosted: Mapping[str, list[str]]) -> NodeInfo:
        """The node as people see it. `hosted` has the ids of each worker's actors."""
        return NodeInfo(
            id=self.id,
            host=self.host,
            pid=self.pid,
            version=self.version,
            labels=dict(self.labels),
            resources_total=amounts(self.total),
            resources_free=amounts({name: self.free.get(name, 0) for name in self.total}),
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


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """Requirements of an actor or a slot on the node that runs it."""

    units: Mapping[str, int]
    """Units of resources that are reserved for it."""
    labels: Mapping[str, str]
    """Labels that the node must have."""
    prefer: Mapping[str, str]
    """Labels that the node should have."""
    node: str | None
    """The only node that it may run on."""
    class_name: str | None
    """The actor class that the node must know; None if the class travels with the actor, and for a slot."""
    own_worker: bool
    """True if a process is started for it alone."""

    @classmethod
    def for_actor(cls, plan: SpawnSpec) -> PlacementRequest:
        return cls(
            units=units(plan.options.resources),
            labels=plan.labels,
            prefer=plan.prefer,
            node=plan.node,
            class_name=plan.class_name if plan.code is None else None,
            own_worker=plan.options.is_isolated,
        )

    @classmethod
    def for_slot(cls, needs: Requirements) -> PlacementRequest:
        return cls(
            units=units(needs.wanted),
            labels=needs.labels,
            prefer=needs.prefer,
            node=needs.node,
            class_name=None,
            own_worker=True,
        )

    @property
    def shape(self) -> tuple[object, ...]:
        """A key that is equal for two requests that fit on the same nodes."""
        parts = (self.units, self.labels, self.prefer)
        return (*(tuple(sorted(part.items())) for part in parts), self.node, self.class_name, self.own_worker)

    def may_run(self, node: NodeEntry) -> bool:
        """True if an empty node could run it."""
        return (
            (self.class_name is None or self.class_name in node.classes or ANY_CLASS in node.classes)
            and (self.node is None or self.node == node.id)
            and all(node.labels.get(name) == value for name, value in self.labels.items())
            and fits(self.units, node.total)
        )

    def has_room(self, node: NodeEntry) -> bool:
        """True if the node has the resources free, and a worker for it."""
        return fits(self.units, node.free) and self.has_worker(node)

    def has_worker(self, node: NodeEntry) -> bool:
        """True if the node stays, and has a shared worker or starts one for it alone."""
        return not node.leaving and (self.own_worker or node.least_loaded_worker() is not None)

    def prefers(self, node: NodeEntry) -> bool:
        return all(node.labels.get(name) == value for name, value in self.prefer.items())


def choose(nodes: Iterable[NodeEntry], request: PlacementRequest, *, last: str | None = None) -> NodeEntry | None:
    """The node for a request: the first with room and the preferred labels, else the first with room; None if none has room.

    Args:
        nodes: in the order of their load.
        request: its requirements.
        last: a node that is chosen only if no other has room, such as the one that hosts the actor already.
    """
    without_labels: NodeEntry | None = None
    fallback: NodeEntry | None = None
    for node in nodes:
        if not request.may_run(node) or not request.has_room(node):
            continue
        if node.id == last:
            fallback = fallback or node
        elif request.prefers(node):
            return node
        else:
            without_labels = without_labels or node
    return without_labels or fallback


def infeasible(nodes: Iterable[NodeEntry], what: str, request: PlacementRequest) -> str | None:
    """The reason why no node could ever run `what`, with the best that any node has; None if one could, or without nodes."""
    known = list(nodes)
    if not known or any(request.may_run(node) for node in known):
        return None
    if request.node is not None and all(node.id != request.node for node in known):
        return f"{what} asks for node {request.node!r}; there are: {', '.join(sorted(node.id for node in known))}"
    if request.class_name is not None and not any(_knows(node, request.class_name) for node in known):
        classes = sorted({name for node in known for name in node.classes})
        module = request.class_name.partition(":")[0]
        hint = f"start one with `actorhub node {module}`; nodes know: {', '.join(classes) or 'none'}"
        return f"no node knows {request.class_name}; {hint}"
    if request.labels and not any(node.labels.items() >= request.labels.items() for node in known):
        return f"{what} asks for labels {dict(request.labels)}; nodes have: {[dict(node.labels) for node in known]}"
    best = {name: max(node.total.get(name, 0) for node in known) for name in request.units}
    return f"{what} asks for resources {amounts(request.units)}; the most that any node has: {amounts(best)}"


def waits_for(nodes: Iterable[NodeEntry], what: str, request: PlacementRequest) -> str:
    """The thing that is missing before `what` can run, for people."""
    known = list(nodes)
    reason = infeasible(known, what, request)
    if reason is not None:
        return reason
    able = [node for node in known if request.may_run(node)]
    staying = [node for node in able if not node.leaving]
    if not staying:
        return f"the nodes that could run it are leaving: {', '.join(node.id for node in able)}" if able else "a node"
    if not any(fits(request.units, node.free) for node in staying):
        free = {node.id: amounts({name: node.free.get(name, 0) for name in request.units}) for node in staying}
        return f"it asks for resources {amounts(request.units)}, and free are: {free}"
    if any(request.has_room(node) for node in staying):
        return "others that have waited for longer, and ask for the same resources"
    return f"a worker process on {', '.join(node.id for node in staying)}"


def _knows(node: NodeEntry, class_name: str) -> bool:
    return class_name in node.classes or ANY_CLASS in node.classes
