"""Where slots are placed that serve one task queue alone, and when they make way for others. Pure.

A queue whose tasks ask for a place gets slots while messages wait in it: one at first, then as many again as it has, as far as
there is room. A slot that has had nothing to do for a while ends by itself. Where others wait for what a slot has, it makes way
after its turn, between two tasks; at once for a queue of a higher priority, and never for one of a lower.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Set

from actorhub.control import placement, strategies
from actorhub.control.directory import ActorEntry
from actorhub.control.group_registry import GroupEntry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.pending import PendingPlacement, PendingPlacements
from actorhub.control.reservations import Reservations
from actorhub.control.strategies import NodeCapacity
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueEntry, TaskQueueRegistry
from actorhub.control_api.commands import Command, DeleteTaskQueue, MakeQueue, StartSlot, StopSlot
from actorhub.control_api.events import TaskQueueUsed
from actorhub.control_api.info import DedicatedQueueInfo
from actorhub.core.resources import fits, plus

TURN = 2.0  # seconds for which a slot keeps what others of its priority wait for
UNSEEN = 10.0  # seconds after which a slot that its node has never named is not there
AT_ONCE = 100  # slots of one queue that wait for places at the same time
LOOKS = 20  # of those that wait, how many are looked at each time whether slots shall make way for them


class SlotScheduler:
    """`count` gives the next place in the order of all that wait, and `say` takes each command that follows. Times are
    control's clock."""

    def __init__(
        self,
        queues: TaskQueueRegistry,
        nodes: NodeRegistry,
        reservations: Reservations,
        pending: PendingPlacements[ActorEntry | GroupEntry | SlotEntry],
        count: Callable[[], int],
        say: Callable[[Command], None],
    ) -> None:
        self._queues = queues
        self._nodes = nodes
        self._reservations = reservations
        self._pending = pending
        self._count = count
        self._say = say
        self._looked = 0

    def restore(self, now: float) -> None:
        for queue in self._queues.all():
            for slot in queue.slots.values():
                slot.since = now
                self._take(slot)

    # ---- queues

    def use(self, event: TaskQueueUsed) -> str | None:
        """Somebody sends tasks to it. Returns why nobody can ever serve them, if that is so; else there is such a queue."""
        assert event.needs is not None
        known = self._queues.get(event.queue)
        if known is not None and known.cause is not None:
            return known.cause
        if known is None:
            known = TaskQueueEntry(event.queue, event.namespace, event.needs, event.priority)
            reason = self._infeasible(known)
            if reason is not None:
                return reason
            self._queues.add(known)
        elif event.priority > known.priority:
            known.priority = event.priority
            self._queues.touch(known)
            self._want_no_more(known)  # until somebody looks again: then with this priority
        self._say(MakeQueue(queue=event.queue))
        return None

    def _infeasible(self, queue: TaskQueueEntry) -> str | None:
        bundle = queue.needs.bundle
        if bundle is not None:
            return self._reservations.misfit(bundle, f"a task of {queue.name}", queue.ask.units)
        if not self._nodes.is_heard:
            return None
        return placement.infeasible(self._nodes.by_id.values(), f"a task of {queue.name}", queue.ask)

    def served(self, queue: TaskQueueEntry) -> DedicatedQueueInfo:
        """For people."""
        waits = ""
        if not queue.slots:
            waits = self.waits_for(queue)
        slots = {slot.id: slot.node or "" for slot in queue.slots.values()}
        return DedicatedQueueInfo(
            name=queue.name, namespace=queue.namespace, needs=queue.needs, slots=slots, waits_for=waits
        )

    def waits_for(self, queue: TaskQueueEntry) -> str:
        """What there is not that one more slot of it needs."""
        if queue.needs.bundle is not None:
            return self._reservations.waits_for(queue.needs.bundle, queue.ask)
        return placement.waits_for(self._nodes.by_id.values(), f"a task of {queue.name}", queue.ask)

    # ---- demand

    def wants(self, waiting: Mapping[str, int]) -> bool:
        """Whether anything follows from so many messages that no slot has taken."""
        return any(
            (count == 0 and queue.wanted) or self._missing(queue, count) for queue, count in self._known(waiting)
        )

    def demand(self, waiting: Mapping[str, int]) -> None:
        """So many messages wait in these queues, and no slot has taken them."""
        for queue, count in self._known(waiting):
            queue.waiting = count
            if not count:
                self._want_no_more(queue)
            for _ in range(self._missing(queue, count)):
                slot = queue.make_slot()
                queue.wanted[slot.id] = slot
                self._queues.touch(queue)
                number = self._count()
                request: PendingPlacement[ActorEntry | GroupEntry | SlotEntry] = PendingPlacement(
                    slot, (slot.ask.shape, slot.bundle, queue.priority), number, queue.priority
                )
                self._pending.add(key_of(slot), request)

    def _known(self, waiting: Mapping[str, int]) -> list[tuple[TaskQueueEntry, int]]:
        found = [(self._queues.get(name), count) for name, count in waiting.items()]
        return [(queue, count) for queue, count in found if queue is not None and queue.cause is None]

    def _missing(self, queue: TaskQueueEntry, count: int) -> int:
        """As many again at each look, until there are as many as messages: short tasks are through before."""
        more = min(count - queue.coming, max(1, len(queue.slots)))
        return max(0, min(more, AT_ONCE - len(queue.wanted)))

    def _want_no_more(self, queue: TaskQueueEntry) -> None:
        for slot in queue.wanted.values():
            self._pending.discard(key_of(slot))
        queue.wanted.clear()

    # ---- places

    def place(self, slot: SlotEntry, kept: Set[Hashable], now: float) -> bool:
        node = self._reservations.choose(slot, kept)
        if node is None:
            return False
        self._queues.settle(slot, node.id, now)
        self._take(slot)
        gpu = slot.queue.needs.wanted.get("gpu", 0.0)
        self._say(StartSlot(node=node.id, slot=slot.id, queue=slot.queue.name, gpu=gpu))
        return True

    def ended(self, slot_id: str) -> None:
        """It is not there any more. What it had is free."""
        slot = self._queues.slot(slot_id)
        if slot is not None:
            self._take(slot, -1)
            self._queues.end(slot)

    def gone(self, node: str) -> None:
        """With its node."""
        for slot in self._queues.on(node):
            self.ended(slot.id)

    def reported(self, node: str, placed: Iterable[str], ready: Mapping[str, int], now: float) -> None:
        """A node says which slots that control has placed are there, and which of them are ready."""
        there = set(placed)
        for slot in self._queues.on(node):
            if slot.id in there:
                slot.is_seen, slot.is_ready = True, slot.id in ready
            elif slot.is_seen or now - slot.since > UNSEEN:
                self.ended(slot.id)
        for slot_id in there:
            if self._queues.slot(slot_id) is None:  # it was taken for gone
                self._say(StopSlot(node=node, slot=slot_id))

    def _take(self, slot: SlotEntry, sign: int = 1) -> None:
        assert slot.node is not None
        self._reservations.take(slot, slot.node, None, sign)

    # ---- making way

    def preempt_for_waiting(self, now: float) -> None:
        """Some of them shall end, where others have waited for what they have."""
        if not self._queues.nodes:
            return
        for item in self._some_that_wait():
            if isinstance(item, GroupEntry):
                self._make_way_for_group(item, now)
            elif item.bundle is not None:
                inside = [slot for slot in self._placed_in(item) if slot.bundle == item.bundle]
                self._preempt(inside, item.ask.units, self._free_in(item), item, now)
            else:
                self._make_way_on_a_node(item, now)

    def _some_that_wait(self) -> list[ActorEntry | GroupEntry | SlotEntry]:
        """In turn, so that none is out of sight behind those for whom nobody can make way."""
        heads = self._pending.heads()
        first = self._looked % max(1, len(heads))
        self._looked = first + LOOKS
        return [*heads[first:], *heads[:first]][:LOOKS]

    def _make_way_on_a_node(self, item: ActorEntry | SlotEntry, now: float) -> None:
        for node in self._nodes.candidates(item.ask):
            if not item.ask.may_run(node) or not item.ask.has_worker(node):
                continue
            there = self._queues.on(node.id)
            if there and self._preempt(_outside(there), item.ask.units, node.free, item, now):
                return

    def _make_way_for_group(self, group: GroupEntry, now: float) -> None:
        """As if those that may have left already: where would it be?"""
        sites = [self._without_slots(site, group, now) for site in self._nodes.sites]
        chosen = strategies.assign(group.bundles, group.plan.strategy, sites, group.nodes)
        for node_id in dict.fromkeys(chosen or ()):
            asked = plus(
                *(
                    bundle
                    for bundle, node, had in zip(group.bundles, chosen or (), group.nodes, strict=True)
                    if node == node_id and had is None
                )
            )
            there = _outside(self._queues.on(node_id))
            self._preempt(there, asked, self._nodes.by_id[node_id].free, group, now)

    def _without_slots(self, site: NodeCapacity, group: GroupEntry, now: float) -> NodeCapacity:
        """As it would be without those that may make way."""
        there = [
            slot
            for slot in _outside(self._queues.on(site.id))
            if slot.is_leaving or self._may_preempt(slot, group, now)
        ]
        return NodeCapacity(site.id, plus(site.free, *(slot.ask.units for slot in there)), site.load) if there else site

    def _preempt(
        self,
        there: Iterable[SlotEntry],
        asked: Mapping[str, int],
        free: Mapping[str, int],
        item: ActorEntry | GroupEntry | SlotEntry,
        now: float,
    ) -> bool:
        """As many of these as it takes, the oldest first; none where it would not do. What those have that leave already will
        be free. Returns whether there will be room."""
        there = list(there)
        room = plus(free, *(slot.ask.units for slot in there if slot.is_leaving))
        chosen = []
        for slot in sorted(there, key=lambda slot: slot.since):
            if fits(asked, room):
                break
            if self._may_preempt(slot, item, now) and any(name in asked for name in slot.ask.units):
                chosen.append(slot)
                room = plus(room, slot.ask.units)
        if not fits(asked, room):
            return False
        for slot in chosen:
            slot.is_leaving = True
            assert slot.node is not None
            self._say(StopSlot(node=slot.node, slot=slot.id))
            self._want_no_more(slot.queue)  # until somebody looks again: then they come behind this one
        if chosen:
            self._pending.prioritise(key_of(item))
        return True

    def _may_preempt(self, slot: SlotEntry, item: ActorEntry | GroupEntry | SlotEntry, now: float) -> bool:
        if slot.is_leaving or (isinstance(item, SlotEntry) and item.queue is slot.queue):
            return False
        priority = item.queue.priority if isinstance(item, SlotEntry) else slot.queue.priority
        if priority == slot.queue.priority:
            return now - slot.since >= TURN
        return priority > slot.queue.priority

    def _placed_in(self, item: ActorEntry | SlotEntry) -> list[SlotEntry]:
        assert item.bundle is not None
        return [slot for queue in self._queues.of_group(item.bundle.group) for slot in queue.slots.values()]

    def _free_in(self, item: ActorEntry | SlotEntry) -> Mapping[str, int]:
        assert item.bundle is not None
        return self._reservations.free_in(item.bundle)

    # ---- the end of a queue

    def end_group(self, group: str, cause: str) -> list[TaskQueueEntry]:
        """Its slots end now. Returns the queues, which nobody can serve any more."""
        ended = [queue for queue in self._queues.of_group(group) if queue.cause is None]
        for queue in ended:
            queue.cause = cause
            self._queues.touch(queue)
            self._want_no_more(queue)
            for slot in list(queue.slots.values()):
                assert slot.node is not None
                self._say(StopSlot(node=slot.node, slot=slot.id, now=True))
                self.ended(slot.id)
        return ended

    def bury(self, queue: TaskQueueEntry) -> None:
        assert queue.cleaner is not None
        self._say(DeleteTaskQueue(worker=queue.cleaner, queue=queue.name, cause=queue.cause or ""))


def _outside(slots: Iterable[SlotEntry]) -> list[SlotEntry]:
    """Those that have something of the node, and not of a bundle."""
    return [slot for slot in slots if slot.bundle is None]


def key_of(item: ActorEntry | GroupEntry | SlotEntry) -> str:
    """Among those that wait for a place."""
    if isinstance(item, ActorEntry):
        return item.id
    return f"group:{item.id}" if isinstance(item, GroupEntry) else f"slot:{item.id}"
