"""Tables of everything that control knows and that outlives its process. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.directory import ActorDirectory, ActorEntry
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.task_queue_registry import SlotEntry, TaskQueueRegistry

PendingItem = ActorEntry | GroupEntry | SlotEntry
"""An actor, a placement group or a slot that waits for resources."""


class ClusterTable:
    """Facts about the whole cluster: shared task queues, and namespaces that have a dead-letter stream."""

    def __init__(self) -> None:
        self.is_changed = False
        """True if anything was added since the table was last persisted."""
        self._queues: dict[str, None] = {}
        self._namespaces: dict[str, None] = {}

    @property
    def queues(self) -> list[str]:
        """Task queues that every slot serves, in the order of their first use."""
        return list(self._queues)

    @property
    def namespaces(self) -> list[str]:
        """Namespaces whose dead-letter stream has been declared, in the order of their first use."""
        return list(self._namespaces)

    def add_queues(self, queues: Iterable[str]) -> list[str]:
        """Add task queues. Returns those that are new."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(dict.fromkeys(new))
            self.is_changed = True
        return new

    def add_namespace(self, namespace: str) -> bool:
        """Add a namespace. Returns True if it is new."""
        if namespace in self._namespaces:
            return False
        self._namespaces[namespace] = None
        self.is_changed = True
        return True

    def restore(self, queues: Iterable[str], namespaces: Iterable[str]) -> None:
        """Replace the content by what was persisted."""
        self._queues = dict.fromkeys(queues)
        self._namespaces = dict.fromkeys(namespaces)
        self.is_changed = False


@dataclass(frozen=True)
class ControlTables:
    """Tables of control: actors, nodes, placement groups and task queues."""

    directory: ActorDirectory = field(default_factory=ActorDirectory)
    nodes: NodeRegistry = field(default_factory=NodeRegistry)
    groups: GroupRegistry = field(default_factory=GroupRegistry)
    task_queues: TaskQueueRegistry = field(default_factory=TaskQueueRegistry)
    cluster: ClusterTable = field(default_factory=ClusterTable)
