"""Control's decisions: events in, commands out. No clock, no broker, no await.

All of it outlives the process that runs control: `changes` says which parts of it have changed, and a successor begins with all
parts as they were last. It knows then where each actor lives, and hears from the nodes what has happened meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from actorhub.control import parts, placement
from actorhub.control.commands import (
    Acknowledge,
    AskReport,
    Command,
    MakeDeadLetters,
    QueueAnswer,
    ServeQueues,
    StopActor,
    StopWorker,
)
from actorhub.control.directory import Actor, Directory
from actorhub.control.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    Buried,
    Event,
    GroupAsked,
    GroupRemoved,
    KillAsked,
    NodeReport,
    QueueUsed,
    SessionEnded,
    SlotEnded,
    SpawnAsked,
    TasksWait,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control.fleet import Fleet
from actorhub.control.groups import Group, Groups
from actorhub.control.infos import ActorInfo, Demand, GroupInfo, NodeInfo, Served
from actorhub.control.lives import Lives, is_at
from actorhub.control.plans import ActorPlan, Residency
from actorhub.control.queues import Slot, TaskQueues
from actorhub.resources import amounts, plus


class ControlState:
    """Everything that control knows. Durations are seconds; `now` is any clock that all calls share, a successor's too."""

    def __init__(self, *, node_timeout: float) -> None:
        self._node_timeout = node_timeout
        self._directory = Directory()
        self._fleet = Fleet()
        self._groups = Groups()
        self._task_queues = TaskQueues()
        self._known = parts.Knowledge(self._directory, self._fleet, self._groups, self._task_queues)
        self._lives = Lives(self._directory, self._fleet, self._groups, self._task_queues)
        self._queues: dict[str, None] = {}  # task queues that every slot serves, in the order of their first use
        self._namespaces: dict[str, None] = {}  # those that have a place for dead letters
        self._renewed: dict[str, None] = {}  # keys of parts that are to be taken down again

    @classmethod
    def restored(cls, known: Mapping[str, bytes], *, node_timeout: float, now: float) -> ControlState:
        """As its parts say."""
        state = cls(node_timeout=node_timeout)
        parts.restore(known, state._known, now=now)
        state._lives.now = now
        state._lives.restore()
        cluster = parts.Cluster.model_validate_json(known.get(parts.CLUSTER, b"{}"))
        state._queues = dict.fromkeys(cluster.queues)
        state._namespaces = dict.fromkeys(cluster.namespaces)
        return state

    def handle(self, event: Event, now: float) -> list[Command]:
        """What follows from the event. Events may come late, or from the dead."""
        lives = self._lives
        lives.now, lives.commands = now, []
        match event:
            case SpawnAsked():
                if lives.spawn(event):
                    self._prepare(event.plan.namespace)
            case GroupAsked():
                lives.make_group(event)
            case GroupRemoved():
                lives.remove_group(event)
            case NodeReport():
                self._report(event)
            case WorkerLost():
                lives.worker_lost(event)
            case WorkerStopped():
                lives.worker_gone(event.worker, event.node, None)
            case ActorStarted():
                lives.started(event)
            case ActorFailed():
                lives.failed(event)
            case ActorStopped():
                lives.ended(event)
            case Buried():
                lives.buried(event)
            case KillAsked():
                lives.kill(event)
            case SessionEnded():
                lives.end_owned_by(event.session, f"its session {event.session} ended")
            case QueueUsed():
                self._use(event)
            case TasksWait():
                lives.slots.demand(event.waiting)
            case SlotEnded():
                lives.slots.ended(event.slot)
            case Tick():
                self._tick()
                lives.slots.make_way(now)
        lives.settle()
        return lives.commands

    # ---- what outlives this process

    @property
    def changed(self) -> list[str]:
        """The keys of the parts that have changed since `changes`."""
        return [*parts.changed(self._known), *self._renewed]

    def changes(self) -> dict[str, bytes | None]:
        """Those parts, by their keys; None: it is gone."""
        found = {key: self._part(key) for key in self.changed}
        parts.taken_down(self._known)
        self._renewed.clear()
        return found

    def renew(self, key: str) -> None:
        """This part shall be among the changes."""
        self._renewed[key] = None

    def _part(self, key: str) -> bytes | None:
        if key == parts.CLUSTER:
            return parts.Cluster(queues=tuple(self._queues), namespaces=tuple(self._namespaces)).encoded()
        return parts.encoded(key, self._known)

    # ---- questions

    def find(self, namespace: str, name: str) -> ActorPlan | None:
        """The outline of the living actor that has the name."""
        found = self._directory.find(namespace, name)
        return found.plan.outline if found is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        """With what it waits for, where it waits for a place."""
        found = self._directory.get(actor_id)
        if found is None or found.waits is None:
            return found.info if found is not None else None
        return found.info.model_copy(update={"waits_for": self._lives.waits_for(found)})

    def group(self, group_id: str) -> GroupInfo | None:
        found = self._groups.get(group_id)
        return found.info(self._lives.group_waits_for(found)) if found is not None else None

    def groups(self, namespace: str | None = None, after: str | None = None) -> Iterator[GroupInfo]:
        """In the order of their making, those behind the one with this id."""
        found = _behind(after, self._groups.all())
        return (
            group.info(self._lives.group_waits_for(group))
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
            for node in self._fleet.nodes.values()
        ]

    def queues(self) -> list[str]:
        """The task queues that anybody has used, and that every slot serves."""
        return list(self._queues)

    def task_queues(self, namespace: str | None = None) -> Iterator[Served]:
        """Those that have slots of their own."""
        found = (queue for queue in self._task_queues.all() if queue.cause is None)
        return (self._lives.slots.served(queue) for queue in found if namespace in (None, queue.namespace))

    def watched(self) -> dict[str, bool]:
        """Their names, and whether they have a slot."""
        return {queue.name: bool(queue.slots) for queue in self._task_queues.all() if queue.cause is None}

    def queue_waits_for(self, name: str) -> str:
        """What there is not that the queue needs to be served; empty where it is served."""
        queue = self._task_queues.get(name)
        return self._lives.slots.served(queue).waits_for if queue is not None else ""

    def wants(self, waiting: Mapping[str, int]) -> bool:
        """Whether anything would follow from `TasksWait` with this."""
        return self._lives.slots.wants(waiting)

    def demand(self) -> list[Demand]:
        """What waits for a place, by what it asks for. What is in a bundle waits for its group, or for others in it: no node
        helps it."""
        found: dict[tuple[object, ...], Demand] = {}
        for item in self._lives.waiting.items():
            if not isinstance(item, Group) and item.bundle is not None:
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
        is_new = self._fleet.hear(report, self._lives.now)
        node = self._fleet.nodes[report.node]
        if is_new and self._queues:
            self._lives.commands.append(ServeQueues(node=node.id, queues=list(self._queues)))
        if is_new and report.known:
            self._lives.commands.append(AskReport(node=node.id))  # it was taken for lost
        if is_new or not report.known:
            self._lives.commands.append(Acknowledge(node=node.id))
        self._use_queues(report.queues)
        living = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in living]:
            self._lives.worker_gone(worker_id, node.id, f"worker {worker_id} of node {node.id} is no longer there")
        if is_new:  # what was on its way to the one before it
            self._lives.slots.gone(node.id)
            self._lives.astray(node.id, f"node {node.id} started again")
        for worker in report.workers:
            self._worker_reported(node, worker)
        self._lives.slots.reported(node.id, report.placed, report.slots, self._lives.now)
        self._fleet.drop_if_left(node)
        self._lives.check(node.id)
        if is_new or node.leaving:
            self._lives.clear(node.id)

    def _use(self, event: QueueUsed) -> None:
        if event.needs is None:
            self._use_queues([event.queue])
            error = None
        else:
            error = self._lives.slots.use(event)
        if error is None:
            self._prepare(event.namespace)
        self._lives.commands.append(QueueAnswer(queue=event.queue, error=error))

    def _prepare(self, namespace: str) -> None:
        """Its dead letters have a place before anybody can need one."""
        if namespace not in self._namespaces:
            self._namespaces[namespace] = None
            self.renew(parts.CLUSTER)
            self._lives.commands.append(MakeDeadLetters(namespace=namespace))

    def _use_queues(self, queues: list[str]) -> None:
        """Every node hears of every task queue."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(dict.fromkeys(new))
            self.renew(parts.CLUSTER)
            self._lives.commands += [ServeQueues(node=node_id, queues=new) for node_id in self._fleet.nodes]

    def _worker_reported(self, node: placement.Node, report: WorkerReport) -> None:
        worker = node.workers.get(report.id)
        if worker is None:
            worker = self._fleet.join(node, report, self._directory.load_of(report.id))
            if report.dedicated_to is not None:
                self._lives.start_dedicated(worker, report.dedicated_to)
        for residency in report.hosted or ():
            self._reported(worker, residency)
        if report.dedicated_to is not None and not worker.load:  # its actor lives elsewhere, or not at all
            self._lives.commands.append(StopWorker(node=node.id, worker=worker.id))

    def _reported(self, worker: placement.Worker, residency: Residency) -> None:
        """An actor that a worker says it hosts: as known, or one that should not be there."""
        actor = self._directory.living(residency.plan.actor_id)
        if not is_at(actor, worker.id, residency.incarnation):
            actor_id = residency.plan.actor_id
            self._lives.commands.append(StopActor(worker=worker.id, actor=actor_id, incarnation=residency.incarnation))

    def _tick(self) -> None:
        for node in self._fleet.silent(self._lives.now - self._node_timeout):
            cause = f"node {node.id} was lost: silent for {self._lives.now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._lives.worker_gone(worker_id, node.id, cause)
            self._lives.slots.gone(node.id)
            self._fleet.drop(node)
            self._lives.clear(node.id)
            self._lives.astray(node.id, cause)


def demand_of(item: Actor | Group | Slot) -> Demand:
    if isinstance(item, Group):
        missing = [bundle for bundle, node in zip(item.bundles, item.nodes, strict=True) if node is None]
        return Demand(kind="group", resources=amounts(plus(*missing)), count=1)
    ask, kind = item.ask, "task" if isinstance(item, Slot) else "actor"
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
