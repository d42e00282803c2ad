"""Control's decisions: events in, commands out. No clock, no broker, no await.

All of it outlives the process that runs control: `changes` says which parts of it have changed, and a successor begins with all
parts as they were last. It knows then where each actor lives, and hears from the nodes what has happened meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from actorhub.control import parts, placement
from actorhub.control.burials import Burials
from actorhub.control.directory import Actor, Directory
from actorhub.control.fleet import Fleet
from actorhub.control.messages import (
    Acknowledge,
    ActorFailed,
    ActorInfo,
    ActorPlan,
    ActorStarted,
    ActorStopped,
    Answer,
    AskReport,
    Buried,
    Changed,
    Command,
    Event,
    KillAsked,
    MakeDeadLetters,
    MakeMailbox,
    NodeInfo,
    NodeReport,
    QueueUsed,
    Residency,
    ServeQueues,
    SessionEnded,
    SpawnAsked,
    StartActor,
    StartWorker,
    State,
    StopActor,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)


class ControlState:
    """Everything that control knows. Durations are seconds; `now` is any clock that all calls share, a successor's too."""

    def __init__(self, *, node_timeout: float) -> None:
        self._node_timeout = node_timeout
        self._now = 0.0
        self._directory = Directory()
        self._fleet = Fleet()
        self._burials = Burials()
        self._queues: dict[str, None] = {}  # task queues, in the order of their first use
        self._namespaces: dict[str, None] = {}  # those that have a place for dead letters
        self._renewed: dict[str, None] = {}  # keys of parts that are to be taken down again
        self._commands: list[Command] = []

    @classmethod
    def restored(cls, known: Mapping[str, bytes], *, node_timeout: float, now: float) -> ControlState:
        """As its parts say."""
        state = cls(node_timeout=node_timeout)
        state._now = now
        parts.restore(known, state._directory, state._fleet, now=now)
        for actor in state._directory.all():
            if actor.state == "dead" and not actor.is_buried:
                state._burials.add(actor)
        cluster = parts.Cluster.model_validate_json(known.get(parts.CLUSTER, b"{}"))
        state._queues = dict.fromkeys(cluster.queues)
        state._namespaces = dict.fromkeys(cluster.namespaces)
        return state

    def handle(self, event: Event, now: float) -> list[Command]:
        """What follows from the event. Events may come late, or from the dead."""
        self._commands = []
        self._now = now
        match event:
            case SpawnAsked():
                self._spawn(event)
            case NodeReport():
                self._report(event)
            case WorkerLost():
                self._worker_lost(event)
            case WorkerStopped():
                self._worker_gone(event.worker, event.node, None)
            case ActorStarted():
                self._started(event)
            case ActorFailed():
                self._failed(event)
            case ActorStopped():
                self._ended(event)
            case Buried():
                self._buried(event)
            case KillAsked():
                self._kill(event)
            case SessionEnded():
                self._end_owned_by(event.session, f"its session {event.session} ended")
            case QueueUsed():
                self._prepare(event.namespace)
                self._use_queues([event.queue])
            case Tick():
                self._tick()
        self._place_waiting()
        self._bury_dead()
        return self._commands

    # ---- what outlives this process

    @property
    def changed(self) -> list[str]:
        """The keys of the parts that have changed since `changes`."""
        return [*parts.changed(self._directory, self._fleet), *self._renewed]

    def changes(self) -> dict[str, bytes | None]:
        """Those parts, by their keys; None: it is gone."""
        found = {key: self._part(key) for key in self.changed}
        for ids in (self._directory.plans, self._directory.lives, self._fleet.touched, self._renewed):
            ids.clear()
        return found

    def renew(self, key: str) -> None:
        """This part shall be among the changes."""
        self._renewed[key] = None

    def _part(self, key: str) -> bytes | None:
        if key == parts.CLUSTER:
            return parts.Cluster(queues=tuple(self._queues), namespaces=tuple(self._namespaces)).encoded()
        return parts.encoded(key, self._directory, self._fleet)

    # ---- questions

    def find(self, namespace: str, name: str) -> ActorPlan | None:
        """The living actor that has the name."""
        found = self._directory.find(namespace, name)
        return found.plan if found is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        """With what it waits for, where it waits for a place."""
        found = self._directory.get(actor_id)
        if found is None or found.waits is None:
            return found.info if found is not None else None
        waits_for = placement.waits_for(self._fleet.nodes.values(), found.plan)
        return found.info.model_copy(update={"waits_for": waits_for})

    def actors(self, namespace: str | None = None, after: str | None = None) -> Iterator[ActorInfo]:
        """Living and dead ones in the order of their making, those behind the one with this id."""
        found = iter(self._directory.all())
        if after is not None:
            found = itertools.dropwhile(lambda actor: actor.id != after, found)
            next(found, None)
        return (actor.info for actor in found if namespace is None or actor.plan.namespace == namespace)

    def nodes(self) -> list[NodeInfo]:
        return [
            node.info({id_: [actor.id for actor in self._directory.hosted_by(id_)] for id_ in node.workers})
            for node in self._fleet.nodes.values()
        ]

    def queues(self) -> list[str]:
        """The task queues that anybody has used."""
        return list(self._queues)

    def sessions(self) -> set[str]:
        """The sessions that own living actors."""
        return {owner for owner in self._directory.owners() if not owner.startswith("actor:")}

    # ---- spawning

    def _spawn(self, asked: SpawnAsked) -> None:
        plan = asked.plan
        if self._directory.get(plan.actor_id) is not None:
            self._commands.append(Answer(actor_id=plan.actor_id, plan=plan, created=True))
            return
        parent = plan.owner.removeprefix("actor:")
        if plan.lifetime == "session" and parent != plan.owner and self._directory.living(parent) is None:
            message = f"{parent} is dead, and what it spawns would end with it"
            self._commands.append(Answer(actor_id=plan.actor_id, error="parent dead", message=message))
            return
        holder = self.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            self._commands.append(_name_taken(asked, holder))
            return
        reason = placement.infeasible(self._fleet.nodes.values(), plan) if self._fleet.is_heard else None
        if reason is not None:
            self._commands.append(Answer(actor_id=plan.actor_id, error="infeasible", message=reason))
            return
        self._prepare(plan.namespace)
        self._directory.add(plan)
        self._commands.append(MakeMailbox(plan=plan))
        self._commands.append(Answer(actor_id=plan.actor_id, plan=plan, created=True))

    def _prepare(self, namespace: str) -> None:
        """Its dead letters have a place before anybody can need one."""
        if namespace not in self._namespaces:
            self._namespaces[namespace] = None
            self.renew(parts.CLUSTER)
            self._commands.append(MakeDeadLetters(namespace=namespace))

    def _place_waiting(self) -> None:
        """In the order of asking. One that finds no room does not hold up those behind it."""
        for actor in self._directory.waiting():
            if actor.plan.options.isolation == "process":
                self._place_isolated(actor)
            else:
                self._place(actor)

    def _place(self, actor: Actor) -> None:
        worker = placement.choose_worker(self._fleet.nodes.values(), actor.plan)
        if worker is not None:
            self._settle(actor, worker.node, worker.id)
            self._order_start(actor)
            self._change(actor, "starting")

    def _place_isolated(self, actor: Actor) -> None:
        """Its node starts a worker for it; the actor starts when that worker reports."""
        node = placement.choose_node(self._fleet.nodes.values(), actor.plan)
        if node is not None:
            worker = f"{actor.id}-{actor.incarnation + 1}"
            self._settle(actor, node.id, worker)
            self._commands.append(StartWorker(node=node.id, worker=worker, actor=actor.id))
            self._change(actor, "starting")

    def _settle(self, actor: Actor, node: str, worker: str) -> None:
        """Each time that it moves it is another incarnation."""
        actor.incarnation += 1
        self._directory.settle(actor, node, worker)
        self._fleet.settle(actor)

    def _order_start(self, actor: Actor) -> None:
        assert actor.worker is not None
        limit = actor.plan.options.max_redeliveries
        poison = [call for call, kills in actor.kills.items() if kills > limit]
        residency = Residency(plan=actor.plan, incarnation=actor.incarnation, restarts=actor.restarts)
        self._commands.append(StartActor(worker=actor.worker, residency=residency, poison=poison))

    def _change(self, actor: Actor, state: State) -> None:
        actor.state = state
        self._directory.touch(actor)
        self._commands.append(Changed(actor=actor.info))

    # ---- living and dying

    def _started(self, event: ActorStarted) -> None:
        actor = self._directory.living(event.actor)
        if actor is None or actor.worker != event.worker or actor.incarnation != event.incarnation:
            self._commands.append(StopActor(worker=event.worker, actor=event.actor, incarnation=event.incarnation))
        elif actor.state != "running":
            self._change(actor, "running")

    def _failed(self, event: ActorFailed) -> None:
        actor = self._directory.living(event.actor)
        if actor is None or actor.worker != event.worker or actor.incarnation != event.incarnation:
            return
        if event.phase == "life":
            self._restart(actor, event.error)
        else:
            self._die(actor, event.error, at_birth=event.phase == "birth")

    def _ended(self, event: ActorStopped) -> None:
        """It moves: its worker drains."""
        actor = self._directory.living(event.actor)
        if actor is not None and actor.worker == event.worker and actor.incarnation == event.incarnation:
            self._stop_dedicated(actor)
            self._move(actor)

    def _restart(self, actor: Actor, cause: str) -> None:
        options = actor.plan.options
        if self._restarts_that_count(actor) >= options.max_restarts and not options.durable:
            within = f" in {options.restart_window:g} s" if options.restart_window is not None else ""
            self._die(actor, f"{cause}; it was restarted {options.max_restarts} times before{within}")
            return
        actor.restarts += 1
        actor.restarted.append(self._now)
        actor.last_error = cause
        self._stop_dedicated(actor)
        self._move(actor)

    def _restarts_that_count(self, actor: Actor) -> int:
        window = actor.plan.options.restart_window
        if window is None:
            actor.restarted.clear()
            return actor.restarts
        actor.restarted = [moment for moment in actor.restarted if self._now - moment < window]
        return len(actor.restarted)

    def _move(self, actor: Actor) -> None:
        self._fleet.settle(actor, -1)
        self._directory.wait(actor)
        self._change(actor, "restarting")

    def _kill(self, event: KillAsked) -> None:
        actor = self._directory.living(event.actor)
        if actor is not None:
            self._die(actor, event.cause)

    def _die(self, actor: Actor, cause: str, *, at_birth: bool = False) -> None:
        if actor.worker is not None and actor.worker in self._fleet.workers:
            self._commands.append(StopActor(worker=actor.worker, actor=actor.id, incarnation=actor.incarnation))
        self._stop_dedicated(actor)
        self._fleet.settle(actor, -1)
        actor.last_error, actor.died_at_birth = cause, at_birth
        actor.kills.clear()
        self._directory.end(actor)
        self._burials.add(actor)
        self._change(actor, "dead")
        self._end_owned_by(f"actor:{actor.id}", f"its parent {actor.id} died")

    def _stop_dedicated(self, actor: Actor) -> None:
        if actor.plan.options.isolation == "process" and actor.worker is not None and actor.node in self._fleet.nodes:
            self._commands.append(StopWorker(node=actor.node, worker=actor.worker))

    def _end_owned_by(self, owner: str, cause: str) -> None:
        for actor in self._directory.owned_by(owner):
            self._die(actor, cause)

    def _bury_dead(self) -> None:
        """Any shared worker can bury."""
        workers = [worker.id for worker in self._fleet.workers.values() if worker.dedicated_to is None]
        for actor, order in self._burials.give(workers):
            self._directory.touch(actor)
            self._commands.append(order)

    def _buried(self, event: Buried) -> None:
        actor = self._burials.done(event.actor)
        if actor is not None:
            self._directory.entomb(actor)

    # ---- nodes and workers

    def _report(self, report: NodeReport) -> None:
        is_new = self._fleet.hear(report, self._now)
        node = self._fleet.nodes[report.node]
        if is_new and self._queues:
            self._commands.append(ServeQueues(node=node.id, queues=list(self._queues)))
        if is_new and report.known:
            self._commands.append(AskReport(node=node.id))  # it was taken for lost
        if is_new or not report.known:
            self._commands.append(Acknowledge(node=node.id))
        self._use_queues(report.queues)
        living = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in living]:
            self._worker_gone(worker_id, node.id, f"worker {worker_id} of node {node.id} is no longer there")
        for worker in report.workers:
            self._worker_reported(node, worker)
        self._fleet.drop_if_left(node)

    def _use_queues(self, queues: list[str]) -> None:
        """Every node hears of every task queue."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(dict.fromkeys(new))
            self.renew(parts.CLUSTER)
            self._commands += [ServeQueues(node=node_id, queues=new) for node_id in self._fleet.nodes]

    def _worker_reported(self, node: placement.Node, report: WorkerReport) -> None:
        worker = node.workers.get(report.id)
        if worker is None:
            worker = self._fleet.join(node, report, len(self._directory.hosted_by(report.id)))
            if report.dedicated_to is not None:
                self._start_dedicated(worker, report.dedicated_to)
        for residency in report.hosted or ():
            self._reported(worker, residency)
        if report.dedicated_to is not None and not worker.load:  # its actor lives elsewhere, or not at all
            self._commands.append(StopWorker(node=node.id, worker=worker.id))

    def _start_dedicated(self, worker: placement.Worker, actor_id: str) -> None:
        actor = self._directory.living(actor_id)
        if actor is not None and actor.worker == worker.id:
            self._order_start(actor)

    def _reported(self, worker: placement.Worker, residency: Residency) -> None:
        """An actor that a worker says it hosts: as known, or one that should not be there."""
        actor = self._directory.living(residency.plan.actor_id)
        if actor is None or actor.worker != worker.id or actor.incarnation > residency.incarnation:
            actor_id = residency.plan.actor_id
            self._commands.append(StopActor(worker=worker.id, actor=actor_id, incarnation=residency.incarnation))

    def _worker_lost(self, event: WorkerLost) -> None:
        for running in event.running:
            actor = self._directory.living(running.actor)
            if actor is not None and actor.worker == event.worker:
                actor.kills[running.call] = actor.kills.get(running.call, 0) + 1
        methods = ", ".join(sorted({running.method for running in event.running}))
        self._worker_gone(event.worker, event.node, f"{event.cause}{f', while it ran {methods}' if methods else ''}")

    def _worker_gone(self, worker_id: str, node_id: str, cause: str | None) -> None:
        """`cause` is None where it ended as it was asked to: then its actors move, and that does not count."""
        self._fleet.part(worker_id, node_id)
        for actor in self._directory.hosted_by(worker_id):
            if cause is not None:
                self._restart(actor, cause)
            else:
                actor.last_error = None
                self._move(actor)
        for actor in self._burials.take_back(worker_id):
            self._directory.touch(actor)

    def _tick(self) -> None:
        for node in self._fleet.silent(self._now - self._node_timeout):
            cause = f"node {node.id} was lost: silent for {self._now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._worker_gone(worker_id, node.id, cause)
            self._fleet.drop(node)
            for actor in [actor for actor in self._directory.all() if actor.node == node.id]:
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
