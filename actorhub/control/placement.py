"""Where an actor goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actorhub.control.strategies import NodeCapacity
from actorhub.control_api.events import ANY_CLASS
from actorhub.control_api.info import NodeInfo, WorkerInfo
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.resources import amounts, fits, minus, units


@dataclass(eq=False)
class WorkerEntry:
    """A worker process that lives. `load` counts the actors placed on it."""

    id: str
    node: str
    pid: int
    dedicated_to: str | None = None
    load: int = 0


@dataclass(eq=False)
class NodeEntry:
    """A node that lives. `total` and `free` are in units; what is reserved is not free. `run`: see `NodeReport`."""

    id: str
    host: str
    pid: int
    version: str
    labels: Mapping[str, str]
    total: Mapping[str, int]
    classes: frozenset[str]
    seen: float
    leaving: bool = False
    store: str | None = None
    run: str = ""
    free: dict[str, int] = field(default_factory=dict)
    workers: dict[str, WorkerEntry] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)  # pids by id

    def __post_init__(self) -> None:
        self.free = self.free or dict(self.total)

    def reserve(self, units: Mapping[str, int], sign: int = 1) -> None:
        for name, amount in units.items():
            self.free[name] = self.free.get(name, 0) - sign * amount

    @property
    def reserved(self) -> Mapping[str, int]:
        return minus(self.total, self.free)

    def shared(self, *, besides: str | None = None) -> WorkerEntry | None:
        """Of the workers that many actors share, but for this one: the one with the fewest."""
        there = [worker for worker in self.workers.values() if worker.dedicated_to is None and worker.id != besides]
        return min(there, key=lambda worker: (worker.load, worker.id), default=None)

    def site(self) -> NodeCapacity:
        """For strategies. It goes on to say what is free."""
        shared = self.shared()
        return NodeCapacity(self.id, self.free, shared.load if shared is not None else 0)

    def info(self, hosted: Mapping[str, list[str]]) -> NodeInfo:
        """For people. `hosted`: the ids of each worker's actors."""
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
    """What an actor or a slot asks of a node: units of resources, labels that it must have, labels that it should have, and
    which classes it must know."""

    units: Mapping[str, int]
    labels: Mapping[str, str]
    prefer: Mapping[str, str]
    node: str | None
    class_name: str | None
    own_worker: bool

    @classmethod
    def of(cls, plan: SpawnSpec) -> PlacementRequest:
        return cls(
            units=units(plan.options.resources),
            labels=plan.labels,
            prefer=plan.prefer,
            node=plan.node,
            class_name=plan.class_name if plan.code is None else None,
            own_worker=plan.options.is_isolated,
        )

    @classmethod
    def of_slot(cls, needs: Requirements) -> PlacementRequest:
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
        """Two of one shape fit in the same places."""
        parts = (self.units, self.labels, self.prefer)
        return (*(tuple(sorted(part.items())) for part in parts), self.node, self.class_name, self.own_worker)

    def may_run(self, node: NodeEntry) -> bool:
        """Whether the node could run it if it were empty."""
        return (
            (self.class_name is None or self.class_name in node.classes or ANY_CLASS in node.classes)
            and (self.node is None or self.node == node.id)
            and all(node.labels.get(name) == value for name, value in self.labels.items())
            and fits(self.units, node.total)
        )

    def has_room(self, node: NodeEntry) -> bool:
        return fits(self.units, node.free) and self.has_worker(node)

    def has_worker(self, node: NodeEntry) -> bool:
        """Or gets one there."""
        return not node.leaving and (self.own_worker or node.shared() is not None)

    def prefers(self, node: NodeEntry) -> bool:
        return all(node.labels.get(name) == value for name, value in self.prefer.items())


def choose(nodes: Iterable[NodeEntry], ask: PlacementRequest, *, beside: str | None = None) -> NodeEntry | None:
    """The first of the nodes that has room, which come in order of their load: one with the labels that it prefers, if any has
    them. `beside`: where the actor is already; that node comes last."""
    second: NodeEntry | None = None
    last: NodeEntry | None = None
    for node in nodes:
        if not ask.may_run(node) or not ask.has_room(node):
            continue
        if node.id == beside:
            last = last or node
        elif ask.prefers(node):
            return node
        else:
            second = second or node
    return second or last


def infeasible(nodes: Iterable[NodeEntry], what: str, ask: PlacementRequest) -> str | None:
    """Why no node could ever run `what`, with the best that there is; None where one could, or where there is no node yet."""
    there = list(nodes)
    if not there or any(ask.may_run(node) for node in there):
        return None
    if ask.node is not None and all(node.id != ask.node for node in there):
        return f"{what} asks for node {ask.node!r}; there are: {', '.join(sorted(node.id for node in there))}"
    if ask.class_name is not None and not any(_knows(node, ask.class_name) for node in there):
        known = sorted({name for node in there for name in node.classes})
        module = ask.class_name.partition(":")[0]
        hint = f"start one with `actorhub node {module}`; nodes know: {', '.join(known) or 'none'}"
        return f"no node knows {ask.class_name}; {hint}"
    if ask.labels and not any(node.labels.items() >= ask.labels.items() for node in there):
        return f"{what} asks for labels {dict(ask.labels)}; nodes have: {[dict(node.labels) for node in there]}"
    best = {name: max(node.total.get(name, 0) for node in there) for name in ask.units}
    return f"{what} asks for resources {amounts(ask.units)}; the most that any node has: {amounts(best)}"


def waits_for(nodes: Iterable[NodeEntry], what: str, ask: PlacementRequest) -> str:
    """What there is not that `what` needs to run."""
    there = list(nodes)
    reason = infeasible(there, what, ask)
    if reason is not None:
        return reason
    able = [node for node in there if ask.may_run(node)]
    staying = [node for node in able if not node.leaving]
    if not staying:
        return f"the nodes that could run it are leaving: {', '.join(node.id for node in able)}" if able else "a node"
    if not any(fits(ask.units, node.free) for node in staying):
        free = {node.id: amounts({name: node.free.get(name, 0) for name in ask.units}) for node in staying}
        return f"it asks for resources {amounts(ask.units)}, and free are: {free}"
    if any(ask.has_room(node) for node in staying):
        return "others that have waited for longer, and ask for the same resources"
    return f"a worker process on {', '.join(node.id for node in staying)}"


def _knows(node: NodeEntry, class_name: str) -> bool:
    return class_name in node.classes or ANY_CLASS in node.classes
