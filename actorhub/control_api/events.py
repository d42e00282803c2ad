"""Events that control handles: requests of clients, reports of nodes and workers, and time. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import Activation, Model, PlacementGroupSpec, SpawnSpec


class SpawnRequested(Model):
    """A client asks for an actor. A repeated request changes nothing."""

    plan: SpawnSpec
    get_if_exists: bool = False
    """Take the actor that has the name, if it is of the same class."""


class GroupRequested(Model):
    """A client asks for a placement group. A repeated request changes nothing."""

    plan: PlacementGroupSpec
    get_if_exists: bool = False
    """Take the group that has the name, if its bundles and strategy are the same."""


class GroupRemoved(Model):
    """A client removes a placement group."""

    group: str
    cause: str
    """Cause of death of the actors in it."""


class KillRequested(Model):
    """A client kills an actor."""

    actor: str
    cause: str


class SessionEnded(Model):
    """A hub, or another client, is gone for good. Its actors and groups end with it."""

    session: str


class TaskQueueUsed(Model):
    """A client sends tasks to a queue."""

    queue: str
    namespace: str
    needs: Requirements | None = None
    """Requirements of all tasks of the queue; None if any slot may run them."""
    priority: int = 0
    """The highest priority of the client's tasks."""


class QueueDepths(Model):
    """The depths of task queues with dedicated slots have been read."""

    waiting: dict[str, int]
    """Number of messages that no slot has taken, by queue."""


class Tick(Model):
    """Time has passed."""


class WorkerReport(Model):
    """A worker that is ready."""

    id: str
    pid: int
    dedicated_to: str | None = None
    """The only actor that it is for; None for a shared worker."""
    hosted: list[Activation] | None = None
    """The instances that it hosts; None in a heartbeat, which says only that it lives."""


ANY_CLASS = "*"
"""All classes, in a node's report: the node runs in the process of its clients, and knows every class of theirs."""


class NodeReport(Model):
    """A node lives."""

    node: str
    host: str
    pid: int
    version: str
    """Version of ActorHub."""
    labels: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, float] = Field(default_factory=dict)
    """Amounts of all its resources, free or not."""
    classes: list[str] = Field(default_factory=list)
    """Names of the actor classes that it can run."""
    workers: list[WorkerReport] = Field(default_factory=list)
    slots: dict[str, int] = Field(default_factory=dict)
    """Process ids of the slots that take tasks, by the slots' ids."""
    placed: list[str] = Field(default_factory=list)
    """Ids of the slots that control has placed there, those included that do not take tasks yet."""
    queues: list[str] = Field(default_factory=list)
    """Task queues that its slots serve."""
    known: bool = False
    """True if a control has acknowledged it before."""
    leaving: bool = False
    store: str | None = None
    """Directory of its object store, for processes of its machine."""
    run: str = ""
    """Identity of the agent's process: a container that starts again has the same host and pid."""


class Running(Model):
    """A call that a worker ran when it died."""

    actor: str
    call: str
    method: str


class WorkerLost(Model):
    """A worker process died."""

    kind: Literal["worker_lost"] = "worker_lost"
    node: str
    worker: str
    cause: str
    running: list[Running] = Field(default_factory=list)


class WorkerStopped(Model):
    """A worker process has drained and ended, as it was told to."""

    kind: Literal["worker_stopped"] = "worker_stopped"
    node: str
    worker: str


class ActorStarted(Model):
    """An instance of an actor is ready on a worker."""

    kind: Literal["actor_started"] = "actor_started"
    actor: str
    worker: str
    incarnation: int


class ActorFailed(Model):
    """An instance of an actor has failed on a worker."""

    kind: Literal["actor_failed"] = "actor_failed"
    actor: str
    worker: str
    incarnation: int
    phase: Literal["birth", "life", "gone"]
    """At "birth" its constructor raised, and the actor is dead. In "life" a method raised, and the class has
    on_error="restart". When it is "gone", its queue was deleted, and the actor is dead."""
    error: str


class ActorStopped(Model):
    """An instance of an actor has ended on a worker that drains."""

    kind: Literal["actor_stopped"] = "actor_stopped"
    actor: str
    worker: str
    incarnation: int


class MailboxDeleted(Model):
    """A dead actor's queue is gone, or a task queue that no slot could serve any more."""

    kind: Literal["buried"] = "buried"
    actor: str
    """The actor's id, or the task queue's name."""


class SlotEnded(Model):
    """A slot that control had placed has ended."""

    kind: Literal["slot_ended"] = "slot_ended"
    node: str
    slot: str


NodeEvent = WorkerLost | WorkerStopped | ActorStarted | ActorFailed | ActorStopped | MailboxDeleted | SlotEnded
"""An event that a node or a worker reports."""

Event = (
    SpawnRequested
    | GroupRequested
    | GroupRemoved
    | NodeReport
    | NodeEvent
    | KillRequested
    | SessionEnded
    | TaskQueueUsed
    | QueueDepths
    | Tick
)
