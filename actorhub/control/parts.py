"""What of control's knowledge outlives it, in parts: of each actor its plan and its life, of each node, placement group and
task queue with slots of its own what is known of it, and what is known of the whole cluster. A part has a key, and is JSON.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from actorhub.control.directory import Actor, Directory, Spot
from actorhub.control.fleet import Fleet
from actorhub.control.groups import Group, Groups
from actorhub.control.infos import State
from actorhub.control.placement import Node, Worker
from actorhub.control.plans import ActorPlan, GroupPlan
from actorhub.control.queues import Slot, TaskQueue, TaskQueues
from actorhub.needs import Needs

PLAN, LIFE, NODE, GROUP, QUEUE = "plan", "life", "node", "group", "queue"
CLUSTER = "cluster"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()


class Life(_Part):
    """An actor's, but for its plan. See `Actor`."""

    number: int
    state: State
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    starts: int = 0
    standby: Spot | None = None
    restarts: int = 0
    restarted: tuple[float, ...] = ()
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = {}
    waits: int | None = None
    digger: str | None = None
    is_buried: bool = False

    @classmethod
    def of(cls, actor: Actor) -> Self:
        return cls.model_validate({name: getattr(actor, name) for name in cls.model_fields})

    def actor(self, plan: ActorPlan) -> Actor:
        fields: dict[str, Any] = dict(self) | {"restarted": list(self.restarted), "kills": dict(self.kills)}
        return Actor(plan, **fields)


class NodePart(_Part):
    """A node, but for what follows from the lives of its actors."""

    id: str
    host: str
    pid: int
    version: str
    labels: dict[str, str] = {}
    total: dict[str, int] = {}
    classes: tuple[str, ...] = ()
    leaving: bool = False
    store: str | None = None
    run: str = ""
    slots: dict[str, int] = {}
    workers: tuple[tuple[str, int, str | None], ...] = ()

    @classmethod
    def of(cls, node: Node) -> Self:
        fields = {name: getattr(node, name) for name in cls.model_fields}
        workers = [(worker.id, worker.pid, worker.dedicated_to) for worker in node.workers.values()]
        return cls.model_validate(fields | {"classes": sorted(node.classes), "workers": workers})

    def node(self, seen: float) -> Node:
        workers = {id_: Worker(id_, self.id, pid, dedicated_to) for id_, pid, dedicated_to in self.workers}
        fields: dict[str, Any] = dict(self) | {"classes": frozenset(self.classes), "workers": workers, "seen": seen}
        return Node(**fields)


class GroupPart(_Part):
    """A placement group, and where its bundles are."""

    plan: GroupPlan
    number: int
    nodes: tuple[str | None, ...]

    @classmethod
    def of(cls, group: Group) -> Self:
        return cls(plan=group.plan, number=group.number, nodes=tuple(group.nodes))

    def group(self) -> Group:
        return Group(self.plan, self.number, list(self.nodes))


class QueuePart(_Part):
    """A task queue with slots of its own, and where these are. See `TaskQueue`."""

    name: str
    namespace: str
    needs: Needs
    priority: int = 0
    starts: int = 0
    cause: str | None = None
    digger: str | None = None
    slots: dict[str, str] = {}

    @classmethod
    def of(cls, queue: TaskQueue) -> Self:
        fields = {name: getattr(queue, name) for name in cls.model_fields}
        return cls.model_validate(fields | {"slots": {slot.id: slot.node for slot in queue.slots.values()}})

    def queue(self, now: float) -> TaskQueue:
        fields: dict[str, Any] = {name: value for name, value in self if name != "slots"}
        queue = TaskQueue(**fields)
        queue.slots = {id_: Slot(id_, queue, node, since=now) for id_, node in self.slots.items()}
        return queue


class Cluster(_Part):
    """The task queues that anybody has used, and the namespaces that are prepared."""

    queues: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Knowledge:
    """All that parts are of."""

    directory: Directory
    fleet: Fleet
    groups: Groups
    queues: TaskQueues


def changed(known: Knowledge) -> list[str]:
    """The keys of all parts that have changed since they were taken down."""
    touched = {
        PLAN: known.directory.plans,
        LIFE: known.directory.lives,
        NODE: known.fleet.touched,
        GROUP: known.groups.touched,
        QUEUE: known.queues.touched,
    }
    return [f"{kind}.{id_}" for kind, ids in touched.items() for id_ in ids]


def taken_down(known: Knowledge) -> None:
    """From here on nothing has changed."""
    touched = (known.directory.plans, known.directory.lives, known.fleet.touched, known.groups.touched)
    for ids in (*touched, known.queues.touched):
        ids.clear()


def encoded(key: str, known: Knowledge) -> bytes | None:
    """A part as it is now; None where there is none any more."""
    kind, _, id_ = key.partition(".")
    if kind == NODE:
        node = known.fleet.nodes.get(id_)
        return NodePart.of(node).encoded() if node is not None else None
    if kind == GROUP:
        group = known.groups.get(id_)
        return GroupPart.of(group).encoded() if group is not None else None
    if kind == QUEUE:
        queue = known.queues.get(id_)
        return QueuePart.of(queue).encoded() if queue is not None else None
    actor = known.directory.get(id_)
    if actor is None:
        return None
    return actor.plan.model_dump_json().encode() if kind == PLAN else Life.of(actor).encoded()


def restore(parts: Mapping[str, bytes], known: Knowledge, *, now: float) -> None:
    """Fill all of it as the parts say. Whoever is silent is so from now on."""
    of: dict[str, dict[str, bytes]] = {PLAN: {}, LIFE: {}, NODE: {}, GROUP: {}, QUEUE: {}}
    for key, body in parts.items():
        kind, _, id_ = key.partition(".")
        of.get(kind, {})[id_] = body
    plans = {id_: ActorPlan.model_validate_json(body) for id_, body in of[PLAN].items()}
    groups = [GroupPart.model_validate_json(body).group() for body in of[GROUP].values()]
    known.directory.restore(Life.model_validate_json(body).actor(plans[id_]) for id_, body in of[LIFE].items())
    known.fleet.restore(NodePart.model_validate_json(body).node(now) for body in of[NODE].values())
    for group in sorted(groups, key=lambda group: group.number):
        known.directory.count(above=group.number - 1)
        known.groups.add(group)
    for body in of[QUEUE].values():
        known.queues.add(QueuePart.model_validate_json(body).queue(now))
    taken_down(known)
