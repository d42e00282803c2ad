"""Lifecycle of placement groups: request, reservation, loss of nodes, removal. Pure."""

from __future__ import annotations

from actorhub.control.cleanup import Cleanup
from actorhub.control.decision import Decision
from actorhub.control.group_registry import GroupEntry
from actorhub.control.pending import PendingPlacement, PendingPlacements
from actorhub.control.reservations import Reservations
from actorhub.control.slot_scheduler import SlotScheduler
from actorhub.control.tables import ControlTables, PendingItem
from actorhub.control_api.commands import GroupReply, group_name_taken
from actorhub.control_api.events import GroupRequested
from actorhub.control_api.specs import PlacementGroupSpec


class GroupLifecycle:
    """Decides what happens to each placement group.

    Args:
        tables: everything that control knows.
        reservations: resources of nodes and bundles.
        pending: all placements that wait for resources.
        slots: scheduler of the slots in bundles.
        cleanup: deletes task queues that no slot can serve any more.
    """

    def __init__(
        self,
        tables: ControlTables,
        reservations: Reservations,
        pending: PendingPlacements[PendingItem],
        slots: SlotScheduler,
        cleanup: Cleanup,
    ) -> None:
        self._directory = tables.directory
        self._nodes = tables.nodes
        self._groups = tables.groups
        self._reservations = reservations
        self._pending = pending
        self._slots = slots
        self._cleanup = cleanup

    def restore(self) -> None:
        """Reserve again the bundles of persisted groups, and let the rest wait for resources."""
        for group in self._groups.all():
            self._reservations.restore_group(group)
            if not group.is_ready:
                self._add_pending(group)

    def request(self, event: GroupRequested, decision: Decision) -> None:
        """Create a group, or refuse it. A repeated request gets the same reply and changes nothing."""
        plan = event.plan
        existing = self._groups.get(plan.group_id)
        if existing is not None:
            decision.emit(GroupReply(group_id=plan.group_id, plan=existing.plan, created=True))
            return
        refusal = self._refusal(event)
        if refusal is not None:
            decision.emit(refusal)
            return
        group = GroupEntry(plan, self._directory.next_number())
        self._groups.add(group)
        self._add_pending(group)
        decision.emit(GroupReply(group_id=plan.group_id, plan=plan, created=True))

    def _refusal(self, event: GroupRequested) -> GroupReply | None:
        """The reply if no group is created; None if one is to be."""
        plan = event.plan
        parent = self._directory.dead_parent(plan)
        if parent is not None:
            message = f"its parent {parent} is dead; a group ends with its parent, so it is not created"
            return GroupReply(group_id=plan.group_id, error="parent dead", message=message)
        holder = self._groups.find(plan.namespace, plan.name) if plan.name is not None else None
        if holder is not None:
            return group_name_taken(event, holder.plan)
        reason = self._infeasible(plan)
        if reason is not None:
            message = f"placement group {plan.name or plan.group_id}: {reason}"
            return GroupReply(group_id=plan.group_id, error="infeasible", message=message)
        return None

    def _infeasible(self, plan: PlacementGroupSpec) -> str | None:
        return self._reservations.group_infeasible(plan) if self._nodes.all_have_reported else None

    def remove(self, group: GroupEntry, cause: str, decision: Decision) -> None:
        """Remove a group whose actors have ended: stop its slots, and release its resources."""
        for queue in self._slots.end_queues_of(group.id, cause, decision):
            self._cleanup.add(queue)
        self._pending.discard(group.pending_key)
        self._reservations.release_group(group)
        self._groups.remove(group)

    def leave_node(self, node_id: str) -> None:
        """Move bundles away from a node that is lost or leaving. Their actors follow."""
        for group in self._groups.on_node(node_id):
            self._reservations.release_group(group, node_id)
            if group.pending_key not in self._pending:
                self._add_pending(group)

    def waits_for(self, group: GroupEntry) -> str:
        """The thing that is missing before the group is placed, for people; empty if it is placed."""
        return self._reservations.group_waits_for(group)

    def _add_pending(self, group: GroupEntry) -> None:
        self._pending.add(group.pending_key, PendingPlacement(group, group.id, group.number))
