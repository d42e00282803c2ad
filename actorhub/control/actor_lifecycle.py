"""Lifecycle of actors: spawn, placement, start, standby, restart, move, death. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import replace

from actorhub.control import placement
from actorhub.control.cleanup import Cleanup
from actorhub.control.decision import Decision
from actorhub.control.directory import ActorEntry, StandbyWorker
from actorhub.control.group_lifecycle import GroupLifecycle
from actorhub.control.pending import PendingPlacement, PendingPlacements
from actorhub.control.placement import WorkerEntry
from actorhub.control.reservations import Reservations
from actorhub.control.tables import ControlTables, PendingItem
from actorhub.control_api.commands import (
    ActorStateChanged,
    CreateMailbox,
    SpawnReply,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
    name_taken,
)
from actorhub.control_api.events import ActorFailed, ActorStarted, ActorStopped, Running, SpawnRequested
from actorhub.control_api.info import State
from actorhub.control_api.specs import Activation


class ActorLifecycle:
    """Decides what happens to each actor.

    Args:
        tables: everything that control knows.
        reservations: resources of nodes and bundles.
        pending: all placements that wait for resources.
        groups: placement groups, which end with the actors that own them.
        cleanup: deletes dead actors' mailboxes.
    """

    def __init__(
        self,
        tables: ControlTables,
        reservations: Reservations,
        pending: PendingPlacements[PendingItem],
        groups: GroupLifecycle,
        cleanup: Cleanup,
    ) -> None:
        self._directory = tables.directory
        self._nodes = tables.nodes
        self._groups = tables.groups
        self._reservations = reservations
        self._pending = pending
        self._group_lifecycle = groups
        self._cleanup = cleanup

    def restore(self) -> None:
        """Reserve again what persisted actors hold, and let the pending ones wait for resources."""
        for actor in self._directory.all():
            self._reserve(actor)
            if actor.standby is not None:
                self._reservations.reserve(actor, actor.standby.node, actor.standby.worker)
        pending = [(actor.pending_number, actor) for actor in self._directory.all() if actor.pending_number is not None]
        for number, actor in sorted(pending, key=lambda each: each[0]):
            self._add_pending(actor, number)

    # ---- spawn

    def spawn(self, event: SpawnRequested, decision: Decision) -> bool:
        """Create an actor, or refuse it. A repeated request gets the same answer. Returns True if the actor is new."""
        plan = event.plan
        if self._directory.get(plan.actor_id) is not None:
            decision.emit(SpawnReply(actor_id=plan.actor_id, plan=plan.outline, created=True))
            return False
        refusal = self._refusal(event)
        if refusal is not None:
            decision.emit(refusal)
            return False
        actor = self._directory.add(plan)
        self._add_pending(actor, actor.number)
        decision.emit(CreateMailbox(plan=plan))
        decision.emit(SpawnReply(actor_id=plan.actor_id, plan=plan.outline, created=True))
        return True

    def _refusal(self, event: SpawnRequested) -> SpawnReply | None:
        """The reply if no actor is created; None if one is to be."""
        plan = event.plan
        parent = self._directory.dead_parent(plan)
        if parent is not None:
            message = f"its parent {parent} is dead; an actor ends with its parent, so it is not started"
            return SpawnReply(actor_id=plan.actor_id, error="parent dead", message=message)
        holder = self._directory.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            return name_taken(event, holder.plan)
        reason = self._infeasible(ActorEntry(plan))
        if reason is not None:
            return SpawnReply(actor_id=plan.actor_id, error="infeasible", message=reason)
        return None

    def _infeasible(self, actor: ActorEntry) -> str | None:
        """The reason why it can never run; None if it can, or if a node that has not reported yet may be able to run it."""
        if actor.bundle is not None:
            return self._reservations.misfit(actor.bundle, actor.plan.class_name, actor.request.units)
        if not self._nodes.all_have_reported:
            return None
        return placement.infeasible(self._nodes.by_id.values(), actor.label, actor.request)

    # ---- placement

    def waits_for(self, actor: ActorEntry) -> str:
        """The thing that is missing before a pending actor can run, for people."""
        if actor.bundle is not None:
            return self._reservations.waits_for(actor.bundle, actor.request)
        return placement.waits_for(self._nodes.by_id.values(), actor.label, actor.request)

    def place(self, actor: ActorEntry, held: Set[Hashable], decision: Decision) -> bool:
        """Give a pending actor to a worker. Returns False if there is no room where nothing is held for others.

        An isolated actor gets a new worker, and is started when the node reports that worker.
        """
        node = self._reservations.choose(actor, held)
        if node is None:
            return False
        if actor.request.own_worker:
            worker_id = f"{actor.id}-{actor.starts + 1}"
            self._assign(actor, node.id, worker_id)
            gpu = actor.plan.options.resources.get("gpu", 0.0)
            decision.emit(StartWorker(node=node.id, worker=worker_id, actor=actor.id, gpu=gpu))
        else:
            worker = node.least_loaded_worker()
            assert worker is not None, "Reservations.choose returns no node without a worker for the actor"
            self._assign(actor, node.id, worker.id)
            self._start(actor, worker.id, actor.incarnation, decision)
        self._set_state(actor, "starting", decision)
        return True

    def start_dedicated(self, worker: WorkerEntry, actor_id: str, decision: Decision) -> None:
        """Start an isolated actor on its own worker, which is ready."""
        actor = self._directory.get_living(actor_id)
        if actor is not None and actor.worker == worker.id:
            self._start(actor, worker.id, actor.incarnation, decision)

    def _assign(self, actor: ActorEntry, node: str, worker: str) -> None:
        actor.starts += 1
        actor.incarnation = actor.starts
        self._directory.assign(actor, node, worker)
        self._reserve(actor)

    def _unassign(self, actor: ActorEntry) -> None:
        self._pending.discard(actor.pending_key)
        if actor.node is not None:
            self._reservations.release(actor, actor.node, actor.worker)
        self._directory.unassign(actor)

    def _reserve(self, actor: ActorEntry) -> None:
        if actor.node is not None:
            self._reservations.reserve(actor, actor.node, actor.worker)

    def _add_pending(self, actor: ActorEntry, number: int) -> None:
        self._pending.add(actor.pending_key, PendingPlacement(actor, (actor.request.shape, actor.bundle), number))

    def _start(self, actor: ActorEntry, worker: str, incarnation: int, decision: Decision) -> None:
        limit = actor.plan.options.max_redeliveries
        poison = [call for call, kills in actor.kills.items() if kills > limit]
        residency = Activation(plan=actor.plan, incarnation=incarnation, restarts=actor.restarts)
        decision.emit(StartActor(worker=worker, residency=residency, poison=poison))

    def _stop_dedicated(self, actor: ActorEntry, decision: Decision) -> None:
        """Stop the worker of an isolated actor."""
        if actor.request.own_worker and actor.worker is not None and actor.node in self._nodes.by_id:
            decision.emit(StopWorker(node=actor.node, worker=actor.worker))

    def _set_state(self, actor: ActorEntry, state: State, decision: Decision) -> None:
        actor.state = state
        self._directory.mark_changed(actor)
        decision.emit(ActorStateChanged(actor=actor.info))

    # ---- standby

    def assign_standbys(self, decision: Decision) -> None:
        """Start a standby for every actor that wants one, where there is room.

        A standby consumes the actor's inbox, too. The broker delivers nothing to it while the first consumer is there.
        """
        for actor in self._directory.without_standby():
            node = self._reservations.choose(actor, last=actor.node)
            worker = node.least_loaded_worker(except_for=actor.worker) if node is not None else None
            if worker is not None:
                actor.starts += 1
                self._directory.set_standby(actor, StandbyWorker(worker.node, worker.id, actor.starts))
                self._reservations.reserve(actor, worker.node, worker.id)
                self._start(actor, worker.id, actor.starts, decision)

    def _remove_standby(self, actor: ActorEntry) -> StandbyWorker | None:
        """Release what the actor's standby holds, and return the standby."""
        standby = actor.standby
        if standby is not None:
            self._reservations.release(actor, standby.node, standby.worker)
            self._directory.set_standby(actor, None)
        return standby

    # ---- reports

    def on_started(self, event: ActorStarted, decision: Decision) -> None:
        actor = self._directory.get_living(event.actor)
        if actor is None or not actor.is_at(event.worker, event.incarnation):
            decision.emit(StopActor(worker=event.worker, actor=event.actor, incarnation=event.incarnation))
        elif actor.incarnation != event.incarnation and actor.standby is not None:
            self._directory.set_standby(actor, replace(actor.standby, is_ready=True))
        elif actor.state != "running":
            self._set_state(actor, "running", decision)

    def on_failed(self, event: ActorFailed, decision: Decision) -> None:
        actor = self._directory.get_living(event.actor)
        if actor is None or not actor.is_at(event.worker, event.incarnation):
            return
        if event.phase != "life":
            self._die(actor, event.error, decision, at_birth=event.phase == "birth")
        elif actor.incarnation != event.incarnation:
            self._remove_standby(actor)
        else:
            self._restart(actor, event.error, decision)

    def on_stopped(self, event: ActorStopped, decision: Decision) -> None:
        """Move an actor whose worker drains."""
        actor = self._directory.get_living(event.actor)
        if actor is None or not actor.is_at(event.worker, event.incarnation):
            return
        if actor.incarnation == event.incarnation:
            actor.last_error = None  # an earlier error is not why it moves
            self._stop_dedicated(actor, decision)
            self._move(actor, decision)
        else:
            self._remove_standby(actor)

    def stop_unless_at(self, worker: str, residency: Activation, decision: Decision) -> None:
        """Stop an instance that a worker reports, unless it is the actor's, or its standby's."""
        actor_id, incarnation = residency.plan.actor_id, residency.incarnation
        actor = self._directory.get_living(actor_id)
        if actor is None or not actor.is_at(worker, incarnation):
            decision.emit(StopActor(worker=worker, actor=actor_id, incarnation=incarnation))

    # ---- loss of workers

    def count_kills(self, worker: str, running: list[Running]) -> None:
        """Count the death of a worker against the calls that it ran."""
        for each in running:
            actor = self._directory.get_living(each.actor)
            if actor is not None and worker in (actor.worker, actor.standby and actor.standby.worker):
                self._directory.mark_changed(actor)
                actor.kills[each.call] = actor.kills.get(each.call, 0) + 1

    def leave_worker(self, worker: str, cause: str | None, decision: Decision) -> None:
        """Move all actors away from a worker that is gone.

        Args:
            worker: the worker's id.
            cause: why it is gone; None if it ended at control's order, and the move does not count as a restart.
            decision: takes the orders.
        """
        for actor in self._directory.with_standby_on(worker):
            self._remove_standby(actor)
        for actor in self._directory.hosted_by(worker):
            self._restart_or_move(actor, cause, decision)

    def leave_node(self, node: str, cause: str | None, decision: Decision) -> None:
        """Move actors that wait on a node for workers of their own, which will not come. `cause` as in `leave_worker`."""
        for actor in [actor for actor in self._directory.all() if actor.node == node]:
            if actor.worker not in self._nodes.workers:
                self._restart_or_move(actor, cause, decision)

    def _restart_or_move(self, actor: ActorEntry, cause: str | None, decision: Decision) -> None:
        if cause is not None:
            self._restart(actor, cause, decision)
        else:
            actor.last_error = None
            self._move(actor, decision)

    # ---- restart and move

    def _restart(self, actor: ActorEntry, cause: str, decision: Decision) -> None:
        """Restart an actor after a failure. An actor that is not durable dies if it was restarted too often."""
        options = actor.plan.options
        if _count_restarts(actor, decision.now) >= options.max_restarts and not options.durable:
            within = f" in {options.restart_window:g} s" if options.restart_window is not None else ""
            self._die(actor, f"{cause}; it was restarted {options.max_restarts} times before{within}", decision)
            return
        actor.restarts += 1
        actor.restart_times.append(decision.now)
        actor.last_error = cause
        self._stop_dedicated(actor, decision)
        self._move(actor, decision)

    def _move(self, actor: ActorEntry, decision: Decision) -> None:
        """Move an actor to its standby, or let it wait for another worker."""
        self._unassign(actor)
        standby = self._remove_standby(actor)
        if standby is not None and standby.worker in self._nodes.workers:
            actor.incarnation = standby.incarnation
            self._directory.assign(actor, standby.node, standby.worker)
            self._reserve(actor)
            self._set_state(actor, "running" if standby.is_ready else "starting", decision)
        else:
            self._directory.set_pending(actor)
            assert actor.pending_number is not None
            self._add_pending(actor, actor.pending_number)
            self._set_state(actor, "restarting", decision)

    # ---- death

    def kill(self, actor_id: str, cause: str, decision: Decision) -> None:
        actor = self._directory.get_living(actor_id)
        if actor is not None:
            self._die(actor, cause, decision)

    def end_owned_by(self, owner: str, cause: str, decision: Decision) -> None:
        """End all actors and groups of an owner that is gone: a session, an actor or a group."""
        for actor in self._directory.owned_by(owner):
            if actor.state != "dead":  # it may have died with another of them
                self._die(actor, cause, decision)
        for group in self._groups.owned_by(owner):
            self.remove_group(group.id, cause, decision)

    def remove_group(self, group_id: str, cause: str, decision: Decision) -> None:
        """End all actors of a group, and remove it."""
        group = self._groups.get(group_id)
        if group is not None:
            self.end_owned_by(f"group:{group.id}", cause, decision)
            self._group_lifecycle.remove(group, cause, decision)

    def _die(self, actor: ActorEntry, cause: str, decision: Decision, *, at_birth: bool = False) -> None:
        if actor.worker is not None and actor.worker in self._nodes.workers:
            decision.emit(StopActor(worker=actor.worker, actor=actor.id, incarnation=actor.incarnation))
        self._stop_dedicated(actor, decision)
        self._unassign(actor)
        standby = self._remove_standby(actor)
        if standby is not None:
            decision.emit(StopActor(worker=standby.worker, actor=actor.id, incarnation=standby.incarnation))
        actor.last_error, actor.died_at_birth = cause, at_birth
        actor.kills.clear()
        self._directory.set_dead(actor)
        self._cleanup.add(actor)
        self._set_state(actor, "dead", decision)
        self.end_owned_by(f"actor:{actor.id}", f"its parent {actor.id} died", decision)


def _count_restarts(actor: ActorEntry, now: float) -> int:
    """Restarts that count against `max_restarts`. Forgets those before the restart window."""
    window = actor.plan.options.restart_window
    if window is None:
        actor.restart_times.clear()
        return actor.restarts
    actor.restart_times = [moment for moment in actor.restart_times if now - moment < window]
    return len(actor.restart_times)
