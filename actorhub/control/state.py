"""Control's decisions: events in, commands out. No clock, no broker, no await.

All of it outlives the process that runs control: `changes` says which parts of it have changed, and a successor begins with all
parts as they were last. It knows then where each actor lives, and hears from the nodes what has happened meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from actorhub.control import persistence, placement
from actorhub.control.actor_lifecycle import ActorLifecycle, is_at
from actorhub.control.directory import ActorDirectory, ActorEntry
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueRegistry
from actorhub.control_api.commands import (
    Acknowledge,
    Command,
    MakeDeadLetters,
    RequestReport,
    ServeQueues,
    StopActor,
    StopWorker,
    TaskQueueReply,
)
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
    WorkerReport,
    WorkerStopped,
)
from actorhub.control_api.info import ActorInfo, DedicatedQueueInfo, Demand, GroupInfo, NodeInfo
from actorhub.control_api.specs import Activation, SpawnSpec
from actorhub.core.resources import amounts, plus


class ControlState:
    """Everything that control knows. Durations are seconds; `now` is any clock that all calls share, a successor's too."""

    def __init__(self, *, node_timeout: float) -> None:
        self._node_timeout = node_timeout
        self._directory = ActorDirectory()
        self._nodes = NodeRegistry()
        self._groups = GroupRegistry()
        self._task_queues = TaskQueueRegistry()
        self._known = persistence.ControlTables(self._directory, self._nodes, self._groups, self._task_queues)
        self._lifecycle = ActorLifecycle(self._directory, self._nodes, self._groups, self._task_queues)
        self._queues: dict[str, None] = {}  # task queues that every slot serves, in the order of their first use
        self._namespaces: dict[str, None] = {}  # those that have a place for dead letters
        self._renewed: dict[str, None] = {}  # keys of parts that are to be taken down again

    @classmethod
    def restored(cls, known: Mapping[str, bytes], *, node_timeout: float, now: float) -> ControlState:
        """As its parts say."""
        state = cls(node_timeout=node_timeout)
        persistence.restore(known, state._known, now=now)
        state._lifecycle.now = now
        state._lifecycle.restore()
        cluster = persistence.Cluster.model_validate_json(known.get(persistence.CLUSTER, b"{}"))
        state._queues = dict.fromkeys(cluster.queues)
        state._namespaces = dict.fromkeys(cluster.namespaces)
        return state

    def handle(self, event: Event, now: float) -> list[Command]:
        """What follows from the event. Events may come late, or from the dead."""
        lifecycle = self._lifecycle
        lifecycle.now, lifecycle.commands = now, []
        match event:
            case SpawnRequested():
                if lifecycle.spawn(event):
                    self._prepare(event.plan.namespace)
            case GroupRequested():
                lifecycle.make_group(event)
            case GroupRemoved():
                lifecycle.remove_group(event)
            case NodeReport():
                self._report(event)
            case WorkerLost():
                lifecycle.worker_lost(event)
            case WorkerStopped():
                lifecycle.worker_gone(event.worker, event.node, None)
            case ActorStarted():
                lifecycle.started(event)
            case ActorFailed():
                lifecycle.failed(event)
            case ActorStopped():
                lifecycle.ended(event)
            case MailboxDeleted():
                lifecycle.buried(event)
            case KillRequested():
                lifecycle.kill(event)
            case SessionEnded():
                lifecycle.end_owned_by(event.session, f"its session {event.session} ended")
            case TaskQueueUsed():
                self._use(event)
            case QueueDepths():
                lifecycle.slots.demand(event.waiting)
            case SlotEnded():
                lifecycle.slots.ended(event.slot)
            case Tick():
                self._tick()
                lifecycle.slots.preempt_for_waiting(now)
        lifecycle.settle()
        return lifecycle.commands

    # ---- what outlives this process

    @property
    def changed(self) -> list[str]:
        """The keys of the parts that have changed since `changes`."""
        return [*persistence.changed(self._known), *self._renewed]

    def changes(self) -> dict[str, bytes | None]:
        """Those parts, by their keys; None: it is gone."""
        found = {key: self._part(key) for key in self.changed}
        persistence.mark_persisted(self._known)
        self._renewed.clear()
        return found

    def renew(self, key: str) -> None:
        """This part shall be among the changes."""
        self._renewed[key] = None

    def _part(self, key: str) -> bytes | None:
        if key == persistence.CLUSTER:
            return persistence.Cluster(queues=tuple(self._queues), namespaces=tuple(self._namespaces)).encoded()
        return persistence.encoded(key, self._known)

    # ---- questions

    def find(self, namespace: str, name: str) -> SpawnSpec | None:
        """The outline of the living actor that has the name."""
        found = self._directory.find(namespace, name)
        return found.plan.outline if found is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        """With what it waits for, where it waits for a place."""
        found = self._directory.get(actor_id)
        if found is None or found.waits is None:
            return found.info if found is not None else None
        return found.info.model_copy(update={"waits_for": self._lifecycle.waits_for(found)})

    def group(self, group_id: str) -> GroupInfo | None:
        found = self._groups.get(group_id)
        return found.info(self._lifecycle.group_waits_for(found)) if found is not None else None

    def groups(self, namespace: str | None = None, after: str | None = None) -> Iterator[GroupInfo]:
        """In the order of their making, those behind the one with this id."""
        found = _behind(after, self._groups.all())
        return (
            group.info(self._lifecycle.group_waits_for(group))
            for group in found
            if namespace is None or group.plan.namespace == namespace
        )

    def actors(self, namespace: str | None = None, after: str | None = None) -> Iterator[ActorInfo]:
        """Living and dead ones in the order of their making, those behind the one with this id."""
        found = _behind(after, self._directory.all())
        return (actor.info for actor in found if namespace is None or actor.plan.namespace == namespace)

    def nodes(self) -> list[NodeInfo]:
        return [
            node.info({id_: [actor.id for actor in self._directory.hosted_by(id_)] for id_ in node.workers})
            for node in self._nodes.by_id.values()
        ]

    def queues(self) -> list[str]:
        """The task queues that anybody has used, and that every slot serves."""
        return list(self._queues)

    def task_queues(self, namespace: str | None = None) -> Iterator[DedicatedQueueInfo]:
        """Those that have slots of their own."""
        found = (queue for queue in self._task_queues.all() if queue.cause is None)
        return (self._lifecycle.slots.served(queue) for queue in found if namespace in (None, queue.namespace))

    def watched(self) -> dict[str, bool]:
        """Their names, and whether they have a slot."""
        return {queue.name: bool(queue.slots) for queue in self._task_queues.all() if queue.cause is None}

    def queue_waits_for(self, name: str) -> str:
        """What there is not that the queue needs to be served; empty where it is served."""
        queue = self._task_queues.get(name)
        return self._lifecycle.slots.served(queue).waits_for if queue is not None else ""

    def wants(self, waiting: Mapping[str, int]) -> bool:
        """Whether anything would follow from `QueueDepths` with this."""
        return self._lifecycle.slots.wants(waiting)

    def demand(self) -> list[Demand]:
        """What waits for a place, by what it asks for. What is in a bundle waits for its group, or for others in it: no node
        helps it."""
        found: dict[tuple[object, ...], Demand] = {}
        for item in self._lifecycle.pending.items():
            if not isinstance(item, GroupEntry) and item.bundle is not None:
                continue
            one = demand_of(item)
            shape = (one.kind, tuple(sorted(one.resources.items())), tuple(sorted(one.labels.items())), one.node)
            known = found.get(shape)
            found[shape] = one if known is None else known.model_copy(update={"count": known.count + 1})
        return list(found.values())

    def sessions(self) -> set[str]:
        """The sessions that own living actors, or groups."""
        owners = {*self._directory.owners(), *self._groups.owners()}
        return {owner for owner in owners if not owner.startswith(("actor:", "group:"))}

    # ---- nodes and workers

    def _report(self, report: NodeReport) -> None:
        is_new = self._nodes.on_report(report, self._lifecycle.now)
        node = self._nodes.by_id[report.node]
        if is_new and self._queues:
            self._lifecycle.commands.append(ServeQueues(node=node.id, queues=list(self._queues)))
        if is_new and report.known:
            self._lifecycle.commands.append(RequestReport(node=node.id))  # it was taken for lost
        if is_new or not report.known:
            self._lifecycle.commands.append(Acknowledge(node=node.id))
        self._use_queues(report.queues)
        living = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in living]:
            self._lifecycle.worker_gone(worker_id, node.id, f"worker {worker_id} of node {node.id} is no longer there")
        if is_new:  # what was on its way to the one before it
            self._lifecycle.slots.gone(node.id)
            self._lifecycle.astray(node.id, f"node {node.id} started again")
        for worker in report.workers:
            self._worker_reported(node, worker)
        self._lifecycle.slots.reported(node.id, report.placed, report.slots, self._lifecycle.now)
        self._nodes.drop_if_left(node)
        self._lifecycle.check(node.id)
        if is_new or node.leaving:
            self._lifecycle.clear(node.id)

    def _use(self, event: TaskQueueUsed) -> None:
        if event.needs is None:
            self._use_queues([event.queue])
            error = None
        else:
            error = self._lifecycle.slots.use(event)
        if error is None:
            self._prepare(event.namespace)
        self._lifecycle.commands.append(TaskQueueReply(queue=event.queue, error=error))

    def _prepare(self, namespace: str) -> None:
        """Its dead letters have a place before anybody can need one."""
        if namespace not in self._namespaces:
            self._namespaces[namespace] = None
            self.renew(persistence.CLUSTER)
            self._lifecycle.commands.append(MakeDeadLetters(namespace=namespace))

    def _use_queues(self, queues: list[str]) -> None:
        """Every node hears of every task queue."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(dict.fromkeys(new))
            self.renew(persistence.CLUSTER)
            self._lifecycle.commands += [ServeQueues(node=node_id, queues=new) for node_id in self._nodes.by_id]

    def _worker_reported(self, node: placement.NodeEntry, report: WorkerReport) -> None:
        worker = node.workers.get(report.id)
        if worker is None:
            worker = self._nodes.join(node, report, self._directory.load_of(report.id))
            if report.dedicated_to is not None:
                self._lifecycle.start_dedicated(worker, report.dedicated_to)
        for residency in report.hosted or ():
            self._reported(worker, residency)
        if report.dedicated_to is not None and not worker.load:  # its actor lives elsewhere, or not at all
            self._lifecycle.commands.append(StopWorker(node=node.id, worker=worker.id))

    def _reported(self, worker: placement.WorkerEntry, residency: Activation) -> None:
        """An actor that a worker says it hosts: as known, or one that should not be there."""
        actor = self._directory.living(residency.plan.actor_id)
        if not is_at(actor, worker.id, residency.incarnation):
            actor_id = residency.plan.actor_id
            self._lifecycle.commands.append(
                StopActor(worker=worker.id, actor=actor_id, incarnation=residency.incarnation)
            )

    def _tick(self) -> None:
        for node in self._nodes.silent(self._lifecycle.now - self._node_timeout):
            cause = f"node {node.id} was lost: silent for {self._lifecycle.now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._lifecycle.worker_gone(worker_id, node.id, cause)
            self._lifecycle.slots.gone(node.id)
            self._nodes.drop(node)
            self._lifecycle.clear(node.id)
            self._lifecycle.astray(node.id, cause)


def demand_of(item: ActorEntry | GroupEntry | SlotEntry) -> Demand:
    if isinstance(item, GroupEntry):
        missing = [bundle for bundle, node in zip(item.bundles, item.nodes, strict=True) if node is None]
        return Demand(kind="group", resources=amounts(plus(*missing)), count=1)
    ask, kind = item.ask, "task" if isinstance(item, SlotEntry) else "actor"
    return Demand(kind=kind, resources=amounts(ask.units), labels=dict(ask.labels), node=ask.node, count=1)


class _Named(Protocol):
    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _behind(after: str | None, all_: Iterable[N]) -> Iterator[N]:
    """Those that come after the one with this id; all where none is named."""
    found = iter(all_)
    if after is not None:
        found = itertools.dropwhile(lambda each: each.id != after, found)
        next(found, None)
    return found
