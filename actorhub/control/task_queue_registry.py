"""The task queues that have slots of their own, since their tasks ask for a place, and these slots. Pure.

All tasks of such a queue ask for the same: its name ends with a digest of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.placement import PlacementRequest
from actorhub.control_api.requirements import Bundle, Requirements


@dataclass(eq=False)
class SlotEntry:
    """One that takes from `queue`. `node`: where it is; None while it waits for a place. `since`: when it was placed, by
    control's clock. `is_seen`: its node has named it since this process runs control; `is_ready`: it takes tasks;
    `is_leaving`: it was told to end."""

    id: str
    queue: TaskQueueEntry
    node: str | None = None
    since: float = 0.0
    is_seen: bool = False
    is_ready: bool = False
    is_leaving: bool = False

    @property
    def ask(self) -> PlacementRequest:
        return self.queue.ask

    @property
    def bundle(self) -> Bundle | None:
        return self.queue.needs.bundle

    @property
    def label(self) -> str:
        """For people."""
        return self.queue.label


@dataclass(eq=False)
class TaskQueueEntry:
    """`priority`: the highest that any of its tasks has had. `starts`: how many slots it has had. `slots`: those that are
    placed; `wanted`: those that wait for a place. `waiting`: messages that no slot has taken, when somebody looked last.
    `cause`: why nobody can serve it any more; then it is buried by `cleaner`."""

    name: str
    namespace: str
    needs: Requirements
    priority: int = 0
    starts: int = 0
    cause: str | None = None
    cleaner: str | None = None
    slots: dict[str, SlotEntry] = field(default_factory=dict)
    wanted: dict[str, SlotEntry] = field(default_factory=dict)
    waiting: int = 0

    def __post_init__(self) -> None:
        self.ask = PlacementRequest.of_slot(self.needs)

    @property
    def id(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """For people."""
        return f"a slot for the tasks of {self.name}"

    def make_slot(self) -> SlotEntry:
        self.starts += 1
        return SlotEntry(f"{hashlib.sha256(self.name.encode()).hexdigest()[:8]}-{self.starts}", self)

    @property
    def coming(self) -> int:
        """Slots that take no tasks yet."""
        return len(self.wanted) + sum(not slot.is_ready for slot in self.slots.values())


class TaskQueueRegistry:
    """`touched`: the names of those that have changed since somebody took that down."""

    def __init__(self) -> None:
        self.touched: dict[str, None] = {}
        self._queues: dict[str, TaskQueueEntry] = {}
        self._slots: dict[str, SlotEntry] = {}  # those that are placed
        self._on: dict[str, dict[str, SlotEntry]] = {}
        self._in: dict[str, dict[str, TaskQueueEntry]] = {}  # by placement group

    def get(self, name: str) -> TaskQueueEntry | None:
        return self._queues.get(name)

    def all(self) -> Iterable[TaskQueueEntry]:
        """In the order of their first use."""
        return self._queues.values()

    def slot(self, slot_id: str) -> SlotEntry | None:
        return self._slots.get(slot_id)

    @property
    def nodes(self) -> Iterable[str]:
        """Those that have any."""
        return self._on.keys()

    def on(self, node: str) -> list[SlotEntry]:
        return list(self._on.get(node, {}).values())

    def of_group(self, group: str) -> list[TaskQueueEntry]:
        """Those whose tasks run in a bundle of it."""
        return list(self._in.get(group, {}).values())

    def touch(self, queue: TaskQueueEntry) -> None:
        self.touched[queue.name] = None

    def add(self, queue: TaskQueueEntry) -> None:
        self.touch(queue)
        self._queues[queue.name] = queue
        if queue.needs.bundle is not None:
            self._in.setdefault(queue.needs.bundle.group, {})[queue.name] = queue
        for slot in queue.slots.values():
            self._note(slot)

    def remove(self, queue: TaskQueueEntry) -> None:
        self.touch(queue)
        del self._queues[queue.name]
        if queue.needs.bundle is not None:
            inside = self._in[queue.needs.bundle.group]
            del inside[queue.name]
            if not inside:
                del self._in[queue.needs.bundle.group]

    def settle(self, slot: SlotEntry, node: str, now: float) -> None:
        """It has a place."""
        slot.node, slot.since = node, now
        slot.queue.wanted.pop(slot.id, None)
        slot.queue.slots[slot.id] = slot
        self.touch(slot.queue)
        self._note(slot)

    def end(self, slot: SlotEntry) -> None:
        """It is gone from its place."""
        assert slot.node is not None
        self.touch(slot.queue)
        del slot.queue.slots[slot.id], self._slots[slot.id]
        there = self._on[slot.node]
        del there[slot.id]
        if not there:
            del self._on[slot.node]

    def _note(self, slot: SlotEntry) -> None:
        assert slot.node is not None
        self._slots[slot.id] = slot
        self._on.setdefault(slot.node, {})[slot.id] = slot
