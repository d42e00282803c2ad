"""Commands of control: replies to clients, orders to nodes and workers, and queues to declare. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.events import GroupRequested, SpawnRequested
from actorhub.control_api.info import ActorInfo
from actorhub.control_api.specs import Activation, Model, PlacementGroupSpec, SpawnSpec

Refusal = Literal["name taken", "infeasible", "parent dead"]
"""Reason of a refusal: another has the name, no node can ever run it, or the actor that would own it is dead."""


class SpawnReply(Model):
    """Reply to a `SpawnRequested`. It has either a plan or an error."""

    actor_id: str
    """The actor that was asked for."""
    plan: SpawnSpec | None = None
    """Outline of the new actor's plan, or of the one that has the name."""
    created: bool = False
    error: Refusal | None = None
    message: str = ""
    """The error for people."""


class GroupReply(Model):
    """Reply to a `GroupRequested`. It has either a plan or an error."""

    group_id: str
    """The group that was asked for."""
    plan: PlacementGroupSpec | None = None
    """The new group, or the one that has the name."""
    created: bool = False
    error: Refusal | None = None
    message: str = ""
    """The error for people."""


class TaskQueueReply(Model):
    """Reply to a `TaskQueueUsed`."""

    queue: str
    error: str | None = None
    """The reason why no node can ever serve the queue; then it is not created."""


class StartActor(Model):
    """Order to a worker: create the actor's instance, and open its mailbox."""

    worker: str
    residency: Activation
    poison: list[str] = Field(default_factory=list)
    """Ids of calls that have killed their workers too often to run again."""


class StopActor(Model):
    """Order to a worker: end this incarnation of an actor."""

    worker: str
    actor: str
    incarnation: int


class StartWorker(Model):
    """Order to a node: start a worker process for one isolated actor."""

    node: str
    worker: str
    actor: str
    gpu: float = 0.0
    """GPUs that are reserved for it, or the part of one."""


class StopWorker(Model):
    """Order to a node: end the worker process of an isolated actor."""

    node: str
    worker: str


class StartSlot(Model):
    """Order to a node: start a slot for the tasks of one queue."""

    node: str
    slot: str
    queue: str
    gpu: float = 0.0
    """GPUs that are reserved for it, or the part of one."""


class StopSlot(Model):
    """Order to a node: end a slot."""

    node: str
    slot: str
    now: bool = False
    """True: at once, and the task that it runs is delivered again. False: after that task."""


class DeleteMailbox(Model):
    """Order to a worker: fail all calls that wait for a dead actor, and delete its queue."""

    worker: str
    plan: SpawnSpec
    cause: str
    """Cause of death, for the callers."""
    at_birth: bool
    """True if its constructor raised."""


class DeleteTaskQueue(Model):
    """Order to a worker: fail all tasks of a queue that no slot can serve any more, and delete it."""

    worker: str
    queue: str
    cause: str


class Acknowledge(Model):
    """Message to a node: control knows it."""

    node: str


class RequestReport(Model):
    """Order to a node: send a full report."""

    node: str


class ServeQueues(Model):
    """Order to a node: let its slots take tasks of these queues, too."""

    node: str
    queues: list[str]


class CreateMailbox(Model):
    """Declare an actor's queues before any client can send to it."""

    plan: SpawnSpec


class MakeQueue(Model):
    """Declare a task queue before its client sends to it."""

    queue: str


class MakeDeadLetters(Model):
    """Declare the dead-letter stream of a namespace."""

    namespace: str


class ActorStateChanged(Model):
    """Log that an actor is in another state."""

    actor: ActorInfo


Action = (
    StartActor
    | StopActor
    | StartWorker
    | StopWorker
    | StartSlot
    | StopSlot
    | DeleteMailbox
    | DeleteTaskQueue
    | Acknowledge
    | RequestReport
    | ServeQueues
    | CreateMailbox
    | MakeQueue
    | MakeDeadLetters
    | ActorStateChanged
)
"""A command that is no reply."""
Command = SpawnReply | GroupReply | TaskQueueReply | Action


def group_name_taken(request: GroupRequested, holder: PlacementGroupSpec) -> GroupReply:
    """Reply to a request for a group whose name `holder` has: that group if the client takes it, else an error."""
    plan = request.plan
    if request.get_if_exists and (holder.bundles, holder.strategy) == (plan.bundles, plan.strategy):
        return GroupReply(group_id=plan.group_id, plan=holder)
    kind = "another, with other bundles or another strategy" if request.get_if_exists else "another placement group"
    return GroupReply(
        group_id=plan.group_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, remove that one, or "
        "take it with get_if_exists=True",
    )


def name_taken(request: SpawnRequested, holder: SpawnSpec) -> SpawnReply:
    """Reply to a request for an actor whose name `holder` has: that actor if the client takes it, else an error."""
    plan = request.plan
    if request.get_if_exists and holder.class_name == plan.class_name:
        return SpawnReply(actor_id=plan.actor_id, plan=holder.outline)
    kind = f"a {holder.class_name}" if request.get_if_exists else "another living actor"
    return SpawnReply(
        actor_id=plan.actor_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, kill that one, "
        "or take it with get_if_exists=True",
    )
