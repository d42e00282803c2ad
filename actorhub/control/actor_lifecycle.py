"""The lives of actors: where each of them goes, who stands by for it, when it is made anew, when it dies. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import replace

from actorhub.control import placement
from actorhub.control.cleanup import CleanupQueue
from actorhub.control.directory import ActorDirectory, ActorEntry, StandbyWorker
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.pending import PendingPlacement, PendingPlacements
from actorhub.control.reservations import Reservations
from actorhub.control.slot_scheduler import SlotScheduler
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueEntry, TaskQueueRegistry
from actorhub.control_api.commands import (
    ActorStateChanged,
    Command,
    CreateMailbox,
    DeleteMailbox,
    GroupReply,
    SpawnReply,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
    group_name_taken,
    name_taken,
)
from actorhub.control_api.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    GroupRemoved,
    GroupRequested,
    KillRequested,
    MailboxDeleted,
    SpawnRequested,
    WorkerLost,
)
from actorhub.control_api.info import State
from actorhub.control_api.specs import Activation, SpawnSpec
from actorhub.core.resources import units


class ActorLifecycle:
    """Each method adds what follows to `commands`. `now` is control's clock."""

    def __init__(
        self, directory: ActorDirectory, nodes: NodeRegistry, groups: GroupRegistry, queues: TaskQueueRegistry
    ) -> None:
        self.commands: list[Command] = []
        self.now = 0.0
        self.cleanup: CleanupQueue[ActorEntry | TaskQueueEntry] = CleanupQueue()
        self.pending: PendingPlacements[ActorEntry | GroupEntry | SlotEntry] = PendingPlacements()
        self._directory = directory
        self._nodes = nodes
        self._groups = groups
        self._queues = queues
        self._reservations = Reservations(nodes, groups)
        self.slots = SlotScheduler(queues, nodes, self._reservations, self.pending, directory.count, self._say)

    def restore(self) -> None:
        """What follows from what the directory, the nodes, the groups and the task queues are restored to."""
        for group in self._groups.all():
            self._reservations.restore(group)
            if not group.is_ready:
                self._wait_group(group)
        for actor in self._directory.all():
            if actor.node is not None:
                self._take(actor, actor.node, actor.worker)
            if actor.standby is not None:
                self._take(actor, actor.standby.node, actor.standby.worker)
            if actor.state == "dead" and not actor.is_buried:
                self.cleanup.add(actor)
        self.slots.restore(self.now)
        for queue in self._queues.all():
            if queue.cause is not None:
                self.cleanup.add(queue)
        waiting = [(actor.waits, actor) for actor in self._directory.all() if actor.waits is not None]
        for number, actor in sorted(waiting, key=lambda each: each[0]):
            self._wait(actor, number)

    def _say(self, command: Command) -> None:
        self.commands.append(command)

    # ---- spawning

    def settle(self) -> None:
        """Place who waits, find who stands by, have the dead buried: as far as there is room."""
        self.pending.serve(self._place, self._reservations.keep, self._nodes.room)
        self._back_alone()
        self._bury_dead()

    def spawn(self, asked: SpawnRequested) -> bool:
        """Whether there is a new actor."""
        plan = asked.plan
        if self._directory.get(plan.actor_id) is not None:
            self.commands.append(SpawnReply(actor_id=plan.actor_id, plan=plan.outline, created=True))
            return False
        parent = plan.owner.removeprefix("actor:")
        if plan.lifetime == "session" and parent != plan.owner and self._directory.living(parent) is None:
            message = f"{parent} is dead, and what it spawns would end with it"
            self.commands.append(SpawnReply(actor_id=plan.actor_id, error="parent dead", message=message))
            return False
        holder = self._directory.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            self.commands.append(name_taken(asked, holder.plan))
            return False
        reason = self._infeasible(plan)
        if reason is not None:
            self.commands.append(SpawnReply(actor_id=plan.actor_id, error="infeasible", message=reason))
            return False
        actor = self._directory.add(plan)
        self._wait(actor, actor.number)
        self.commands.append(CreateMailbox(plan=plan))
        self.commands.append(SpawnReply(actor_id=plan.actor_id, plan=plan.outline, created=True))
        return True

    # ---- a place

    def _infeasible(self, plan: SpawnSpec) -> str | None:
        """Why it can never run; None where it can, or where somebody who may know more has not been heard yet."""
        if plan.bundle is not None:
            return self._reservations.misfit(plan.bundle, plan.class_name, units(plan.options.resources))
        if not self._nodes.is_heard:
            return None
        what = f"{plan.class_name} {plan.name or plan.actor_id}"
        return placement.infeasible(self._nodes.by_id.values(), what, placement.PlacementRequest.of(plan))

    def waits_for(self, actor: ActorEntry) -> str:
        """What there is not that it needs to run."""
        bundle = actor.plan.bundle
        if bundle is not None:
            return self._reservations.waits_for(bundle, actor.ask)
        return placement.waits_for(self._nodes.by_id.values(), actor.label, actor.ask)

    def group_waits_for(self, group: GroupEntry) -> str:
        """What there is not that it needs."""
        return self._reservations.group_waits_for(group)

    def _wait(self, actor: ActorEntry, number: int) -> None:
        self.pending.add(actor.id, PendingPlacement(actor, (actor.ask.shape, actor.plan.bundle), number))

    def _wait_group(self, group: GroupEntry) -> None:
        self.pending.add(f"group:{group.id}", PendingPlacement(group, group.id, group.number))

    def _place(self, item: ActorEntry | GroupEntry | SlotEntry, kept: Set[Hashable]) -> bool:
        if isinstance(item, GroupEntry):
            return self._reservations.place(item, kept)
        if isinstance(item, SlotEntry):
            return self.slots.place(item, kept, self.now)
        return self._place_actor(item, kept)

    def _place_actor(self, actor: ActorEntry, kept: Set[Hashable]) -> bool:
        """One that is isolated starts when the worker reports that its node starts for it."""
        node = self._reservations.choose(actor, kept)
        if node is None:
            return False
        if actor.ask.own_worker:
            worker = f"{actor.id}-{actor.starts + 1}"
            self._settle(actor, node.id, worker)
            gpu = actor.plan.options.resources.get("gpu", 0.0)
            self.commands.append(StartWorker(node=node.id, worker=worker, actor=actor.id, gpu=gpu))
        else:
            shared = node.shared()
            assert shared is not None, "who chose the node has looked"
            self._settle(actor, node.id, shared.id)
            self._order_start(actor)
        self._change(actor, "starting")
        return True

    def _settle(self, actor: ActorEntry, node: str, worker: str) -> None:
        actor.starts += 1
        actor.incarnation = actor.starts
        self._directory.settle(actor, node, worker)
        self._take(actor, node, worker)

    def _leave(self, actor: ActorEntry) -> None:
        self.pending.discard(actor.id)
        self._take(actor, actor.node, actor.worker, -1)
        self._directory.leave(actor)

    def _take(self, actor: ActorEntry, node: str | None, worker: str | None, sign: int = 1) -> None:
        if node is not None:
            self._reservations.take(actor, node, worker, sign)

    def _order_start(self, actor: ActorEntry) -> None:
        assert actor.worker is not None
        self._order(actor, actor.worker, actor.incarnation)

    def _order(self, actor: ActorEntry, worker: str, incarnation: int) -> None:
        limit = actor.plan.options.max_redeliveries
        poison = [call for call, kills in actor.kills.items() if kills > limit]
        residency = Activation(plan=actor.plan, incarnation=incarnation, restarts=actor.restarts)
        self.commands.append(StartActor(worker=worker, residency=residency, poison=poison))

    def _change(self, actor: ActorEntry, state: State) -> None:
        actor.state = state
        self._directory.touch(actor)
        self.commands.append(ActorStateChanged(actor=actor.info))

    # ---- standing by

    def _back_alone(self) -> None:
        """Whoever stands by consumes the same inbox: the broker gives it nothing as long as the first one does."""
        for actor in self._directory.alone():
            node = self._reservations.choose(actor, beside=actor.node)
            worker = node.shared(besides=actor.worker) if node is not None else None
            if worker is not None:
                actor.starts += 1
                self._directory.set_standby(actor, StandbyWorker(worker.node, worker.id, actor.starts))
                self._take(actor, worker.node, worker.id)
                self._order(actor, worker.id, actor.starts)

    def _step_down(self, actor: ActorEntry) -> StandbyWorker | None:
        """Returns where somebody stood by."""
        spot = actor.standby
        if spot is not None:
            self._take(actor, spot.node, spot.worker, -1)
            self._directory.set_standby(actor, None)
        return spot

    # ---- living and dying

    def started(self, event: ActorStarted) -> None:
        actor = self._directory.living(event.actor)
        if actor is None or not is_at(actor, event.worker, event.incarnation):
            self.commands.append(StopActor(worker=event.worker, actor=event.actor, incarnation=event.incarnation))
        elif actor.incarnation != event.incarnation and actor.standby is not None:
            self._directory.set_standby(actor, replace(actor.standby, is_ready=True))
        elif actor.state != "running":
            self._change(actor, "running")

    def failed(self, event: ActorFailed) -> None:
        actor = self._directory.living(event.actor)
        if actor is None or not is_at(actor, event.worker, event.incarnation):
            return
        if event.phase == "life" and actor.incarnation != event.incarnation:
            self._step_down(actor)
        elif event.phase == "life":
            self.restart(actor, event.error)
        else:
            self._die(actor, event.error, at_birth=event.phase == "birth")

    def ended(self, event: ActorStopped) -> None:
        """It moves: its worker drains."""
        actor = self._directory.living(event.actor)
        if actor is None or not is_at(actor, event.worker, event.incarnation):
            return
        if actor.incarnation == event.incarnation:
            actor.last_error = None  # it is not why it moves
            self._stop_dedicated(actor)
            self._move(actor)
        else:
            self._step_down(actor)

    def restart(self, actor: ActorEntry, cause: str) -> None:
        options = actor.plan.options
        if self._restarts_that_count(actor) >= options.max_restarts and not options.durable:
            within = f" in {options.restart_window:g} s" if options.restart_window is not None else ""
            self._die(actor, f"{cause}; it was restarted {options.max_restarts} times before{within}")
            return
        actor.restarts += 1
        actor.restarted.append(self.now)
        actor.last_error = cause
        self._stop_dedicated(actor)
        self._move(actor)

    def _restarts_that_count(self, actor: ActorEntry) -> int:
        window = actor.plan.options.restart_window
        if window is None:
            actor.restarted.clear()
            return actor.restarts
        actor.restarted = [moment for moment in actor.restarted if self.now - moment < window]
        return len(actor.restarted)

    def _move(self, actor: ActorEntry) -> None:
        """To where somebody stands by for it, or it waits for another worker."""
        self._leave(actor)
        spot = self._step_down(actor)
        if spot is not None and spot.worker in self._nodes.workers:
            actor.incarnation = spot.incarnation
            self._directory.settle(actor, spot.node, spot.worker)
            self._take(actor, spot.node, spot.worker)
            self._change(actor, "running" if spot.is_ready else "starting")
        else:
            self._directory.wait(actor)
            assert actor.waits is not None
            self._wait(actor, actor.waits)
            self._change(actor, "restarting")

    def kill(self, event: KillRequested) -> None:
        actor = self._directory.living(event.actor)
        if actor is not None:
            self._die(actor, event.cause)

    def _die(self, actor: ActorEntry, cause: str, *, at_birth: bool = False) -> None:
        if actor.worker is not None and actor.worker in self._nodes.workers:
            self.commands.append(StopActor(worker=actor.worker, actor=actor.id, incarnation=actor.incarnation))
        self._stop_dedicated(actor)
        self._leave(actor)
        spot = self._step_down(actor)
        if spot is not None:
            self.commands.append(StopActor(worker=spot.worker, actor=actor.id, incarnation=spot.incarnation))
        actor.last_error, actor.died_at_birth = cause, at_birth
        actor.kills.clear()
        self._directory.end(actor)
        self.cleanup.add(actor)
        self._change(actor, "dead")
        self.end_owned_by(f"actor:{actor.id}", f"its parent {actor.id} died")

    def _stop_dedicated(self, actor: ActorEntry) -> None:
        if actor.ask.own_worker and actor.worker is not None and actor.node in self._nodes.by_id:
            self.commands.append(StopWorker(node=actor.node, worker=actor.worker))

    def end_owned_by(self, owner: str, cause: str) -> None:
        for actor in self._directory.owned_by(owner):
            if actor.state != "dead":  # the end of another of them may have been its end, too
                self._die(actor, cause)
        for group in self._groups.owned_by(owner):
            self.remove_group(GroupRemoved(group=group.id, cause=cause))

    # ---- groups

    def make_group(self, asked: GroupRequested) -> None:
        plan = asked.plan
        known = self._groups.get(plan.group_id)
        if known is not None:
            self.commands.append(GroupReply(group_id=plan.group_id, plan=known.plan, created=True))
            return
        parent = plan.owner.removeprefix("actor:")
        if plan.lifetime == "session" and parent != plan.owner and self._directory.living(parent) is None:
            message = f"{parent} is dead, and the group would end with it"
            self.commands.append(GroupReply(group_id=plan.group_id, error="parent dead", message=message))
            return
        holder = self._groups.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            self.commands.append(group_name_taken(asked, holder.plan))
            return
        reason = self._reservations.infeasible(plan) if self._nodes.is_heard else None
        if reason is not None:
            message = f"placement group {plan.name or plan.group_id}: {reason}"
            self.commands.append(GroupReply(group_id=plan.group_id, error="infeasible", message=message))
            return
        group = GroupEntry(plan, self._directory.count())
        self._groups.add(group)
        self._wait_group(group)
        self.commands.append(GroupReply(group_id=plan.group_id, plan=plan, created=True))

    def remove_group(self, event: GroupRemoved) -> None:
        """Its actors end with it, and what it reserved is free."""
        group = self._groups.get(event.group)
        if group is not None:
            self.end_owned_by(f"group:{group.id}", event.cause)
            for queue in self.slots.end_group(group.id, event.cause):
                self.cleanup.add(queue)
            self.pending.discard(f"group:{group.id}")
            self._reservations.give_back(group)
            self._groups.remove(group)

    def clear(self, node_id: str) -> None:
        """The node is gone, or leaves: bundles that are there go elsewhere. Their actors follow."""
        for group in self._groups.on(node_id):
            self._reservations.give_back(group, node_id)
            if f"group:{group.id}" not in self.pending:
                self._wait_group(group)

    def _bury_dead(self) -> None:
        """Any shared worker can bury."""
        if not self.cleanup.any_waits:
            return
        workers = [worker.id for worker in self._nodes.workers.values() if worker.dedicated_to is None]
        for dead in self.cleanup.give(workers):
            self._note_cleaner(dead)
            if isinstance(dead, TaskQueueEntry):
                self.slots.bury(dead)
            elif dead.cleaner is not None:
                cause, at_birth = dead.last_error or "", dead.died_at_birth
                self._say(DeleteMailbox(worker=dead.cleaner, plan=dead.plan, cause=cause, at_birth=at_birth))

    def buried(self, event: MailboxDeleted) -> None:
        dead = self.cleanup.done(event.actor)
        if isinstance(dead, TaskQueueEntry):
            self._queues.remove(dead)
        elif dead is not None:
            self._directory.entomb(dead)

    def _note_cleaner(self, dead: ActorEntry | TaskQueueEntry) -> None:
        if isinstance(dead, TaskQueueEntry):
            self._queues.touch(dead)
        else:
            self._directory.touch(dead)

    # ---- workers

    def start_dedicated(self, worker: placement.WorkerEntry, actor_id: str) -> None:
        """A worker is ready that was started for this actor alone."""
        actor = self._directory.living(actor_id)
        if actor is not None and actor.worker == worker.id:
            self._order_start(actor)

    def worker_lost(self, event: WorkerLost) -> None:
        for running in event.running:
            actor = self._directory.living(running.actor)
            if actor is not None and event.worker in (actor.worker, actor.standby and actor.standby.worker):
                self._directory.touch(actor)
                actor.kills[running.call] = actor.kills.get(running.call, 0) + 1
        methods = ", ".join(sorted({running.method for running in event.running}))
        self.worker_gone(event.worker, event.node, f"{event.cause}{f', while it ran {methods}' if methods else ''}")

    def worker_gone(self, worker_id: str, node_id: str, cause: str | None) -> None:
        """`cause` is None where it ended as it was asked to: then its actors move, and that does not count."""
        self._nodes.remove_worker(worker_id, node_id)
        for actor in self._directory.backed_by(worker_id):
            self._step_down(actor)
        for actor in self._directory.hosted_by(worker_id):
            self._go_elsewhere(actor, cause)
        for dead in self.cleanup.take_back(worker_id):
            self._note_cleaner(dead)
        self.check(node_id)

    def check(self, node_id: str) -> None:
        """Where the node is not there any more, what was on its way there is not either: one that leaves in order does not
        tell of it."""
        if node_id not in self._nodes.by_id:
            self.slots.gone(node_id)
            self.astray(node_id, None)

    def astray(self, node_id: str, cause: str | None) -> None:
        """Actors that wait there for workers of their own, which will not come, go elsewhere. `cause` as in `worker_gone`."""
        for actor in [actor for actor in self._directory.all() if actor.node == node_id]:
            if actor.worker not in self._nodes.workers:
                self._go_elsewhere(actor, cause)

    def _go_elsewhere(self, actor: ActorEntry, cause: str | None) -> None:
        if cause is not None:
            self.restart(actor, cause)
        else:
            actor.last_error = None
            self._move(actor)


def is_at(actor: ActorEntry | None, worker: str, incarnation: int) -> bool:
    """It lives there as this incarnation, or somebody stands by there as this one."""
    if actor is None:
        return False
    spot = actor.standby
    there = [(actor.worker, actor.incarnation)] + ([(spot.worker, spot.incarnation)] if spot is not None else [])
    return (worker, incarnation) in there
