"""Replies and commands of control."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.events import GroupRequested, SpawnRequested
from actorhub.control_api.info import ActorInfo
from actorhub.control_api.specs import Activation, Model, PlacementGroupSpec, SpawnSpec


class SpawnReply(Model):
    """To whoever asked for the spawn of `actor_id`. One of `plan`, as an outline, and `error` is there."""

    actor_id: str
    plan: SpawnSpec | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class GroupReply(Model):
    """To whoever asked for the group. One of `plan` and `error` is there."""

    group_id: str
    plan: PlacementGroupSpec | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class StartActor(Model):
    """`poison`: ids of calls that have killed their workers too often to run again."""

    worker: str
    residency: Activation
    poison: list[str] = Field(default_factory=list)


class StopActor(Model):
    worker: str
    actor: str
    incarnation: int


class TaskQueueReply(Model):
    """To whoever sends to the queue. `error`: why no node can ever serve it; then there is none."""

    queue: str
    error: str | None = None


class StartWorker(Model):
    """A worker process for one isolated actor. `gpu`: how much of it is reserved."""

    node: str
    worker: str
    actor: str
    gpu: float = 0.0


class StartSlot(Model):
    """A slot for the tasks of one queue. `gpu`: how much of it is reserved."""

    node: str
    slot: str
    queue: str
    gpu: float = 0.0


class StopSlot(Model):
    """It takes nothing more, and ends with what it runs; `now`: it ends at once, and what it ran comes again."""

    node: str
    slot: str
    now: bool = False


class MakeQueue(Model):
    """There shall be this task queue before anybody sends to it."""

    queue: str


class DeleteTaskQueue(Model):
    """Fail all tasks of a queue that nobody can serve any more, and delete it."""

    worker: str
    queue: str
    cause: str


class StopWorker(Model):
    node: str
    worker: str


class DeleteMailbox(Model):
    """Answer whoever waits for a dead actor, and delete its queue."""

    worker: str
    plan: SpawnSpec
    cause: str
    at_birth: bool


class Acknowledge(Model):
    node: str


class RequestReport(Model):
    """The node shall send a full report."""

    node: str


class ServeQueues(Model):
    """The node's slots shall take tasks of these queues, too."""

    node: str
    queues: list[str]


class CreateMailbox(Model):
    """There shall be a mailbox before anybody can send to the actor."""

    plan: SpawnSpec


class MakeDeadLetters(Model):
    """The namespace shall have a place for them."""

    namespace: str


class ActorStateChanged(Model):
    """An actor's life went on."""

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
Command = SpawnReply | GroupReply | TaskQueueReply | Action


def group_name_taken(asked: GroupRequested, holder: PlacementGroupSpec) -> GroupReply:
    plan = asked.plan
    if asked.get_if_exists and (holder.bundles, holder.strategy) == (plan.bundles, plan.strategy):
        return GroupReply(group_id=plan.group_id, plan=holder)
    kind = "another, with other bundles or another strategy" if asked.get_if_exists else "another placement group"
    return GroupReply(
        group_id=plan.group_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, remove that one, or "
        "take it with get_if_exists=True",
    )


def name_taken(asked: SpawnRequested, holder: SpawnSpec) -> SpawnReply:
    plan = asked.plan
    if asked.get_if_exists and holder.class_name == plan.class_name:
        return SpawnReply(actor_id=plan.actor_id, plan=holder.outline)
    kind = f"a {holder.class_name}" if asked.get_if_exists else "another living actor"
    return SpawnReply(
        actor_id=plan.actor_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, kill that one, "
        "or take it with get_if_exists=True",
    )
