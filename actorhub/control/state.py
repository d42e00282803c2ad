"""Control's decisions: events in, commands out. No clock, no broker, no await.

A new control knows nothing. In a fresh cluster nodes come unknown, and it begins at once. Where a node says that a control
has acknowledged it before, this one is a successor: it asks for full reports and decides nothing about actors until
the others have had time to answer; then what nobody reported, of what it was asked or told, is started again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from actorhub.control import placement
from actorhub.control.messages import (
    Acknowledge,
    ActorFailed,
    ActorInfo,
    ActorPlan,
    ActorStarted,
    Answer,
    AskReport,
    Buried,
    BuryActor,
    Changed,
    Command,
    Event,
    KillAsked,
    NodeInfo,
    NodeReport,
    Residency,
    SessionEnded,
    SpawnAsked,
    StartActor,
    StartWorker,
    State,
    StopActor,
    StopWorker,
    Tick,
    WorkerInfo,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)

TOMBSTONES = 10_000  # dead actors that are remembered, with the cause


@dataclass(eq=False)
class Actor:
    """An actor, where it is, and what has killed its workers."""

    plan: ActorPlan
    state: State = "pending"
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    restarts: int = 0
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = field(default_factory=dict)
    buried: bool = False

    @property
    def info(self) -> ActorInfo:
        plan = self.plan
        return ActorInfo(
            id=plan.actor_id,
            name=plan.name,
            namespace=plan.namespace,
            class_name=plan.class_name,
            state=self.state,
            node=self.node,
            worker=self.worker,
            restarts=self.restarts,
            last_error=self.last_error,
            died_at_birth=self.died_at_birth,
        )


class ControlState:
    """Everything that control knows. Durations are seconds; `now` is any clock that all calls share."""

    def __init__(self, *, heartbeat: float, node_timeout: float) -> None:
        self._node_timeout = node_timeout
        self._recovery_time = 2.5 * heartbeat
        self._recovering_until: float | None = None
        self._nodes: dict[str, placement.Node] = {}
        self._workers: dict[str, placement.Worker] = {}
        self._actors: dict[str, Actor] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._unburied: OrderedDict[str, None] = OrderedDict()
        self._dead: OrderedDict[str, None] = OrderedDict()
        self._commands: list[Command] = []

    def handle(self, event: Event, now: float) -> list[Command]:
        """What follows from the event. Events may come late, twice, or from the dead."""
        self._commands = []
        match event:
            case SpawnAsked():
                self._spawn(event)
            case NodeReport():
                self._report(event, now)
            case WorkerLost():
                self._worker_lost(event)
            case WorkerStopped():
                self._worker_gone(event.worker, event.node, None)
            case ActorStarted():
                self._started(event)
            case ActorFailed():
                self._failed(event)
            case Buried():
                self._unburied.pop(event.actor, None)
            case KillAsked():
                self._kill(event)
            case SessionEnded():
                self._end_owned_by(event.session, f"its session {event.session} ended")
            case Tick():
                self._tick(now)
        self._place_pending()
        self._bury_dead()
        return self._commands

    # ---- questions

    def find(self, namespace: str, name: str) -> ActorPlan | None:
        """The living actor that has the name."""
        actor_id = self._names.get((namespace, name))
        return self._actors[actor_id].plan if actor_id is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        found = self._actors.get(actor_id)
        return found.info if found is not None else None

    def actors(self, namespace: str | None = None) -> list[ActorInfo]:
        return [a.info for a in self._actors.values() if namespace is None or a.plan.namespace == namespace]

    def nodes(self) -> list[NodeInfo]:
        hosted: dict[str | None, list[str]] = {}
        for actor in self._actors.values():
            hosted.setdefault(actor.worker, []).append(actor.plan.actor_id)
        return [
            NodeInfo(
                id=node.id,
                host=node.host,
                pid=node.pid,
                version=node.version,
                labels=dict(node.labels),
                resources_total=dict(node.total),
                resources_free={name: node.free(name) for name in node.total},
                leaving=node.leaving,
                workers=[
                    WorkerInfo(
                        id=worker.id,
                        pid=worker.pid,
                        kind="process" if worker.dedicated_to else "shared",
                        actors=hosted.get(worker.id, []),
                    )
                    for worker in node.workers.values()
                ],
            )
            for node in self._nodes.values()
        ]

    def owners(self) -> set[str]:
        """The sessions that own living actors."""
        return {
            actor.plan.owner
            for actor in self._actors.values()
            if actor.state != "dead" and actor.plan.lifetime == "session" and not actor.plan.owner.startswith("actor:")
        }

    # ---- spawning

    def _spawn(self, asked: SpawnAsked) -> None:
        plan = asked.plan
        if plan.actor_id in self._actors:
            self._commands.append(Answer(actor_id=plan.actor_id, plan=plan, created=True))
            return
        holder = self.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            self._commands.append(_name_taken(asked, holder))
            return
        reason = placement.infeasible(self._nodes.values(), plan) if self._recovering_until is None else None
        if reason is not None:
            self._commands.append(Answer(actor_id=plan.actor_id, error="infeasible", message=reason))
            return
        self._adopt(Actor(plan))
        self._pending[plan.actor_id] = None
        self._commands.append(Answer(actor_id=plan.actor_id, plan=plan, created=True))

    def _adopt(self, actor: Actor) -> None:
        plan = actor.plan
        self._actors[plan.actor_id] = actor
        if plan.name is not None:
            self._names.setdefault((plan.namespace, plan.name), plan.actor_id)

    def _place_pending(self) -> None:
        """In the order of asking. One that finds no room does not hold up those behind it."""
        if self._recovering_until is not None or not self._pending:
            return
        for actor_id in list(self._pending):
            actor = self._actors[actor_id]
            if actor.plan.options.isolation == "process":
                self._place_isolated(actor)
            else:
                self._place(actor, placement.choose_worker(self._nodes.values(), actor.plan))

    def _place(self, actor: Actor, worker: placement.Worker | None) -> None:
        if worker is None:
            return
        self._settle(actor, worker.node)
        worker.load += 1
        actor.worker = worker.id
        self._start(actor)

    def _place_isolated(self, actor: Actor) -> None:
        """Its node starts a worker for it; the actor starts when that worker reports."""
        node = placement.choose_node(self._nodes.values(), actor.plan)
        if node is not None:
            self._settle(actor, node.id)
            actor.incarnation += 1
            actor.worker = f"{actor.plan.actor_id}-{actor.incarnation}"
            self._commands.append(StartWorker(node=node.id, worker=actor.worker, actor=actor.plan.actor_id))
            self._change(actor, "starting")

    def _settle(self, actor: Actor, node_id: str) -> None:
        del self._pending[actor.plan.actor_id]
        self._nodes[node_id].reserve(actor.plan.options.resources)
        actor.node = node_id

    def _start(self, actor: Actor) -> None:
        actor.incarnation += 1
        self._order_start(actor)
        self._change(actor, "starting")

    def _order_start(self, actor: Actor) -> None:
        assert actor.worker is not None
        limit = actor.plan.options.max_redeliveries
        poison = [call for call, kills in actor.kills.items() if kills > limit]
        residency = Residency(plan=actor.plan, incarnation=actor.incarnation, restarts=actor.restarts)
        self._commands.append(StartActor(worker=actor.worker, residency=residency, poison=poison))

    def _leave(self, actor: Actor) -> None:
        """It is no longer where it was."""
        if actor.node is not None and actor.node in self._nodes:
            self._nodes[actor.node].reserve(actor.plan.options.resources, -1)
        if actor.worker is not None and actor.worker in self._workers:
            self._workers[actor.worker].load -= 1
        actor.node = actor.worker = None

    def _change(self, actor: Actor, state: State) -> None:
        actor.state = state
        self._commands.append(Changed(actor=actor.info))

    # ---- living and dying

    def _started(self, event: ActorStarted) -> None:
        actor = self._actors.get(event.actor)
        if actor is None or actor.worker != event.worker or actor.incarnation != event.incarnation:
            self._commands.append(StopActor(worker=event.worker, actor=event.actor, incarnation=event.incarnation))
        elif actor.state != "running":
            self._change(actor, "running")

    def _failed(self, event: ActorFailed) -> None:
        actor = self._actors.get(event.actor)
        if actor is None or actor.worker != event.worker or actor.incarnation != event.incarnation:
            return
        if event.phase == "birth":
            self._die(actor, event.error, at_birth=True)
        else:
            self._restart(actor, event.error)

    def _restart(self, actor: Actor, cause: str) -> None:
        if actor.restarts >= actor.plan.options.max_restarts:
            self._die(actor, f"{cause}; it was restarted {actor.restarts} times before")
            return
        actor.restarts += 1
        self._stop_dedicated(actor)
        self._leave(actor)
        actor.last_error = cause
        self._pending[actor.plan.actor_id] = None
        self._change(actor, "restarting")

    def _kill(self, event: KillAsked) -> None:
        actor = self._actors.get(event.actor)
        if actor is not None and actor.state != "dead":
            self._die(actor, event.cause)

    def _die(self, actor: Actor, cause: str, *, at_birth: bool = False) -> None:
        plan = actor.plan
        if actor.worker is not None and actor.worker in self._workers:
            self._commands.append(StopActor(worker=actor.worker, actor=plan.actor_id, incarnation=actor.incarnation))
        self._stop_dedicated(actor)
        self._leave(actor)
        actor.last_error, actor.died_at_birth = cause, at_birth
        actor.kills.clear()
        self._pending.pop(plan.actor_id, None)
        if plan.name is not None and self._names.get((plan.namespace, plan.name)) == plan.actor_id:
            del self._names[plan.namespace, plan.name]
        self._change(actor, "dead")
        self._unburied[plan.actor_id] = None
        self._dead[plan.actor_id] = None
        if len(self._dead) > TOMBSTONES:
            forgotten, _ = self._dead.popitem(last=False)
            if forgotten not in self._unburied:
                del self._actors[forgotten]
        self._end_owned_by(f"actor:{plan.actor_id}", f"its parent {plan.actor_id} died")

    def _stop_dedicated(self, actor: Actor) -> None:
        if actor.plan.options.isolation == "process" and actor.worker is not None and actor.node in self._nodes:
            self._commands.append(StopWorker(node=actor.node, worker=actor.worker))

    def _end_owned_by(self, owner: str, cause: str) -> None:
        owned = [
            actor
            for actor in self._actors.values()
            if actor.plan.owner == owner and actor.plan.lifetime == "session" and actor.state != "dead"
        ]
        for actor in owned:
            self._die(actor, cause)

    def _bury_dead(self) -> None:
        """Any shared worker can bury; where there is none yet, later."""
        workers = [worker for worker in self._workers.values() if worker.dedicated_to is None]
        if not workers:
            return
        for actor_id in self._unburied:
            actor = self._actors[actor_id]
            if not actor.buried:
                actor.buried = True
                worker = min(workers, key=lambda worker: (worker.load, worker.id))
                self._commands.append(
                    BuryActor(
                        worker=worker.id, plan=actor.plan, cause=actor.last_error or "", at_birth=actor.died_at_birth
                    )
                )

    # ---- nodes and workers

    def _report(self, report: NodeReport, now: float) -> None:
        node = self._nodes.get(report.node)
        if node is None:
            node = self._nodes[report.node] = placement.Node(
                id=report.node,
                host=report.host,
                pid=report.pid,
                version=report.version,
                labels=report.labels,
                total=report.resources,
                classes=frozenset(report.classes),
                seen=now,
            )
            if report.known:
                self._begin_recovery(now)
                self._commands.append(AskReport(node=node.id))
            self._commands.append(Acknowledge(node=node.id))
        elif not report.known:
            self._commands.append(Acknowledge(node=node.id))
        node.seen = now
        node.leaving = report.leaving  # nothing new is placed there; its actors go elsewhere as its workers end
        living = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in living]:
            self._worker_gone(worker_id, node.id, f"worker {worker_id} of node {node.id} is no longer there")
        for worker in report.workers:
            self._worker_reported(node, worker)
        if node.leaving and not node.workers:
            del self._nodes[node.id]

    def _begin_recovery(self, now: float) -> None:
        if self._recovering_until is None and not self._actors:
            self._recovering_until = now + self._recovery_time

    def _worker_reported(self, node: placement.Node, report: WorkerReport) -> None:
        known = node.workers.get(report.id)
        if known is None:
            known = placement.Worker(report.id, node.id, report.pid, report.dedicated_to)
            node.workers[report.id] = self._workers[report.id] = known
            self._start_dedicated(known)
        for residency in report.hosted or ():
            self._reported(known, residency)

    def _start_dedicated(self, worker: placement.Worker) -> None:
        actor = self._actors.get(worker.dedicated_to or "")
        if actor is not None and actor.worker == worker.id:
            worker.load = 1
            self._order_start(actor)

    def _reported(self, worker: placement.Worker, residency: Residency) -> None:
        """An actor that a worker says it hosts: as known, news to a successor, or a stale incarnation."""
        plan = residency.plan
        actor = self._actors.get(plan.actor_id)
        if actor is None:
            actor = Actor(plan)
            self._adopt(actor)
        elif actor.worker == worker.id and actor.incarnation == residency.incarnation:
            return
        elif actor.state == "dead" or actor.incarnation >= residency.incarnation:
            self._commands.append(StopActor(worker=worker.id, actor=plan.actor_id, incarnation=residency.incarnation))
            return
        self._leave(actor)
        self._pending.pop(plan.actor_id, None)
        actor.worker, actor.node = worker.id, worker.node
        actor.incarnation, actor.restarts = residency.incarnation, residency.restarts
        worker.load += 1
        self._nodes[worker.node].reserve(plan.options.resources)
        self._change(actor, "running")

    def _worker_lost(self, event: WorkerLost) -> None:
        for running in event.running:
            actor = self._actors.get(running.actor)
            if actor is not None and actor.worker == event.worker:
                actor.kills[running.call] = actor.kills.get(running.call, 0) + 1
        methods = ", ".join(sorted({running.method for running in event.running}))
        self._worker_gone(event.worker, event.node, f"{event.cause}{f', while it ran {methods}' if methods else ''}")

    def _worker_gone(self, worker_id: str, node_id: str, cause: str | None) -> None:
        """`cause` is None where it ended as it was asked to: then its actors move, and that does not count."""
        self._workers.pop(worker_id, None)
        node = self._nodes.get(node_id)
        if node is not None:
            node.workers.pop(worker_id, None)
        for actor in [actor for actor in self._actors.values() if actor.worker == worker_id]:
            if cause is not None:
                self._restart(actor, cause)
            else:
                self._leave(actor)
                self._pending[actor.plan.actor_id] = None
                self._change(actor, "restarting")
        if node is not None and node.leaving and not node.workers:
            del self._nodes[node_id]

    def _tick(self, now: float) -> None:
        if self._recovering_until is not None and now >= self._recovering_until:
            self._recovering_until = None
        for node in [node for node in self._nodes.values() if now - node.seen > self._node_timeout]:
            cause = f"node {node.id} was lost: silent for {now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._worker_gone(worker_id, node.id, cause)
            del self._nodes[node.id]
            for actor in [actor for actor in self._actors.values() if actor.node == node.id]:
                self._restart(actor, cause)  # it waited for a worker of its own there


def _name_taken(asked: SpawnAsked, holder: ActorPlan) -> Answer:
    plan = asked.plan
    if asked.get_if_exists and holder.class_name == plan.class_name:
        return Answer(actor_id=plan.actor_id, plan=holder)
    kind = f"a {holder.class_name}" if asked.get_if_exists else "another living actor"
    return Answer(
        actor_id=plan.actor_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, kill that one, "
        "or take it with get_if_exists=True",
    )
