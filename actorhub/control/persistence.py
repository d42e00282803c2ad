"""What of control's knowledge outlives it, in parts: of each actor its plan and its life, of each node, placement group and
task queue with slots of its own what is known of it, and what is known of the whole cluster. A part has a key, and is JSON.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from actorhub.control.directory import ActorDirectory, ActorEntry, StandbyWorker
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.placement import NodeEntry, WorkerEntry
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueEntry, TaskQueueRegistry
from actorhub.control_api.info import State
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec

PLAN, LIFE, NODE, GROUP, QUEUE = "plan", "life", "node", "group", "queue"
CLUSTER = "cluster"


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()


class ActorRow(_Part):
    """An actor's, but for its plan. See `ActorEntry`."""

    number: int
    state: State
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    starts: int = 0
    standby: StandbyWorker | None = None
    restarts: int = 0
    restarted: tuple[float, ...] = ()
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = {}
    waits: int | None = None
    cleaner: str | None = Field(default=None, alias="digger")
    is_buried: bool = False

    @classmethod
    def of(cls, actor: ActorEntry) -> Self:
        return cls.model_validate({name: getattr(actor, name) for name in cls.model_fields})

    def actor(self, plan: SpawnSpec) -> ActorEntry:
        fields: dict[str, Any] = dict(self) | {"restarted": list(self.restarted), "kills": dict(self.kills)}
        return ActorEntry(plan, **fields)


class NodeRow(_Part):
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
    def of(cls, node: NodeEntry) -> Self:
        fields = {name: getattr(node, name) for name in cls.model_fields}
        workers = [(worker.id, worker.pid, worker.dedicated_to) for worker in node.workers.values()]
        return cls.model_validate(fields | {"classes": sorted(node.classes), "workers": workers})

    def node(self, seen: float) -> NodeEntry:
        workers = {id_: WorkerEntry(id_, self.id, pid, dedicated_to) for id_, pid, dedicated_to in self.workers}
        fields: dict[str, Any] = dict(self) | {"classes": frozenset(self.classes), "workers": workers, "seen": seen}
        return NodeEntry(**fields)


class GroupRow(_Part):
    """A placement group, and where its bundles are."""

    plan: PlacementGroupSpec
    number: int
    nodes: tuple[str | None, ...]

    @classmethod
    def of(cls, group: GroupEntry) -> Self:
        return cls(plan=group.plan, number=group.number, nodes=tuple(group.nodes))

    def group(self) -> GroupEntry:
        return GroupEntry(self.plan, self.number, list(self.nodes))


class TaskQueueRow(_Part):
    """A task queue with slots of its own, and where these are. See `TaskQueueEntry`."""

    name: str
    namespace: str
    needs: Requirements
    priority: int = 0
    starts: int = 0
    cause: str | None = None
    cleaner: str | None = Field(default=None, alias="digger")
    slots: dict[str, str] = {}

    @classmethod
    def of(cls, queue: TaskQueueEntry) -> Self:
        fields = {name: getattr(queue, name) for name in cls.model_fields}
        return cls.model_validate(fields | {"slots": {slot.id: slot.node for slot in queue.slots.values()}})

    def queue(self, now: float) -> TaskQueueEntry:
        fields: dict[str, Any] = {name: value for name, value in self if name != "slots"}
        queue = TaskQueueEntry(**fields)
        queue.slots = {id_: SlotEntry(id_, queue, node, since=now) for id_, node in self.slots.items()}
        return queue


class Cluster(_Part):
    """The task queues that anybody has used, and the namespaces that are prepared."""

    queues: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class ControlTables:
    """All that parts are of."""

    directory: ActorDirectory
    nodes: NodeRegistry
    groups: GroupRegistry
    queues: TaskQueueRegistry


def changed(known: ControlTables) -> list[str]:
    """The keys of all parts that have changed since they were taken down."""
    touched = {
        PLAN: known.directory.plans,
        LIFE: known.directory.lives,
        NODE: known.nodes.touched,
        GROUP: known.groups.touched,
        QUEUE: known.queues.touched,
    }
    return [f"{kind}.{id_}" for kind, ids in touched.items() for id_ in ids]


def mark_persisted(known: ControlTables) -> None:
    """From here on nothing has changed."""
    touched = (known.directory.plans, known.directory.lives, known.nodes.touched, known.groups.touched)
    for ids in (*touched, known.queues.touched):
        ids.clear()


def encoded(key: str, known: ControlTables) -> bytes | None:
    """A part as it is now; None where there is none any more."""
    kind, _, id_ = key.partition(".")
    if kind == NODE:
        node = known.nodes.by_id.get(id_)
        return NodeRow.of(node).encoded() if node is not None else None
    if kind == GROUP:
        group = known.groups.get(id_)
        return GroupRow.of(group).encoded() if group is not None else None
    if kind == QUEUE:
        queue = known.queues.get(id_)
        return TaskQueueRow.of(queue).encoded() if queue is not None else None
    actor = known.directory.get(id_)
    if actor is None:
        return None
    return actor.plan.model_dump_json().encode() if kind == PLAN else ActorRow.of(actor).encoded()


def restore(parts: Mapping[str, bytes], known: ControlTables, *, now: float) -> None:
    """Fill all of it as the parts say. Whoever is silent is so from now on."""
    of: dict[str, dict[str, bytes]] = {PLAN: {}, LIFE: {}, NODE: {}, GROUP: {}, QUEUE: {}}
    for key, body in parts.items():
        kind, _, id_ = key.partition(".")
        of.get(kind, {})[id_] = body
    plans = {id_: SpawnSpec.model_validate_json(body) for id_, body in of[PLAN].items()}
    groups = [GroupRow.model_validate_json(body).group() for body in of[GROUP].values()]
    known.directory.restore(ActorRow.model_validate_json(body).actor(plans[id_]) for id_, body in of[LIFE].items())
    known.nodes.restore(NodeRow.model_validate_json(body).node(now) for body in of[NODE].values())
    for group in sorted(groups, key=lambda group: group.number):
        known.directory.count(above=group.number - 1)
        known.groups.add(group)
    for body in of[QUEUE].values():
        known.queues.add(TaskQueueRow.model_validate_json(body).queue(now))
    mark_persisted(known)
