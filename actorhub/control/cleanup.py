"""Deletion of dead actors' mailboxes, and of task queues that no slot can serve any more, each by one worker. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from actorhub.control.decision import Decision
from actorhub.control.directory import ActorEntry
from actorhub.control.tables import ControlTables
from actorhub.control.task_queue_registry import TaskQueueEntry
from actorhub.control_api.commands import DeleteMailbox, DeleteTaskQueue


class Deletable(Protocol):
    """Something that a worker has to delete."""

    cleaner: str | None
    """The worker that deletes it; None until one is assigned."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Deletable)


class CleanupQueue(Generic[T]):
    """Items to be deleted. Each is assigned to one worker, and to another if that worker is lost."""

    def __init__(self) -> None:
        self._unassigned: deque[T] = deque()
        self._assigned: dict[str, T] = {}

    def add(self, item: T) -> None:
        """Add an item, which is assigned already if it has a cleaner."""
        if item.cleaner is None:
            self._unassigned.append(item)
        else:
            self._assigned[item.id] = item

    @property
    def has_unassigned(self) -> bool:
        return bool(self._unassigned)

    def assign(self, workers: Sequence[str]) -> list[T]:
        """Assign all unassigned items to the workers in turn. Returns these items: none if there is no worker."""
        assigned = []
        while workers and self._unassigned:
            item = self._unassigned.popleft()
            item.cleaner = workers[len(self._assigned) % len(workers)]
            self._assigned[item.id] = item
            assigned.append(item)
        return assigned

    def done(self, id_: str) -> T | None:
        """Remove and return an item that has been deleted by any worker; None if it was removed before."""
        assigned = self._assigned.pop(id_, None)
        if assigned is not None:
            return assigned
        for item in self._unassigned:
            if item.id == id_:
                self._unassigned.remove(item)
                return item
        return None

    def unassign(self, worker: str) -> list[T]:
        """Take back all items of a worker that is lost, and return them."""
        items = [item for item in self._assigned.values() if item.cleaner == worker]
        for item in items:
            del self._assigned[item.id]
            item.cleaner = None
            self._unassigned.append(item)
        return items


class Cleanup:
    """Orders the deletion of mailboxes and task queues. Any shared worker can do it."""

    def __init__(self, tables: ControlTables) -> None:
        self._directory = tables.directory
        self._task_queues = tables.task_queues
        self._nodes = tables.nodes
        self._queue: CleanupQueue[ActorEntry | TaskQueueEntry] = CleanupQueue()

    def restore(self) -> None:
        """Take up every deletion that the tables say is not done yet."""
        for actor in self._directory.all():
            if actor.state == "dead" and not actor.is_mailbox_deleted:
                self._queue.add(actor)
        for queue in self._task_queues.all():
            if queue.end_cause is not None:
                self._queue.add(queue)

    def add(self, item: ActorEntry | TaskQueueEntry) -> None:
        """Add a dead actor, or an ended task queue."""
        self._queue.add(item)

    def assign(self, decision: Decision) -> None:
        """Order shared workers to delete everything that has no cleaner yet."""
        if not self._queue.has_unassigned:
            return
        workers = [worker.id for worker in self._nodes.workers.values() if worker.dedicated_to is None]
        for item in self._queue.assign(workers):
            self._mark_changed(item)
            assert item.cleaner is not None
            if isinstance(item, TaskQueueEntry):
                decision.emit(DeleteTaskQueue(worker=item.cleaner, queue=item.name, cause=item.end_cause or ""))
            else:
                cause, at_birth = item.last_error or "", item.died_at_birth
                decision.emit(DeleteMailbox(worker=item.cleaner, plan=item.plan, cause=cause, at_birth=at_birth))

    def on_deleted(self, id_: str) -> None:
        """Note that an actor's mailbox, or a task queue, is gone."""
        item = self._queue.done(id_)
        if isinstance(item, TaskQueueEntry):
            self._task_queues.remove(item)
        elif item is not None:
            self._directory.set_mailbox_deleted(item)

    def on_worker_gone(self, worker: str) -> None:
        """Take back what the worker was to delete."""
        for item in self._queue.unassign(worker):
            self._mark_changed(item)

    def _mark_changed(self, item: ActorEntry | TaskQueueEntry) -> None:
        if isinstance(item, TaskQueueEntry):
            self._task_queues.mark_changed(item)
        else:
            self._directory.mark_changed(item)
