"""Registry of task queues with dedicated slots, and of these slots. Pure.

A queue gets dedicated slots if its tasks ask for resources, labels, a node or a bundle. All its tasks ask for the same: the
queue's name ends with a digest of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.placement import PlacementRequest
from actorhub.control_api.requirements import Bundle, Requirements


@dataclass(eq=False)
class SlotEntry:
    """One slot that takes tasks of one queue alone."""

    id: str
    queue: TaskQueueEntry
    node: str | None = None
    """The node that runs it; None while it waits for resources."""
    placed_at: float = 0.0
    """When it was placed, by control's clock; after a failover, when the successor began."""
    is_seen: bool = False
    """True once its node has reported it to this process."""
    is_ready: bool = False
    """True while it takes tasks."""
    is_leaving: bool = False
    """True once it was told to end."""

    @property
    def request(self) -> PlacementRequest:
        return self.queue.request

    @property
    def bundle(self) -> Bundle | None:
        return self.queue.needs.bundle

    @property
    def pending_key(self) -> str:
        """Key among pending placements."""
        return f"slot:{self.id}"


@dataclass(eq=False)
class TaskQueueEntry:
    """One task queue with dedicated slots."""

    name: str
    namespace: str
    needs: Requirements
    priority: int = 0
    """The highest priority that any of its tasks has had."""
    starts: int = 0
    """Slots created for it so far."""
    end_cause: str | None = None
    """The reason why no slot can serve it any more; then it is to be deleted."""
    cleaner: str | None = None
    """The worker that deletes it."""
    slots: dict[str, SlotEntry] = field(default_factory=dict)
    """Placed slots, by id."""
    pending_slots: dict[str, SlotEntry] = field(default_factory=dict)
    """Slots that wait for resources, by id."""

    def __post_init__(self) -> None:
        self.request = PlacementRequest.for_slot(self.needs)

    @property
    def id(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """A task of the queue, for messages to people."""
        return f"a task of {self.name}"

    def new_slot(self) -> SlotEntry:
        self.starts += 1
        return SlotEntry(f"{hashlib.sha256(self.name.encode()).hexdigest()[:8]}-{self.starts}", self)

    @property
    def starting(self) -> int:
        """Number of slots that wait for resources, or do not take tasks yet."""
        return len(self.pending_slots) + sum(not slot.is_ready for slot in self.slots.values())


class TaskQueueRegistry:
    """Index of task queues with dedicated slots: queues by name and placement group, placed slots by id and node."""

    def __init__(self) -> None:
        self.changed: dict[str, None] = {}
        """Names of queues that have changed since they were last persisted, in order."""
        self._queues: dict[str, TaskQueueEntry] = {}
        self._by_group: dict[str, dict[str, TaskQueueEntry]] = {}
        self._slots: dict[str, SlotEntry] = {}
        self._by_node: dict[str, dict[str, SlotEntry]] = {}

    def get(self, name: str) -> TaskQueueEntry | None:
        return self._queues.get(name)

    def all(self) -> Iterable[TaskQueueEntry]:
        """All queues, ended ones included, in the order of their first use."""
        return self._queues.values()

    def of_group(self, group: str) -> list[TaskQueueEntry]:
        """Queues whose tasks run in a bundle of the group."""
        return list(self._by_group.get(group, {}).values())

    def slot(self, slot_id: str) -> SlotEntry | None:
        """A placed slot."""
        return self._slots.get(slot_id)

    @property
    def has_slots(self) -> bool:
        """True if any slot is placed."""
        return bool(self._by_node)

    def slots_on(self, node: str) -> list[SlotEntry]:
        """Slots that are placed on the node."""
        return list(self._by_node.get(node, {}).values())

    def mark_changed(self, queue: TaskQueueEntry) -> None:
        self.changed[queue.name] = None

    def add(self, queue: TaskQueueEntry) -> None:
        self.mark_changed(queue)
        self._queues[queue.name] = queue
        if queue.needs.bundle is not None:
            self._by_group.setdefault(queue.needs.bundle.group, {})[queue.name] = queue
        for slot in queue.slots.values():
            self._index_slot(slot)

    def remove(self, queue: TaskQueueEntry) -> None:
        self.mark_changed(queue)
        del self._queues[queue.name]
        if queue.needs.bundle is not None:
            of_group = self._by_group[queue.needs.bundle.group]
            del of_group[queue.name]
            if not of_group:
                del self._by_group[queue.needs.bundle.group]

    def add_slot(self, slot: SlotEntry, node: str, now: float) -> None:
        """Move a pending slot to the node on which it is placed."""
        slot.node, slot.placed_at = node, now
        slot.queue.pending_slots.pop(slot.id, None)
        slot.queue.slots[slot.id] = slot
        self.mark_changed(slot.queue)
        self._index_slot(slot)

    def remove_slot(self, slot: SlotEntry) -> None:
        """Remove a placed slot."""
        assert slot.node is not None
        self.mark_changed(slot.queue)
        del slot.queue.slots[slot.id], self._slots[slot.id]
        on_node = self._by_node[slot.node]
        del on_node[slot.id]
        if not on_node:
            del self._by_node[slot.node]

    def _index_slot(self, slot: SlotEntry) -> None:
        assert slot.node is not None
        self._slots[slot.id] = slot
        self._by_node.setdefault(slot.node, {})[slot.id] = slot
