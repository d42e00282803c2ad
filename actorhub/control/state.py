"""Control's decisions: events in, commands out. No clock, no broker, no await.

A successor knows from the journal which actors there are, and not where they live. For `node_timeout` it lets the nodes
say what they host; an actor that nobody has claimed by then died with its node, and is started again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from actorhub.control import placement
from actorhub.control.burials import Burials
from actorhub.control.directory import Actor, Directory
from actorhub.control.messages import (
    Acknowledge,
    ActorFailed,
    ActorInfo,
    ActorPlan,
    ActorStarted,
    ActorStopped,
    Answer,
    AskReport,
    Born,
    Buried,
    Changed,
    Command,
    Died,
    Event,
    Forget,
    KillAsked,
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
    """Everything that control knows. Durations are seconds; `now` is any clock that all calls share.

    `epoch` is higher than any that a former control had; incarnations that this one starts are higher than any it started.
    """

    def __init__(self, *, node_timeout: float, epoch: int) -> None:
        self._node_timeout = node_timeout
        self._epoch = epoch
        self._now = 0.0
        self._recovering_until: float | None = None
        self._directory = Directory()
        self._nodes: dict[str, placement.Node] = {}
        self._workers: dict[str, placement.Worker] = {}
        self._unclaimed: OrderedDict[str, Actor] = OrderedDict()
        self._pending: OrderedDict[str, Actor] = OrderedDict()
        self._burials = Burials()
        self._queues: dict[str, None] = {}  # task queues, in the order of their first use
        self._commands: list[Command] = []

    def restore(self, plans: Mapping[str, ActorPlan], deaths: Mapping[str, Died], now: float) -> list[Command]:
        """What former controls made, and who of it is dead but not buried. Before the first event."""
        self._commands = []
        self._recovering_until = now + self._node_timeout
        dead_first = sorted(
            plans.values(), key=lambda plan: plan.actor_id not in deaths
        )  # their names have new holders
        for plan in dead_first:
            actor = Actor(plan, state="restarting", last_error="control moved; its node has not said yet that it lives")
            self._directory.add(actor)
            death = deaths.get(plan.actor_id)
            if death is not None:
                self._die(actor, death.cause, at_birth=death.at_birth, known=True)
            else:
                self._unclaimed[plan.actor_id] = actor
        for owner in self._directory.owners():
            parent = owner.removeprefix("actor:")
            if parent != owner and self._directory.living(parent) is None:
                self._end_owned_by(owner, f"its parent {parent} died")
        return self._commands

    def handle(self, event: Event, now: float) -> list[Command]:
        """What follows from the event. Events may come late, twice, or from the dead."""
        self._commands = []
        self._now = now
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
            case ActorStopped():
                self._ended(event)
            case Buried():
                self._buried(event)
            case KillAsked():
                self._kill(event)
            case SessionEnded():
                self._end_owned_by(event.session, f"its session {event.session} ended")
            case QueueUsed():
                self._use_queues([event.queue])
            case Tick():
                self._tick(now)
        self._place_pending()
        self._bury_dead()
        return self._commands

    # ---- questions

    def find(self, namespace: str, name: str) -> ActorPlan | None:
        """The living actor that has the name."""
        found = self._directory.find(namespace, name)
        return found.plan if found is not None else None

    def describe(self, actor_id: str) -> ActorInfo | None:
        """With what it waits for, where it waits for a place."""
        found = self._directory.get(actor_id)
        if found is None or actor_id not in self._pending:
            return found.info if found is not None else None
        return found.info.model_copy(update={"waits_for": placement.waits_for(self._nodes.values(), found.plan)})

    def actors(self, namespace: str | None = None) -> list[ActorInfo]:
        return [a.info for a in self._directory.all() if namespace is None or a.plan.namespace == namespace]

    def nodes(self) -> list[NodeInfo]:
        return [
            node.info({id_: [actor.id for actor in self._directory.hosted_by(id_)] for id_ in node.workers})
            for node in self._nodes.values()
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
        reason = placement.infeasible(self._nodes.values(), plan) if self._recovering_until is None else None
        if reason is not None:
            self._commands.append(Answer(actor_id=plan.actor_id, error="infeasible", message=reason))
            return
        actor = Actor(plan)
        self._directory.add(actor)
        self._pending[plan.actor_id] = actor
        self._commands.append(Born(plan=plan))
        self._commands.append(Answer(actor_id=plan.actor_id, plan=plan, created=True))

    def _place_pending(self) -> None:
        """In the order of asking. One that finds no room does not hold up those behind it."""
        for actor in list(self._pending.values()):
            if actor.plan.options.isolation == "process":
                self._place_isolated(actor)
            else:
                self._place(actor)

    def _place(self, actor: Actor) -> None:
        worker = placement.choose_worker(self._nodes.values(), actor.plan)
        if worker is not None:
            self._settle(actor, worker.node, worker.id)
            self._start(actor)

    def _place_isolated(self, actor: Actor) -> None:
        """Its node starts a worker for it; the actor starts when that worker reports."""
        node = placement.choose_node(self._nodes.values(), actor.plan)
        if node is not None:
            actor.incarnation = self._next_incarnation(actor)
            worker = f"{actor.id}-{actor.incarnation}"
            self._settle(actor, node.id, worker)
            self._commands.append(StartWorker(node=node.id, worker=worker, actor=actor.id))
            self._change(actor, "starting")

    def _start(self, actor: Actor) -> None:
        actor.incarnation = self._next_incarnation(actor)
        self._order_start(actor)
        self._change(actor, "starting")

    def _next_incarnation(self, actor: Actor) -> int:
        return max(actor.incarnation, self._epoch) + 1

    def _order_start(self, actor: Actor) -> None:
        assert actor.worker is not None
        limit = actor.plan.options.max_redeliveries
        poison = [call for call, kills in actor.kills.items() if kills > limit]
        residency = Residency(plan=actor.plan, incarnation=actor.incarnation, restarts=actor.restarts)
        self._commands.append(StartActor(worker=actor.worker, residency=residency, poison=poison))

    def _settle(self, actor: Actor, node_id: str, worker_id: str) -> None:
        self._pending.pop(actor.id, None)
        self._unclaimed.pop(actor.id, None)
        self._leave(actor)
        self._directory.settle(actor, node_id, worker_id)
        self._nodes[node_id].reserve(actor.plan.options.resources)
        if worker_id in self._workers:
            self._workers[worker_id].load += 1

    def _leave(self, actor: Actor) -> None:
        if actor.node is not None and actor.node in self._nodes:
            self._nodes[actor.node].reserve(actor.plan.options.resources, -1)
        if actor.worker is not None and actor.worker in self._workers:
            self._workers[actor.worker].load -= 1
        self._directory.leave(actor)

    def _change(self, actor: Actor, state: State) -> None:
        actor.state = state
        self._commands.append(Changed(actor=actor.info))

    # ---- living and dying

    def _started(self, event: ActorStarted) -> None:
        actor = self._directory.living(event.actor)
        if actor is not None and actor.id in self._unclaimed:
            if event.worker in self._workers:  # else its node's report says it again
                self._claim(actor, self._workers[event.worker], event.incarnation, actor.restarts)
        elif actor is None or actor.worker != event.worker or actor.incarnation > event.incarnation:
            self._commands.append(StopActor(worker=event.worker, actor=event.actor, incarnation=event.incarnation))
        else:
            actor.incarnation = event.incarnation  # a former control's order may have replaced the one that we knew of
            if actor.state != "running":
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
        """It moves: its worker drains, or it was stopped where it should live by a control that knew less."""
        actor = self._directory.living(event.actor)
        if actor is not None and actor.id in self._unclaimed:
            actor.last_error = None
            self._move(actor)
        elif actor is not None and actor.worker == event.worker and actor.incarnation == event.incarnation:
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
            return actor.restarts
        actor.restarted = [moment for moment in actor.restarted if self._now - moment < window]
        return len(actor.restarted)

    def _move(self, actor: Actor) -> None:
        self._leave(actor)
        self._unclaimed.pop(actor.id, None)
        self._pending[actor.id] = actor
        self._change(actor, "restarting")

    def _kill(self, event: KillAsked) -> None:
        actor = self._directory.living(event.actor)
        if actor is not None:
            self._die(actor, event.cause)

    def _die(self, actor: Actor, cause: str, *, at_birth: bool = False, known: bool = False) -> None:
        """`known`: the journal has it already."""
        if actor.worker is not None and actor.worker in self._workers:
            self._commands.append(StopActor(worker=actor.worker, actor=actor.id, incarnation=actor.incarnation))
        self._stop_dedicated(actor)
        self._leave(actor)
        self._pending.pop(actor.id, None)
        self._unclaimed.pop(actor.id, None)
        self._directory.end(actor)
        self._burials.add(actor)
        actor.last_error, actor.died_at_birth = cause, at_birth
        actor.kills.clear()
        if not known:
            self._commands.append(Died(actor=actor.id, cause=cause, at_birth=at_birth))
        self._change(actor, "dead")
        self._end_owned_by(f"actor:{actor.id}", f"its parent {actor.id} died")

    def _stop_dedicated(self, actor: Actor) -> None:
        if actor.plan.options.isolation == "process" and actor.worker is not None and actor.node in self._nodes:
            self._commands.append(StopWorker(node=actor.node, worker=actor.worker))

    def _end_owned_by(self, owner: str, cause: str) -> None:
        for actor in self._directory.owned_by(owner):
            self._die(actor, cause)

    def _bury_dead(self) -> None:
        """Any shared worker can bury."""
        workers = [worker.id for worker in self._workers.values() if worker.dedicated_to is None]
        self._commands += self._burials.give(workers)

    def _buried(self, event: Buried) -> None:
        actor = self._burials.done(event.actor)
        if actor is not None:
            self._directory.entomb(actor)
            self._commands.append(Forget(actor=actor.id))

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
                store=report.store,
            )
            if self._queues:
                self._commands.append(ServeQueues(node=node.id, queues=list(self._queues)))
            if report.known:
                self._commands.append(AskReport(node=node.id))
            self._commands.append(Acknowledge(node=node.id))
        elif not report.known:
            self._commands.append(Acknowledge(node=node.id))
        node.seen = now
        node.slots = report.slots
        self._use_queues(report.queues)
        node.leaving = report.leaving  # nothing new is placed there; its actors go elsewhere as its workers end
        living = {worker.id for worker in report.workers}
        for worker_id in [worker for worker in node.workers if worker not in living]:
            self._worker_gone(worker_id, node.id, f"worker {worker_id} of node {node.id} is no longer there")
        for worker in report.workers:
            self._worker_reported(node, worker)
        self._forget_if_left(node)

    def _use_queues(self, queues: list[str]) -> None:
        """Every node hears of every task queue, and the nodes' reports tell a successor."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(dict.fromkeys(new))
            self._commands += [ServeQueues(node=node_id, queues=new) for node_id in self._nodes]

    def _worker_reported(self, node: placement.Node, report: WorkerReport) -> None:
        worker = node.workers.get(report.id)
        if worker is None:
            worker = placement.Worker(report.id, node.id, report.pid, report.dedicated_to)
            worker.load = len(self._directory.hosted_by(worker.id))
            node.workers[report.id] = self._workers[report.id] = worker
            if report.dedicated_to is not None:
                self._start_dedicated(worker, report.dedicated_to)
        for residency in report.hosted or ():
            self._reported(worker, residency)
        if report.dedicated_to is not None and not worker.load and self._recovering_until is None:
            self._commands.append(
                StopWorker(node=node.id, worker=worker.id)
            )  # its actor lives elsewhere, or not at all

    def _start_dedicated(self, worker: placement.Worker, actor_id: str) -> None:
        actor = self._directory.living(actor_id)
        if actor is not None and actor.worker == worker.id:
            self._order_start(actor)

    def _reported(self, worker: placement.Worker, residency: Residency) -> None:
        """An actor that a worker says it hosts: as known, unclaimed so far, or one that should not be there."""
        actor = self._directory.living(residency.plan.actor_id)
        if actor is not None and actor.worker == worker.id and actor.incarnation <= residency.incarnation:
            actor.incarnation = residency.incarnation
            return
        if actor is not None and actor.id in self._unclaimed:
            self._claim(actor, worker, residency.incarnation, residency.restarts)
            return
        actor_id = residency.plan.actor_id
        self._commands.append(StopActor(worker=worker.id, actor=actor_id, incarnation=residency.incarnation))

    def _claim(self, actor: Actor, worker: placement.Worker, incarnation: int, restarts: int) -> None:
        self._settle(actor, worker.node, worker.id)
        actor.incarnation, actor.restarts, actor.last_error = incarnation, restarts, None
        self._change(actor, "running")

    def _worker_lost(self, event: WorkerLost) -> None:
        for running in event.running:
            actor = self._directory.living(running.actor)
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
        for actor in self._directory.hosted_by(worker_id):
            if cause is not None:
                self._restart(actor, cause)
            else:
                actor.last_error = None
                self._move(actor)
        self._burials.take_back(worker_id)
        if node is not None:
            self._forget_if_left(node)

    def _forget_if_left(self, node: placement.Node) -> None:
        if node.leaving and not node.workers:
            self._nodes.pop(node.id, None)

    def _tick(self, now: float) -> None:
        for node in [node for node in self._nodes.values() if now - node.seen > self._node_timeout]:
            cause = f"node {node.id} was lost: silent for {now - node.seen:.1f} s"
            for worker_id in list(node.workers):
                self._worker_gone(worker_id, node.id, cause)
            self._nodes.pop(node.id, None)
            for actor in [actor for actor in self._directory.all() if actor.node == node.id]:
                self._restart(actor, cause)  # it waited for a worker of its own there
        if self._recovering_until is not None and now >= self._recovering_until:
            self._recovering_until = None
            for actor in list(self._unclaimed.values()):
                self._restart(actor, "its node was lost together with control")


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
