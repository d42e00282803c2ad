"""Control's decisions as a pure state machine: events in, commands out. No clock, no broker, no await.

Everything outlives the process that runs control: `changes` returns the rows that have changed, and a successor begins with all
rows as they were last. So it knows where each actor is, and hears from the nodes what has happened meanwhile.

| part of the state | decides |
|---|---|
| `actor_lifecycle` | spawn, placement, standby, restart and death of actors |
| `group_lifecycle` | placement groups |
| `node_lifecycle` | nodes and workers that report, are silent or are lost |
| `slot_scheduler` | dedicated slots of task queues, and preemption |
| `cleanup` | deletion of mailboxes and task queues |
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from typing import Protocol, TypeVar

from actorhub.control import persistence
from actorhub.control.actor_lifecycle import ActorLifecycle
from actorhub.control.cleanup import Cleanup
from actorhub.control.decision import Decision
from actorhub.control.group_lifecycle import GroupLifecycle
from actorhub.control.group_registry import GroupEntry
from actorhub.control.node_lifecycle import NodeLifecycle
from actorhub.control.pending import PendingPlacements
from actorhub.control.reservations import Reservations
from actorhub.control.slot_scheduler import SlotScheduler
from actorhub.control.tables import ControlTables, PendingItem
from actorhub.control.task_queue_registry import SlotEntry
from actorhub.control_api.commands import Command, MakeDeadLetters, TaskQueueReply
from actorhub.control_api.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    Event,
    GroupRemoved,
    GroupRequested,
    KillRequested,
    MailboxDeleted,
    NodeReport,
    QueueDepths,
    SessionEnded,
    SlotEnded,
    SpawnRequested,
    TaskQueueUsed,
    Tick,
    WorkerLost,
    WorkerStopped,
)
from actorhub.control_api.info import ActorInfo, DedicatedQueueInfo, Demand, GroupInfo, NodeInfo
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.resources import amounts, plus


class ControlState:
    """Everything that control knows, and all its decisions.

    Args:
        node_timeout: seconds of silence after which a node is taken for lost.
    """

    def __init__(self, *, node_timeout: float) -> None:
        tables = self._tables = ControlTables()
        self._pending: PendingPlacements[PendingItem] = PendingPlacements()
        self._reservations = Reservations(tables.nodes, tables.groups)
        self._cleanup = Cleanup(tables)
        self._slots = SlotScheduler(tables, self._reservations, self._pending)
        self._groups = GroupLifecycle(tables, self._reservations, self._pending, self._slots, self._cleanup)
        self._actors = ActorLifecycle(tables, self._reservations, self._pending, self._groups, self._cleanup)
        self._nodes = NodeLifecycle(tables, self._actors, self._groups, self._slots, self._cleanup, node_timeout)

    @classmethod
    def restored(cls, rows: Mapping[str, bytes], *, node_timeout: float, now: float) -> ControlState:
        """The state of a successor.

        Args:
            rows: the last value of each row, as JSON by key.
            node_timeout: seconds of silence after which a node is taken for lost.
            now: control's clock, which goes on where it stood for the predecessor.
        """
        state = cls(node_timeout=node_timeout)
        persistence.restore(rows, state._tables, now=now)
        state._groups.restore()
        state._actors.restore()
        state._slots.restore(now)
        state._cleanup.restore()
        return state

    def handle(self, event: Event, now: float) -> list[Command]:
        """Change the state by an event, and return the commands that follow, in order.

        An event may come late, or be about an actor, worker or node that is gone; it changes nothing then.

        Args:
            event: the event.
            now: control's clock in seconds. It never runs back.
        """
        decision = Decision(now)
        self._apply(event, decision)
        self._pending.place_all(
            functools.partial(self._try_place, decision), self._reservations.hold_for, self._tables.nodes.room_version
        )
        self._actors.assign_standbys(decision)
        self._cleanup.assign(decision)
        return decision.commands

    def _apply(self, event: Event, decision: Decision) -> None:
        match event:
            case SpawnRequested():
                if self._actors.spawn(event, decision):
                    self._prepare_namespace(event.plan.namespace, decision)
            case KillRequested():
                self._actors.kill(event.actor, event.cause, decision)
            case SessionEnded():
                cause = f"its session {event.session} ended"
                self._actors.end_owned_by(event.session, cause, decision)
            case GroupRequested():
                self._groups.request(event, decision)
            case GroupRemoved():
                self._actors.remove_group(event.group, event.cause, decision)
            case TaskQueueUsed():
                self._use_queue(event, decision)
            case QueueDepths():
                self._slots.on_depths(event.waiting)
            case ActorStarted():
                self._actors.on_started(event, decision)
            case ActorFailed():
                self._actors.on_failed(event, decision)
            case ActorStopped():
                self._actors.on_stopped(event, decision)
            case MailboxDeleted():
                self._cleanup.on_deleted(event.actor)
            case SlotEnded():
                self._slots.on_slot_ended(event.slot)
            case NodeReport():
                self._nodes.on_report(event, decision)
            case WorkerLost():
                self._nodes.on_worker_lost(event, decision)
            case WorkerStopped():
                self._nodes.on_worker_stopped(event, decision)
            case Tick():
                self._nodes.remove_silent(decision)
                self._slots.preempt_for_waiting(decision)

    def _try_place(self, decision: Decision, item: PendingItem, held: Set[Hashable]) -> bool:
        if isinstance(item, GroupEntry):
            return self._reservations.place_group(item, held)
        if isinstance(item, SlotEntry):
            return self._slots.place(item, held, decision)
        return self._actors.place(item, held, decision)

    def _use_queue(self, event: TaskQueueUsed, decision: Decision) -> None:
        """Have a queue's tasks served: by dedicated slots if they ask for anything, else by all slots."""
        error = None
        if event.needs is None:
            self._nodes.share_queues([event.queue], decision)
        else:
            error = self._slots.use_queue(event, decision)
        if error is None:
            self._prepare_namespace(event.namespace, decision)
        decision.emit(TaskQueueReply(queue=event.queue, error=error))

    def _prepare_namespace(self, namespace: str, decision: Decision) -> None:
        """Declare the namespace's dead-letter stream before anything can be put into it."""
        if self._tables.cluster.add_namespace(namespace):
            decision.emit(MakeDeadLetters(namespace=namespace))

    # ---- persistence

    def changes(self) -> dict[str, bytes | None]:
        """Rows that have changed since the last call, as JSON by key; None for a row that is gone."""
        rows = {key: self.row(key) for key in self.changed_keys}
        persistence.mark_persisted(self._tables)
        return rows

    @property
    def changed_keys(self) -> list[str]:
        """Keys of the rows that have changed since `changes` was last called."""
        return persistence.changed_keys(self._tables)

    def row(self, key: str) -> bytes | None:
        """The row with this key as JSON; None if it is gone."""
        return persistence.encoded(key, self._tables)

    # ---- queries

    def find(self, namespace: str, name: str) -> SpawnSpec | None:
        """The outline of the plan of the living actor with this name."""
        actor = self._tables.directory.find(namespace, name)
        return actor.plan.outline if actor is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        """An actor, with what it waits for if it is pending; None if it is not known."""
        actor = self._tables.directory.get(actor_id)
        if actor is None or actor.pending_number is None:
            return actor.info if actor is not None else None
        return actor.info.model_copy(update={"waits_for": self._actors.waits_for(actor)})

    def actors(self, namespace: str | None = None, after: str | None = None) -> Iterator[ActorInfo]:
        """Living and dead actors in the order of their creation.

        Args:
            namespace: only those of this namespace.
            after: only those behind the one with this id.
        """
        actors = _behind(after, self._tables.directory.all())
        return (actor.info for actor in actors if namespace is None or actor.plan.namespace == namespace)

    def group(self, group_id: str) -> GroupInfo | None:
        """A placement group; None if it is not known."""
        group = self._tables.groups.get(group_id)
        return self._group_info(group) if group is not None else None

    def groups(self, namespace: str | None = None, after: str | None = None) -> Iterator[GroupInfo]:
        """Placement groups in the order of their creation. Arguments as of `actors`."""
        groups = _behind(after, self._tables.groups.all())
        return (self._group_info(group) for group in groups if namespace is None or group.plan.namespace == namespace)

    def _group_info(self, group: GroupEntry) -> GroupInfo:
        return group.info(self._groups.waits_for(group))

    def nodes(self) -> list[NodeInfo]:
        """All live nodes with their workers and actors."""
        hosted_by = self._tables.directory.hosted_by
        return [
            node.info({id_: [actor.id for actor in hosted_by(id_)] for id_ in node.workers})
            for node in self._tables.nodes.by_id.values()
        ]

    def queues(self) -> list[str]:
        """Task queues that every slot serves, in the order of their first use."""
        return self._tables.cluster.queues

    def task_queues(self, namespace: str | None = None) -> Iterator[DedicatedQueueInfo]:
        """Task queues with dedicated slots: those of the namespace, or all."""
        queues = (queue for queue in self._tables.task_queues.all() if queue.end_cause is None)
        return (self._slots.info(queue) for queue in queues if namespace in (None, queue.namespace))

    def watched(self) -> dict[str, bool]:
        """Names of the task queues whose depth is to be watched, and whether a slot is placed for each."""
        return {queue.name: bool(queue.slots) for queue in self._tables.task_queues.all() if queue.end_cause is None}

    def queue_waits_for(self, name: str) -> str:
        """The thing that is missing before a task queue is served, for people; empty if it is served."""
        queue = self._tables.task_queues.get(name)
        return self._slots.info(queue).waits_for if queue is not None else ""

    def would_act_on(self, depths: Mapping[str, int]) -> bool:
        """True if anything would follow from `QueueDepths` with these depths."""
        return self._slots.would_act_on(depths)

    def demand(self) -> list[Demand]:
        """Pending placements by what they ask for, as a scaler that adds nodes needs them. An item in a bundle is not among
        them: it waits for its group, or for others in the bundle, and no node helps it."""
        found: dict[tuple[object, ...], Demand] = {}
        for item in self._pending.items():
            if not isinstance(item, GroupEntry) and item.bundle is not None:
                continue
            one = _demand_of(item)
            shape = (one.kind, tuple(sorted(one.resources.items())), tuple(sorted(one.labels.items())), one.node)
            known = found.get(shape)
            found[shape] = one if known is None else known.model_copy(update={"count": known.count + 1})
        return list(found.values())

    def sessions(self) -> set[str]:
        """Ids of the sessions that own living actors, or groups."""
        owners = {*self._tables.directory.owners(), *self._tables.groups.owners()}
        return {owner for owner in owners if not owner.startswith(("actor:", "group:"))}


def _demand_of(item: PendingItem) -> Demand:
    if isinstance(item, GroupEntry):
        missing = [bundle for bundle, node in zip(item.bundles, item.nodes, strict=True) if node is None]
        return Demand(kind="group", resources=amounts(plus(*missing)), count=1)
    request, kind = item.request, "task" if isinstance(item, SlotEntry) else "actor"
    return Demand(kind=kind, resources=amounts(request.units), labels=dict(request.labels), node=request.node, count=1)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def _behind(after: str | None, items: Iterable[T]) -> Iterator[T]:
    """The items behind the one with this id; all if none is named."""
    found = iter(items)
    if after is not None:
        found = itertools.dropwhile(lambda each: each.id != after, found)
        next(found, None)
    return found
