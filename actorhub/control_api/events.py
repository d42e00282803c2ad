"""What control hears."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import Activation, Model, PlacementGroupSpec, SpawnSpec


class SpawnRequested(Model):
    """`owner` is a session's id, or `actor:{id}` for what an actor spawns. Asking again changes nothing."""

    plan: SpawnSpec
    get_if_exists: bool = False


class GroupRequested(Model):
    """Asking again changes nothing."""

    plan: PlacementGroupSpec
    get_if_exists: bool = False


class GroupRemoved(Model):
    group: str
    cause: str


class WorkerReport(Model):
    """A worker that is ready. `hosted` is None in a heartbeat, which says only that it lives."""

    id: str
    pid: int
    dedicated_to: str | None = None
    hosted: list[Activation] | None = None


ANY_CLASS = "*"
"""Among a node's classes: it shares its process with those who spawn, and knows every class that they do."""


class NodeReport(Model):
    """A node lives, with these workers and slots (pids by id), and knows these task queues. `placed`: the slots among them,
    and those that are not ready yet, that control has placed there. `known`: a control has acknowledged it before. `run`:
    of each agent's process another one, for a container that starts again has the same host and pid."""

    node: str
    host: str
    pid: int
    version: str
    labels: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, float] = Field(default_factory=dict)
    classes: list[str] = Field(default_factory=list)
    workers: list[WorkerReport] = Field(default_factory=list)
    slots: dict[str, int] = Field(default_factory=dict)
    placed: list[str] = Field(default_factory=list)
    queues: list[str] = Field(default_factory=list)
    known: bool = False
    leaving: bool = False
    store: str | None = None
    run: str = ""


class Running(Model):
    """A call that a worker had in hand when it died."""

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
    """A worker drained and ended, as it was asked to."""

    kind: Literal["worker_stopped"] = "worker_stopped"
    node: str
    worker: str


class ActorStarted(Model):
    kind: Literal["actor_started"] = "actor_started"
    actor: str
    worker: str
    incarnation: int


class ActorFailed(Model):
    """At "birth": its constructor raised, it is dead. In "life": a method raised, and on_error="restart". When it is "gone",
    its queue was deleted, and it is dead."""

    kind: Literal["actor_failed"] = "actor_failed"
    actor: str
    worker: str
    incarnation: int
    phase: Literal["birth", "life", "gone"]
    error: str


class ActorStopped(Model):
    """It was ended here at control's order, or because its queue was deleted."""

    kind: Literal["actor_stopped"] = "actor_stopped"
    actor: str
    worker: str
    incarnation: int


class MailboxDeleted(Model):
    """A dead actor's queue is gone, or a task queue that nobody can serve any more: `actor` is its name then."""

    kind: Literal["buried"] = "buried"
    actor: str


class SlotEnded(Model):
    """A slot that control had placed there."""

    kind: Literal["slot_ended"] = "slot_ended"
    node: str
    slot: str


NodeEvent = WorkerLost | WorkerStopped | ActorStarted | ActorFailed | ActorStopped | MailboxDeleted | SlotEnded


class KillRequested(Model):
    actor: str
    cause: str


class SessionEnded(Model):
    session: str


class TaskQueueUsed(Model):
    """Somebody sends tasks to the queue, which ask for `needs`, if for anything. `priority`: the highest of them."""

    queue: str
    namespace: str
    needs: Requirements | None = None
    priority: int = 0


class QueueDepths(Model):
    """Messages that no slot has taken, by the queues that have slots of their own."""

    waiting: dict[str, int]


class Tick(Model):
    """Time has passed."""


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
