"""Interfaces of the services of control, workers, slots and nodes, as their callers see them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from actorhub.actors.service import service
from actorhub.control_api.commands import (
    DeleteMailbox,
    DeleteTaskQueue,
    GroupReply,
    SpawnReply,
    StartActor,
    StartSlot,
    TaskQueueReply,
)
from actorhub.control_api.events import GroupRequested, NodeEvent, NodeReport, SpawnRequested
from actorhub.control_api.info import ActorActivity, ActorInfo, DedicatedQueueInfo, Demand, GroupInfo, NodeInfo
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import Activation, SpawnSpec
from actorhub.control_api.task_status import TaskStatusReport

# Actors, or groups, in one reply.
PAGE_ENTRIES = 1000


@service
class ControlService(ABC):
    """Service of control for hubs, nodes and workers."""

    # ---- calls of hubs

    @abstractmethod
    async def spawn(self, asked: SpawnRequested) -> SpawnReply:
        """Claim the name and choose a worker; the mailbox exists when the reply comes.

        The reply has the actor's plan, or the plan of the actor that has the name, or the error.
        """

    @abstractmethod
    async def make_group(self, asked: GroupRequested) -> GroupReply:
        """Claim the name. The group is reserved as soon as there is room for all of its bundles."""

    @abstractmethod
    async def remove_group(self, group: str) -> bool:
        """End the group's actors and free its resources. False if it does not exist."""

    @abstractmethod
    async def group(self, group: str) -> GroupInfo | None:
        """Information about a group; None if it does not exist."""

    @abstractmethod
    async def groups(self, namespace: str | None = None, after: str | None = None) -> list[GroupInfo]:
        """Page of at most `PAGE_ENTRIES` groups in order of creation, from the group behind the id `after`, or the first."""

    @abstractmethod
    async def find(self, namespace: str, name: str) -> SpawnSpec | None:
        """The living actor with this name; None if no living actor has it."""

    @abstractmethod
    async def describe(self, actor_id: str) -> ActorInfo | None:
        """Information about an actor, including `waits_for` if it waits for a worker."""

    @abstractmethod
    async def kill(self, actor_id: str, cause: str) -> bool:
        """Kill an actor. False if it was dead already, or is not known.

        Once its mailbox is deleted, it replies to no call any more, and its callers have been told.
        """

    @abstractmethod
    async def serve(self, queue: str, needs: Requirements | None = None, priority: int = 0) -> TaskQueueReply:
        """Serve a task queue that a client sends to: with every node's shared slots, or with slots of its own.

        The queue exists when the reply comes, or the reply says why no node can ever serve it.

        Args:
            queue: name of the queue.
            needs: requirements of its tasks; with any, it has dedicated slots while tasks wait in it.
            priority: the highest priority of the tasks.
        """

    @abstractmethod
    async def task_queues(self, namespace: str | None = None) -> list[str]:
        """Task queues of the namespace, or of all namespaces, that every shared slot serves."""

    @abstractmethod
    async def served(self, namespace: str | None = None) -> list[DedicatedQueueInfo]:
        """Task queues with dedicated slots."""

    @abstractmethod
    async def demand(self) -> list[Demand]:
        """Placements that wait for resources, grouped by their requirements."""

    @abstractmethod
    async def end_session(self, session_id: str) -> None:
        """End a session's actors and groups."""

    @abstractmethod
    async def actors(self, namespace: str | None = None, after: str | None = None) -> list[ActorInfo]:
        """Page of at most `PAGE_ENTRIES` actors in order of creation, from the actor behind the id `after`, or the first."""

    @abstractmethod
    async def nodes(self) -> list[NodeInfo]:
        """All living nodes."""

    # ---- reports of nodes and workers

    @abstractmethod
    async def report(self, report: NodeReport) -> None:
        """Take a node's report: it lives."""

    @abstractmethod
    async def notice(self, event: NodeEvent) -> None:
        """Take an event of a node."""


@service(concurrency=10_000)
class WorkerService(ABC):
    """Commands to a worker. Each is idempotent: control repeats them after a failover."""

    @abstractmethod
    async def start(self, order: StartActor) -> None:
        """Create the actor and open its mailbox; an event tells control of success or failure."""

    @abstractmethod
    async def stop(self, actor_id: str, incarnation: int) -> None:
        """End the actor's instance here, if it is not a later incarnation; its messages stay in the queue."""

    @abstractmethod
    async def delete_mailbox(self, order: DeleteMailbox) -> None:
        """Reply to every waiting caller of a dead actor, and delete its queue."""

    @abstractmethod
    async def delete_task_queue(self, order: DeleteTaskQueue) -> None:
        """Fail all tasks of a queue that no slot can serve any more, and delete it."""

    @abstractmethod
    async def inventory(self) -> list[Activation]:
        """Actor instances that the worker hosts."""

    @abstractmethod
    async def activity(self, actor_id: str) -> ActorActivity | None:
        """Work of the actor's instance on this worker; None if the worker does not host it."""


class TaskBroadcasts(ABC):
    """Broadcasts about single tasks, to every agent and every slot."""

    @abstractmethod
    async def cancel_task(self, call_id: str) -> None:
        """Cancel a task: no caller waits for it any more."""

    @abstractmethod
    async def task_died(self, call_id: str, times: int) -> None:
        """Record that a worker died while it ran the task; `times` counts the known deaths, including this one."""

    @abstractmethod
    async def task_timed_out(self, call_id: str, attempt: int) -> None:
        """Record that this attempt timed out and its slot was killed: it has failed, and is not repeated."""


@service(concurrency=1000)
class SlotService(TaskBroadcasts):
    """Commands to a slot."""

    @abstractmethod
    async def serve(self, queues: list[str]) -> None:
        """Take tasks from these queues, too."""

    @abstractmethod
    async def leave(self) -> None:
        """Take no more tasks, and end when the running tasks have ended."""


@service(concurrency=1000)
class NodeService(TaskBroadcasts):
    """Commands to a node."""

    @abstractmethod
    async def worker_ready(self, worker: str, pid: int) -> None:
        """Note that a worker of this node takes commands from now on."""

    @abstractmethod
    async def worker_draining(self, worker: str) -> None:
        """Replace a slot of this node that takes no more tasks, and ends when its running tasks have ended.

        The successor starts at once: the running tasks may wait for tasks that no other slot would run.
        """

    @abstractmethod
    async def start_worker(self, worker: str, actor_id: str, gpu: float = 0.0) -> None:
        """Start a worker process for one isolated actor; `gpu` is the reserved number of GPUs, or part of one."""

    @abstractmethod
    async def stop_worker(self, worker: str) -> None:
        """End the worker process of an isolated actor."""

    @abstractmethod
    async def start_slot(self, order: StartSlot) -> None:
        """Start a dedicated slot of one queue."""

    @abstractmethod
    async def stop_slot(self, slot: str, now: bool) -> None:
        """End a dedicated slot: at once if `now`, else when its running tasks have ended."""

    @abstractmethod
    async def serve(self, queues: list[str]) -> None:
        """Let the node's shared slots serve these task queues, too."""

    @abstractmethod
    async def task_statuses(self, call_ids: list[str]) -> TaskStatusReport:
        """Statuses of these tasks, as far as this node knows them."""

    @abstractmethod
    async def report(self) -> None:
        """Send control a full report."""

    @abstractmethod
    async def drain(self) -> None:
        """Drain and end, as after SIGTERM."""

    @abstractmethod
    async def acknowledge(self) -> None:
        """Note that control knows this node."""
