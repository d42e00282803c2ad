"""Scheduling of dedicated slots: how many a task queue gets, where they run, and when they are preempted. Pure.

A queue whose tasks ask for a place gets slots while messages wait in it: one at first, then as many again as it has, as far as
there is room. A slot that has been idle for a while ends by itself. A slot is preempted between two tasks if others wait for
what it holds: after its turn by those of its own priority, at once by a queue of a higher one, and never by a lower one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Set

from actorhub.control import group_placement, placement
from actorhub.control.decision import Decision
from actorhub.control.directory import ActorEntry
from actorhub.control.group_placement import NodeCapacity
from actorhub.control.group_registry import GroupEntry
from actorhub.control.pending import PendingPlacement, PendingPlacements
from actorhub.control.reservations import Reservations
from actorhub.control.tables import ControlTables, PendingItem
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueEntry
from actorhub.control_api.commands import MakeQueue, StartSlot, StopSlot
from actorhub.control_api.events import TaskQueueUsed
from actorhub.control_api.info import DedicatedQueueInfo
from actorhub.core.resources import fits, plus

TURN_SECONDS = 2.0
"""Time for which a slot keeps what others of its priority wait for."""
UNSEEN_SLOT_TIMEOUT_SECONDS = 10.0
"""Time after which a slot that its node has never reported is taken for lost."""
MAX_PENDING_SLOTS = 100
"""Slots of one queue that wait for resources at the same time."""
PREEMPTION_CHECKS_PER_TICK = 20
"""Pending items for which a tick looks for slots to preempt."""


class SlotScheduler:
    """Places slots for queues with waiting tasks, and stops slots for others that wait.

    Args:
        tables: everything that control knows.
        reservations: resources of nodes and bundles.
        pending: all placements that wait for resources.
    """

    def __init__(
        self, tables: ControlTables, reservations: Reservations, pending: PendingPlacements[PendingItem]
    ) -> None:
        self._queues = tables.task_queues
        self._nodes = tables.nodes
        self._directory = tables.directory
        self._reservations = reservations
        self._pending = pending
        self._next_check = 0

    def restore(self, now: float) -> None:
        """Reserve again what persisted slots hold."""
        for queue in self._queues.all():
            for slot in queue.slots.values():
                slot.placed_at = now
                self._reserve(slot)

    # ---- queues

    def use_queue(self, event: TaskQueueUsed, decision: Decision) -> str | None:
        """Add a queue that a client sends tasks to, or raise its priority. Returns the reason if no slot can ever serve it."""
        assert event.needs is not None
        queue = self._queues.get(event.queue)
        if queue is not None and queue.end_cause is not None:
            return queue.end_cause
        if queue is None:
            queue = TaskQueueEntry(event.queue, event.namespace, event.needs, event.priority)
            reason = self._infeasible(queue)
            if reason is not None:
                return reason
            self._queues.add(queue)
        elif event.priority > queue.priority:
            queue.priority = event.priority
            self._queues.mark_changed(queue)
            self._cancel_pending(queue)  # the next report of depths adds them with this priority
        decision.emit(MakeQueue(queue=event.queue))
        return None

    def _infeasible(self, queue: TaskQueueEntry) -> str | None:
        bundle = queue.needs.bundle
        if bundle is not None:
            return self._reservations.misfit(bundle, queue.label, queue.request.units)
        if not self._nodes.all_have_reported:
            return None
        return placement.infeasible(self._nodes.by_id.values(), queue.label, queue.request)

    def end_queues_of(self, group: str, cause: str, decision: Decision) -> list[TaskQueueEntry]:
        """Stop all slots in a group's bundles at once. Returns their queues, which no slot can serve any more."""
        ended = [queue for queue in self._queues.of_group(group) if queue.end_cause is None]
        for queue in ended:
            queue.end_cause = cause
            self._queues.mark_changed(queue)
            self._cancel_pending(queue)
            for slot in list(queue.slots.values()):
                assert slot.node is not None
                decision.emit(StopSlot(node=slot.node, slot=slot.id, now=True))
                self.on_slot_ended(slot.id)
        return ended

    def info(self, queue: TaskQueueEntry) -> DedicatedQueueInfo:
        """The queue as people see it."""
        return DedicatedQueueInfo(
            name=queue.name,
            namespace=queue.namespace,
            needs=queue.needs,
            slots={slot.id: slot.node or "" for slot in queue.slots.values()},
            waits_for="" if queue.slots else self._waits_for(queue),
        )

    def _waits_for(self, queue: TaskQueueEntry) -> str:
        if queue.needs.bundle is not None:
            return self._reservations.waits_for(queue.needs.bundle, queue.request)
        return placement.waits_for(self._nodes.by_id.values(), queue.label, queue.request)

    # ---- number of slots

    def would_act_on(self, depths: Mapping[str, int]) -> bool:
        """True if `on_depths` would change anything."""
        return any(
            (count == 0 and queue.pending_slots) or self._missing(queue, count)
            for queue, count in self._live_queues(depths)
        )

    def on_depths(self, depths: Mapping[str, int]) -> None:
        """Request slots for queues with waiting tasks, and cancel those of empty queues.

        Args:
            depths: number of messages that no slot has taken, by queue.
        """
        for queue, count in self._live_queues(depths):
            if not count:
                self._cancel_pending(queue)
            for _ in range(self._missing(queue, count)):
                slot = queue.new_slot()
                queue.pending_slots[slot.id] = slot
                self._queues.mark_changed(queue)
                shape = (slot.request.shape, slot.bundle, queue.priority)
                number = self._directory.next_number()
                self._pending.add(slot.pending_key, PendingPlacement(slot, shape, number, queue.priority))

    def _live_queues(self, depths: Mapping[str, int]) -> list[tuple[TaskQueueEntry, int]]:
        found = [(self._queues.get(name), count) for name, count in depths.items()]
        return [(queue, count) for queue, count in found if queue is not None and queue.end_cause is None]

    def _missing(self, queue: TaskQueueEntry, count: int) -> int:
        """Slots to request now: at most as many as the queue has, so that short tasks are done before there are many."""
        more = min(count - queue.starting, max(1, len(queue.slots)))
        return max(0, min(more, MAX_PENDING_SLOTS - len(queue.pending_slots)))

    def _cancel_pending(self, queue: TaskQueueEntry) -> None:
        for slot in queue.pending_slots.values():
            self._pending.discard(slot.pending_key)
        queue.pending_slots.clear()

    # ---- placement

    def place(self, slot: SlotEntry, held: Set[Hashable], decision: Decision) -> bool:
        """Start a pending slot on a node. Returns False if there is no room where nothing is held for others."""
        node = self._reservations.choose(slot, held)
        if node is None:
            return False
        self._queues.add_slot(slot, node.id, decision.now)
        self._reserve(slot)
        gpu = slot.queue.needs.wanted.get("gpu", 0.0)
        decision.emit(StartSlot(node=node.id, slot=slot.id, queue=slot.queue.name, gpu=gpu))
        return True

    def on_slot_ended(self, slot_id: str) -> None:
        """Release what an ended slot held."""
        slot = self._queues.slot(slot_id)
        if slot is not None:
            assert slot.node is not None
            self._reservations.release(slot, slot.node, None)
            self._queues.remove_slot(slot)

    def on_node_gone(self, node: str) -> None:
        """Release what the slots of a lost node held."""
        for slot in self._queues.slots_on(node):
            self.on_slot_ended(slot.id)

    def on_node_report(self, node: str, placed: Iterable[str], ready: Mapping[str, int], decision: Decision) -> None:
        """Compare the slots that control has placed on a node with those that the node reports.

        Args:
            node: the node's id.
            placed: ids of the slots that run there at control's order.
            ready: ids of the slots that take tasks.
            decision: takes orders to stop slots that control has given up.
        """
        reported = set(placed)
        for slot in self._queues.slots_on(node):
            if slot.id in reported:
                slot.is_seen, slot.is_ready = True, slot.id in ready
            elif slot.is_seen or decision.now - slot.placed_at > UNSEEN_SLOT_TIMEOUT_SECONDS:
                self.on_slot_ended(slot.id)
        for slot_id in reported:
            if self._queues.slot(slot_id) is None:
                decision.emit(StopSlot(node=node, slot=slot_id))

    def _reserve(self, slot: SlotEntry) -> None:
        assert slot.node is not None
        self._reservations.reserve(slot, slot.node, None)

    # ---- preemption

    def preempt_for_waiting(self, decision: Decision) -> None:
        """Stop slots that hold what pending items have waited for."""
        if not self._queues.has_slots:
            return
        for item in self._next_to_check():
            if isinstance(item, GroupEntry):
                self._preempt_for_group(item, decision)
            elif item.bundle is not None:
                queues = self._queues.of_group(item.bundle.group)
                slots = [slot for queue in queues for slot in queue.slots.values() if slot.bundle == item.bundle]
                self._preempt(slots, item.request.units, self._reservations.free_in(item.bundle), item, decision)
            else:
                self._preempt_on_any_node(item, decision)

    def _next_to_check(self) -> list[PendingItem]:
        """The next pending items in turn, so that none is left out behind those that no preemption helps."""
        heads = self._pending.first_of_each_shape()
        first = self._next_check % max(1, len(heads))
        self._next_check = first + PREEMPTION_CHECKS_PER_TICK
        return [*heads[first:], *heads[:first]][:PREEMPTION_CHECKS_PER_TICK]

    def _preempt_on_any_node(self, item: ActorEntry | SlotEntry, decision: Decision) -> None:
        for node in self._nodes.candidates(item.request):
            if not item.request.may_run(node) or not item.request.has_worker(node):
                continue
            slots = self._queues.slots_on(node.id)
            if slots and self._preempt(_outside_bundles(slots), item.request.units, node.free, item, decision):
                return

    def _preempt_for_group(self, group: GroupEntry, decision: Decision) -> None:
        """Preempt where the group would be placed if all slots that it may preempt were gone."""
        capacities = [self._capacity_after(node, group, decision.now) for node in self._nodes.capacities]
        chosen = group_placement.assign_bundles(group.bundles, group.plan.strategy, capacities, group.nodes)
        if chosen is None:
            return
        for node_id in dict.fromkeys(chosen):
            bundles = [
                bundle
                for bundle, node, had in zip(group.bundles, chosen, group.nodes, strict=True)
                if node == node_id and had is None
            ]
            slots = _outside_bundles(self._queues.slots_on(node_id))
            self._preempt(slots, plus(*bundles), self._nodes.by_id[node_id].free, group, decision)

    def _capacity_after(self, node: NodeCapacity, group: GroupEntry, now: float) -> NodeCapacity:
        """The capacity of a node without the slots that leave, or that the group may preempt."""
        slots = [
            slot
            for slot in _outside_bundles(self._queues.slots_on(node.id))
            if slot.is_leaving or _may_preempt(group, now, slot)
        ]
        if not slots:
            return node
        return NodeCapacity(node.id, plus(node.free, *(slot.request.units for slot in slots)), node.load)

    def _preempt(
        self,
        slots: Iterable[SlotEntry],
        wanted: Mapping[str, int],
        free: Mapping[str, int],
        item: PendingItem,
        decision: Decision,
    ) -> bool:
        """Stop as many slots as an item needs to be placed, or none. Returns True if there will be room for it.

        Args:
            slots: the slots of one node or bundle.
            wanted: units that the item asks for there.
            free: units that are free there.
            item: the pending item.
            decision: takes the orders.
        """
        victims = _choose_victims(slots, wanted, free, functools.partial(_may_preempt, item, decision.now))
        if victims:
            self._stop(victims, decision)
            self._pending.prioritise(item.pending_key)
        return victims is not None

    def _stop(self, victims: Iterable[SlotEntry], decision: Decision) -> None:
        """Order slots to end between two tasks. Their queues' pending slots are cancelled, and will come behind the item for
        which they are stopped."""
        for slot in victims:
            slot.is_leaving = True
            assert slot.node is not None
            decision.emit(StopSlot(node=slot.node, slot=slot.id))
            self._cancel_pending(slot.queue)


def _choose_victims(
    slots: Iterable[SlotEntry],
    wanted: Mapping[str, int],
    free: Mapping[str, int],
    may_preempt: Callable[[SlotEntry], bool],
) -> list[SlotEntry] | None:
    """The slots to stop, oldest first, until `wanted` is free; None if stopping all of them would not do.

    Args:
        slots: the slots of one node or bundle. The units of those that are leaving already count as free.
        wanted: units of resources.
        free: units that are free now.
        may_preempt: True for a slot that may be stopped.
    """
    slots = list(slots)
    room = plus(free, *(slot.request.units for slot in slots if slot.is_leaving))
    victims = []
    for slot in sorted(slots, key=lambda slot: slot.placed_at):
        if fits(wanted, room):
            break
        if may_preempt(slot) and any(name in wanted for name in slot.request.units):
            victims.append(slot)
            room = plus(room, slot.request.units)
    return victims if fits(wanted, room) else None


def _may_preempt(item: PendingItem, now: float, slot: SlotEntry) -> bool:
    """True if a slot may be stopped for an item: at once for a higher priority, after its turn for the same."""
    if slot.is_leaving or (isinstance(item, SlotEntry) and item.queue is slot.queue):
        return False
    priority = item.queue.priority if isinstance(item, SlotEntry) else slot.queue.priority
    if priority == slot.queue.priority:
        return now - slot.placed_at >= TURN_SECONDS
    return priority > slot.queue.priority


def _outside_bundles(slots: Iterable[SlotEntry]) -> list[SlotEntry]:
    """The slots that hold resources of their node, and not of a bundle."""
    return [slot for slot in slots if slot.bundle is None]
