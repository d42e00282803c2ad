"""What control, workers and nodes do for each other and for hubs: the actors at their queues, as callers know them."""

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

PAGE = 1000  # actors, or groups, in one answer


@service
class ControlService(ABC):
    """What control does for hubs, nodes and workers."""

    # ---- what hubs ask

    @abstractmethod
    async def spawn(self, asked: SpawnRequested) -> SpawnReply:
        """Claims the name and chooses a worker; the mailbox is there when the answer comes. The answer has the actor's plan, or
        that of the one which has the name, or why nothing was made."""

    @abstractmethod
    async def make_group(self, asked: GroupRequested) -> GroupReply:
        """Claims the name. It is reserved when there is room for all of it."""

    @abstractmethod
    async def remove_group(self, group: str) -> bool:
        """Its actors end, and what it reserved is free. False where it is not there."""

    @abstractmethod
    async def group(self, group: str) -> GroupInfo | None:
        """None where it is not there."""

    @abstractmethod
    async def groups(self, namespace: str | None = None, after: str | None = None) -> list[GroupInfo]:
        """The next PAGE of them behind the one with this id, or the first, in the order of their making."""

    @abstractmethod
    async def find(self, namespace: str, name: str) -> SpawnSpec | None:
        """The living actor that has the name."""

    @abstractmethod
    async def describe(self, actor_id: str) -> ActorInfo | None:
        """With what it waits for, where it waits for a place."""

    @abstractmethod
    async def kill(self, actor_id: str, cause: str) -> bool:
        """False where it was dead already, or is not known. When its mailbox is gone, it answers nobody any more, and its
        callers have been told."""

    @abstractmethod
    async def serve(self, queue: str, needs: Requirements | None = None, priority: int = 0) -> TaskQueueReply:
        """Somebody sends tasks to this queue: every node's slots shall take from it. Where its tasks ask for a place, it gets
        slots of its own while anything waits in it; it is there when the answer comes, or the answer says why it never can
        be served. `priority`: the highest of them."""

    @abstractmethod
    async def task_queues(self, namespace: str | None = None) -> list[str]:
        """Those of the namespace that every slot serves; of all namespaces where none is named."""

    @abstractmethod
    async def served(self, namespace: str | None = None) -> list[DedicatedQueueInfo]:
        """The task queues that have slots of their own."""

    @abstractmethod
    async def demand(self) -> list[Demand]:
        """What waits for a place, by what it asks for."""

    @abstractmethod
    async def end_session(self, session_id: str) -> None:
        """Its actors end with it."""

    @abstractmethod
    async def actors(self, namespace: str | None = None, after: str | None = None) -> list[ActorInfo]:
        """The next PAGE of them behind the one with this id, or the first, in the order of their making."""

    @abstractmethod
    async def nodes(self) -> list[NodeInfo]:
        """All that live."""

    # ---- what nodes and workers tell

    @abstractmethod
    async def report(self, report: NodeReport) -> None:
        """A node lives."""

    @abstractmethod
    async def notice(self, event: NodeEvent) -> None:
        """Something has happened on a node."""


@service(concurrency=10_000)
class WorkerService(ABC):
    """A worker's commands. Each is idempotent: control repeats itself after a failover."""

    @abstractmethod
    async def start(self, order: StartActor) -> None:
        """Make the actor and open its mailbox; control hears of success or failure by an event."""

    @abstractmethod
    async def stop(self, actor_id: str, incarnation: int) -> None:
        """End the actor's instance here, if it is not a later incarnation; its messages stay in the queue."""

    @abstractmethod
    async def bury(self, order: DeleteMailbox) -> None:
        """Answer every waiting caller of a dead actor, and delete its queue."""

    @abstractmethod
    async def bury_queue(self, order: DeleteTaskQueue) -> None:
        """Fail all tasks of a queue that nobody can serve any more, and delete it."""

    @abstractmethod
    async def inventory(self) -> list[Activation]:
        """What runs here."""

    @abstractmethod
    async def doing(self, actor_id: str) -> ActorActivity | None:
        """What the actor's instance here has in hand; None where there is none."""


class TaskBroadcasts(ABC):
    """What every agent and every slot is told of single tasks, by broadcast."""

    @abstractmethod
    async def cancel_task(self, call_id: str) -> None:
        """Nobody waits for the task any more."""

    @abstractmethod
    async def task_died(self, call_id: str, times: int) -> None:
        """A worker died while it ran the task; `times`: the deaths that the one who says so knows of, this one included."""

    @abstractmethod
    async def task_late(self, call_id: str, attempt: int) -> None:
        """This attempt at the task was late, and its slot was killed for that: it has failed, and is not made again."""


@service(concurrency=1000)
class SlotService(TaskBroadcasts):
    """A slot's commands."""

    @abstractmethod
    async def serve(self, queues: list[str]) -> None:
        """Take tasks of these queues, too."""

    @abstractmethod
    async def leave(self) -> None:
        """Take nothing more, and end with what runs."""


@service(concurrency=1000)
class NodeService(TaskBroadcasts):
    """A node's commands."""

    @abstractmethod
    async def worker_ready(self, worker: str, pid: int) -> None:
        """A worker of this node takes commands from now on."""

    @abstractmethod
    async def worker_leaves(self, worker: str) -> None:
        """A slot of this node takes nothing more, and ends when what it runs has ended: another shall take its place now, for
        that may wait for tasks that nobody else would run."""

    @abstractmethod
    async def start_worker(self, worker: str, actor_id: str, gpu: float = 0.0) -> None:
        """Start a worker process for one actor alone. `gpu`: how much of it is reserved for it."""

    @abstractmethod
    async def stop_worker(self, worker: str) -> None:
        """End such a worker."""

    @abstractmethod
    async def start_slot(self, order: StartSlot) -> None:
        """Start a slot for one queue alone."""

    @abstractmethod
    async def stop_slot(self, slot: str, now: bool) -> None:
        """End such a slot: when what it runs has ended, or `now`."""

    @abstractmethod
    async def serve(self, queues: list[str]) -> None:
        """These task queues are there, and wait for slots."""

    @abstractmethod
    async def fates(self, call_ids: list[str]) -> TaskStatusReport:
        """What this node knows of these tasks."""

    @abstractmethod
    async def report(self) -> None:
        """Send control a full report."""

    @abstractmethod
    async def drain(self) -> None:
        """End in order, as after SIGTERM."""

    @abstractmethod
    async def acknowledge(self) -> None:
        """Control knows this node."""
