"""What control answers and orders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control.infos import ActorInfo
from actorhub.control.plans import ActorPlan, GroupPlan, Model, Residency


class Answer(Model):
    """To whoever asked for the spawn of `actor_id`. One of `plan`, as an outline, and `error` is there."""

    actor_id: str
    plan: ActorPlan | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class GroupAnswer(Model):
    """To whoever asked for the group. One of `plan` and `error` is there."""

    group_id: str
    plan: GroupPlan | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class StartActor(Model):
    """`poison`: ids of calls that have killed their workers too often to run again."""

    worker: str
    residency: Residency
    poison: list[str] = Field(default_factory=list)


class StopActor(Model):
    worker: str
    actor: str
    incarnation: int


class QueueAnswer(Model):
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


class BuryQueue(Model):
    """Fail all tasks of a queue that nobody can serve any more, and delete it."""

    worker: str
    queue: str
    cause: str


class StopWorker(Model):
    node: str
    worker: str


class BuryActor(Model):
    """Answer whoever waits for a dead actor, and delete its queue."""

    worker: str
    plan: ActorPlan
    cause: str
    at_birth: bool


class Acknowledge(Model):
    node: str


class AskReport(Model):
    """The node shall send a full report."""

    node: str


class ServeQueues(Model):
    """The node's slots shall take tasks of these queues, too."""

    node: str
    queues: list[str]


class MakeMailbox(Model):
    """There shall be a mailbox before anybody can send to the actor."""

    plan: ActorPlan


class MakeDeadLetters(Model):
    """The namespace shall have a place for them."""

    namespace: str


class Changed(Model):
    """An actor's life went on."""

    actor: ActorInfo


Order = (
    StartActor
    | StopActor
    | StartWorker
    | StopWorker
    | StartSlot
    | StopSlot
    | BuryActor
    | BuryQueue
    | Acknowledge
    | AskReport
    | ServeQueues
    | MakeMailbox
    | MakeQueue
    | MakeDeadLetters
    | Changed
)
Command = Answer | GroupAnswer | QueueAnswer | Order
