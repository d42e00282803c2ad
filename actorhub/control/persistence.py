"""Rows of control's tables as they stand in its journal: JSON, each under a key. Pure.

| key | row |
|---|---|
| `plan.{actor}` | the actor's plan |
| `life.{actor}` | everything else about the actor (`ActorRow`) |
| `node.{node}` | a node and its workers (`NodeRow`) |
| `group.{group}` | a placement group and where its bundles are (`GroupRow`) |
| `queue.{queue}` | a task queue with dedicated slots, and where these are (`TaskQueueRow`) |
| `cluster` | facts about the whole cluster (`ClusterRow`) |

Aliases of fields are their names in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from actorhub.control.directory import ActorEntry, StandbyWorker
from actorhub.control.group_registry import GroupEntry
from actorhub.control.placement import NodeEntry, WorkerEntry
from actorhub.control.tables import ClusterTable, ControlTables
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueEntry
from actorhub.control_api.info import State
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec

PLAN, LIFE, NODE, GROUP, QUEUE, CLUSTER = "plan", "life", "node", "group", "queue", "cluster"


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()


class ActorRow(_Row):
    """An actor without its plan. `ActorEntry` documents the fields."""

    number: int
    state: State
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    starts: int = 0
    standby: StandbyWorker | None = None
    restarts: int = 0
    restart_times: tuple[float, ...] = Field(default=(), alias="restarted")
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = {}
    pending_number: int | None = Field(default=None, alias="waits")
    cleaner: str | None = Field(default=None, alias="digger")
    is_mailbox_deleted: bool = Field(default=False, alias="is_buried")

    @classmethod
    def of(cls, actor: ActorEntry) -> Self:
        return cls.model_validate({name: getattr(actor, name) for name in cls.model_fields})

    def entry(self, plan: SpawnSpec) -> ActorEntry:
        fields: dict[str, Any] = dict(self) | {"restart_times": list(self.restart_times), "kills": dict(self.kills)}
        return ActorEntry(plan, **fields)


class NodeRow(_Row):
    """A node without what follows from its actors, slots and bundles. `NodeEntry` documents the fields."""

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
    """Of each worker its id, its process id, and the actor that it is dedicated to."""

    @classmethod
    def of(cls, node: NodeEntry) -> Self:
        fields = {name: getattr(node, name) for name in cls.model_fields}
        workers = [(worker.id, worker.pid, worker.dedicated_to) for worker in node.workers.values()]
        return cls.model_validate(fields | {"classes": sorted(node.classes), "workers": workers})

    def entry(self, seen: float) -> NodeEntry:
        workers = {id_: WorkerEntry(id_, self.id, pid, dedicated_to) for id_, pid, dedicated_to in self.workers}
        fields: dict[str, Any] = dict(self) | {"classes": frozenset(self.classes), "workers": workers, "seen": seen}
        return NodeEntry(**fields)


class GroupRow(_Row):
    """A placement group. `GroupEntry` documents the fields."""

    plan: PlacementGroupSpec
    number: int
    nodes: tuple[str | None, ...]

    @classmethod
    def of(cls, group: GroupEntry) -> Self:
        return cls(plan=group.plan, number=group.number, nodes=tuple(group.nodes))

    def entry(self) -> GroupEntry:
        return GroupEntry(self.plan, self.number, list(self.nodes))


class TaskQueueRow(_Row):
    """A task queue with dedicated slots. `TaskQueueEntry` documents the fields."""

    name: str
    namespace: str
    needs: Requirements
    priority: int = 0
    starts: int = 0
    end_cause: str | None = Field(default=None, alias="cause")
    cleaner: str | None = Field(default=None, alias="digger")
    slots: dict[str, str] = {}
    """The node of each placed slot, by the slot's id."""

    @classmethod
    def of(cls, queue: TaskQueueEntry) -> Self:
        fields = {name: getattr(queue, name) for name in cls.model_fields}
        return cls.model_validate(fields | {"slots": {slot.id: slot.node for slot in queue.slots.values()}})

    def entry(self, now: float) -> TaskQueueEntry:
        fields: dict[str, Any] = {name: value for name, value in self if name != "slots"}
        queue = TaskQueueEntry(**fields)
        queue.slots = {id_: SlotEntry(id_, queue, node, placed_at=now) for id_, node in self.slots.items()}
        return queue


class ClusterRow(_Row):
    """Facts about the whole cluster. `ClusterTable` documents the fields."""

    queues: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    @classmethod
    def of(cls, cluster: ClusterTable) -> Self:
        return cls(queues=tuple(cluster.queues), namespaces=tuple(cluster.namespaces))


def changed_keys(tables: ControlTables) -> list[str]:
    """Keys of all rows that have changed since `mark_persisted`."""
    changed = {
        PLAN: tables.directory.changed_plans,
        LIFE: tables.directory.changed_actors,
        NODE: tables.nodes.changed,
        GROUP: tables.groups.changed,
        QUEUE: tables.task_queues.changed,
    }
    keys = [f"{kind}.{id_}" for kind, ids in changed.items() for id_ in ids]
    return [*keys, CLUSTER] if tables.cluster.is_changed else keys


def mark_persisted(tables: ControlTables) -> None:
    """Note that every row stands in the journal as it is now."""
    tables.directory.changed_plans.clear()
    tables.directory.changed_actors.clear()
    tables.nodes.changed.clear()
    tables.groups.changed.clear()
    tables.task_queues.changed.clear()
    tables.cluster.is_changed = False


def encoded(key: str, tables: ControlTables) -> bytes | None:
    """The row with this key as JSON; None if it is gone."""
    kind, _, id_ = key.partition(".")
    if kind == CLUSTER:
        return ClusterRow.of(tables.cluster).encoded()
    if kind == NODE:
        node = tables.nodes.by_id.get(id_)
        return NodeRow.of(node).encoded() if node is not None else None
    if kind == GROUP:
        group = tables.groups.get(id_)
        return GroupRow.of(group).encoded() if group is not None else None
    if kind == QUEUE:
        queue = tables.task_queues.get(id_)
        return TaskQueueRow.of(queue).encoded() if queue is not None else None
    actor = tables.directory.get(id_)
    if actor is None:
        return None
    return actor.plan.model_dump_json().encode() if kind == PLAN else ActorRow.of(actor).encoded()


def restore(rows: Mapping[str, bytes], tables: ControlTables, *, now: float) -> None:
    """Fill empty tables with the rows of a journal.

    Args:
        rows: JSON by key.
        tables: the tables.
        now: control's clock; the silence of a node counts from here.
    """
    by_kind: dict[str, dict[str, bytes]] = {PLAN: {}, LIFE: {}, NODE: {}, GROUP: {}, QUEUE: {}}
    for key, body in rows.items():
        kind, _, id_ = key.partition(".")
        by_kind.get(kind, {})[id_] = body
    plans = {id_: SpawnSpec.model_validate_json(body) for id_, body in by_kind[PLAN].items()}
    groups = [GroupRow.model_validate_json(body).entry() for body in by_kind[GROUP].values()]
    tables.directory.restore(
        ActorRow.model_validate_json(body).entry(plans[id_]) for id_, body in by_kind[LIFE].items()
    )
    tables.nodes.restore(NodeRow.model_validate_json(body).entry(now) for body in by_kind[NODE].values())
    for group in sorted(groups, key=lambda group: group.number):
        tables.directory.next_number(above=group.number - 1)
        tables.groups.add(group)
    for body in by_kind[QUEUE].values():
        tables.task_queues.add(TaskQueueRow.model_validate_json(body).entry(now))
    cluster = ClusterRow.model_validate_json(rows.get(CLUSTER, b"{}"))
    tables.cluster.restore(cluster.queues, cluster.namespaces)
    mark_persisted(tables)
