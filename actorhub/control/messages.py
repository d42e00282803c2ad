"""What control hears (events) and orders (commands), and what it tells about actors and nodes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actorhub.actor import ActorOptions, Ticket
from actorhub.address import Names
from actorhub.broker import Queue, QueueKind
from actorhub.envelope import Codec
from actorhub.needs import Bundle, Needs
from actorhub.resources import Resources

Lifetime = Literal["session", "detached"]
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
State = Literal["pending", "starting", "running", "restarting", "dead"]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        defer_build=True,  # when it is first used: a client uses few of them
    )


# ---- what there is


class ActorPlan(_Model):
    """All that is needed to start an actor anywhere, again and again. `code` is its class by value, signed."""

    actor_id: str
    namespace: str
    name: str | None = None
    class_name: str
    options: ActorOptions
    lifetime: Lifetime = "session"
    owner: str = ""
    arguments: bytes = b"{}"
    codec: Codec = Codec.JSON
    code: bytes | None = None
    node: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    prefer: dict[str, str] = Field(default_factory=dict)
    bundle: Bundle | None = None

    @property
    def outline(self) -> ActorPlan:
        """Without what only its worker needs."""
        return self.model_copy(update={"arguments": b"", "code": None})

    def queue(self, names: Names) -> str:
        """Where its messages wait."""
        name = names.durable if self.options.durable else names.actor
        return name(self.namespace, self.actor_id)

    def queues(self, names: Names, retention: int) -> list[Queue]:
        """What there must be at the broker before anybody sends to it."""
        limit, queue = self.options.mailbox_limit, self.queue(names)
        if not self.options.durable:
            return [Queue(queue, single_active=True, limit=limit)]
        journal = Queue(names.journal(self.namespace, self.actor_id), QueueKind.STREAM, retention=retention)
        return [journal, Queue(queue, QueueKind.QUORUM, single_active=True, limit=limit)]

    def ticket(self, names: Names) -> Ticket:
        """What a handle of it needs."""
        return Ticket(
            queue=self.queue(names),
            actor_id=self.actor_id,
            namespace=self.namespace,
            class_name=self.class_name,
            name=self.name,
            limited=self.options.mailbox_limit is not None,
            durable=self.options.durable,
        )


class GroupPlan(_Model):
    """A placement group, as somebody asked for it."""

    group_id: str
    namespace: str
    name: str | None = None
    bundles: list[Resources] = Field(min_length=1)
    strategy: Strategy = "PACK"
    lifetime: Lifetime = "session"
    owner: str = ""

    @field_validator("bundles")
    @classmethod
    def _none_is_empty(cls, bundles: list[dict[str, float]]) -> list[dict[str, float]]:
        for index, bundle in enumerate(bundles):
            if not bundle:
                raise ValueError(
                    f"bundle {index} asks for nothing; give it resources, such as {{'cpu': 1}}, or leave it out"
                )
        return bundles


class BundleInfo(_Model):
    """A bundle, and the node that it is reserved on; None while it waits."""

    resources: dict[str, float]
    node: str | None


class GroupInfo(_Model):
    """A placement group, for people. `waits_for`: what there is not that it needs, while it is not ready."""

    id: str
    name: str | None
    namespace: str
    strategy: Strategy
    is_ready: bool
    bundles: list[BundleInfo]
    waits_for: str = ""


class Residency(_Model):
    """An actor that a worker hosts, or is about to. Of two incarnations of one actor, the higher one counts."""

    plan: ActorPlan
    incarnation: int
    restarts: int


class ActorInfo(_Model):
    """An actor, for people. `standby`: the worker that stands by to go on with it. `died_at_birth`: its constructor raised.
    `waits_for`: what there is not that it needs to run; only `Control.describe` says it."""

    id: str
    name: str | None
    namespace: str
    class_name: str
    state: State
    node: str | None
    worker: str | None
    standby: str | None = None
    restarts: int
    last_error: str | None
    died_at_birth: bool = False
    durable: bool = False
    waits_for: str = ""


class Doing(_Model):
    """What an actor's instance has in hand: the methods that run, each with the seconds since it began, and how many messages
    wait behind them in its worker."""

    running: list[tuple[str, float]]
    waiting: int


class WorkerInfo(_Model):
    """A worker process. `kind` is "shared", "process" for one that hosts a single isolated actor, "task" for a slot."""

    id: str
    pid: int
    kind: Literal["shared", "process", "task"]
    actors: list[str]


class NodeInfo(_Model):
    """A node and its workers."""

    id: str
    host: str
    pid: int
    version: str
    labels: dict[str, str]
    resources_total: dict[str, float]
    resources_free: dict[str, float]
    leaving: bool
    workers: list[WorkerInfo]
    store: str | None = None
    """Where the node's objects are, for the processes of its machine."""


class QueueInfo(_Model):
    """A task queue. `waiting`: tasks' messages that no slot has taken; `slots`: how many take from it. `needs`: what all of its
    tasks ask for, if anything. `waits_for`: what there is not that it needs to be served, where something waits."""

    queue: str
    namespace: str
    waiting: int
    slots: int
    needs: Needs | None = None
    waits_for: str = ""


class Served(_Model):
    """A task queue, as control knows it. `slots`: those that were placed for it alone, with their nodes. `waits_for`: what
    there is not that a slot for it needs, where none serves it."""

    name: str
    namespace: str
    needs: Needs | None = None
    slots: dict[str, str] = Field(default_factory=dict)
    waits_for: str = ""


class Demand(_Model):
    """What waits for a place, `count` times: of an actor, a placement group, or a slot for tasks. What a scaler adds nodes for.
    `resources`: of a group, of all its bundles."""

    kind: Literal["actor", "group", "task"]
    resources: dict[str, float]
    labels: dict[str, str] = Field(default_factory=dict)
    node: str | None = None
    count: int


# ---- events


class SpawnAsked(_Model):
    """`owner` is a session's id, or `actor:{id}` for what an actor spawns. Asking again changes nothing."""

    plan: ActorPlan
    get_if_exists: bool = False


class GroupAsked(_Model):
    """Asking again changes nothing."""

    plan: GroupPlan
    get_if_exists: bool = False


class GroupRemoved(_Model):
    group: str
    cause: str


class WorkerReport(_Model):
    """A worker that is ready. `hosted` is None in a heartbeat, which says only that it lives."""

    id: str
    pid: int
    dedicated_to: str | None = None
    hosted: list[Residency] | None = None


ANY_CLASS = "*"
"""Among a node's classes: it shares its process with those who spawn, and knows every class that they do."""


class NodeReport(_Model):
    """A node lives, with these workers and slots (pids by id), and knows these task queues. `placed`: the slots among them,
    and those that are not ready yet, that control has placed there. `known`: a control has acknowledged it before."""

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


class Running(_Model):
    """A call that a worker had in hand when it died."""

    actor: str
    call: str
    method: str


class WorkerLost(_Model):
    """A worker process died."""

    kind: Literal["worker_lost"] = "worker_lost"
    node: str
    worker: str
    cause: str
    running: list[Running] = Field(default_factory=list)


class WorkerStopped(_Model):
    """A worker drained and ended, as it was asked to."""

    kind: Literal["worker_stopped"] = "worker_stopped"
    node: str
    worker: str


class ActorStarted(_Model):
    kind: Literal["actor_started"] = "actor_started"
    actor: str
    worker: str
    incarnation: int


class ActorFailed(_Model):
    """At "birth": its constructor raised, it is dead. In "life": a method raised, and on_error="restart". When it is "gone",
    its queue was deleted, and it is dead."""

    kind: Literal["actor_failed"] = "actor_failed"
    actor: str
    worker: str
    incarnation: int
    phase: Literal["birth", "life", "gone"]
    error: str


class ActorStopped(_Model):
    """It was ended here at control's order, or because its queue was deleted."""

    kind: Literal["actor_stopped"] = "actor_stopped"
    actor: str
    worker: str
    incarnation: int


class Buried(_Model):
    """A dead actor's queue is gone, or a task queue that nobody can serve any more: `actor` is its name then."""

    kind: Literal["buried"] = "buried"
    actor: str


class SlotEnded(_Model):
    """A slot that control had placed there."""

    kind: Literal["slot_ended"] = "slot_ended"
    node: str
    slot: str


Notice = WorkerLost | WorkerStopped | ActorStarted | ActorFailed | ActorStopped | Buried | SlotEnded


class KillAsked(_Model):
    actor: str
    cause: str


class SessionEnded(_Model):
    session: str


class QueueUsed(_Model):
    """Somebody sends tasks to the queue, which ask for `needs`, if for anything. `priority`: the highest of them."""

    queue: str
    namespace: str
    needs: Needs | None = None
    priority: int = 0


class TasksWait(_Model):
    """Messages that no slot has taken, by the queues that have slots of their own."""

    waiting: dict[str, int]


class Tick(_Model):
    """Time has passed."""


Event = (
    SpawnAsked
    | GroupAsked
    | GroupRemoved
    | NodeReport
    | Notice
    | KillAsked
    | SessionEnded
    | QueueUsed
    | TasksWait
    | Tick
)


# ---- commands


class Answer(_Model):
    """To whoever asked for the spawn of `actor_id`. One of `plan`, as an outline, and `error` is there."""

    actor_id: str
    plan: ActorPlan | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class GroupAnswer(_Model):
    """To whoever asked for the group. One of `plan` and `error` is there."""

    group_id: str
    plan: GroupPlan | None = None
    created: bool = False
    error: Literal["name taken", "infeasible", "parent dead"] | None = None
    message: str = ""


class StartActor(_Model):
    """`poison`: ids of calls that have killed their workers too often to run again."""

    worker: str
    residency: Residency
    poison: list[str] = Field(default_factory=list)


class StopActor(_Model):
    worker: str
    actor: str
    incarnation: int


class QueueAnswer(_Model):
    """To whoever sends to the queue. `error`: why no node can ever serve it; then there is none."""

    queue: str
    error: str | None = None


class StartWorker(_Model):
    """A worker process for one isolated actor. `gpu`: how much of it is reserved."""

    node: str
    worker: str
    actor: str
    gpu: float = 0.0


class StartSlot(_Model):
    """A slot for the tasks of one queue. `gpu`: how much of it is reserved."""

    node: str
    slot: str
    queue: str
    gpu: float = 0.0


class StopSlot(_Model):
    """It takes nothing more, and ends with what it runs; `now`: it ends at once, and what it ran comes again."""

    node: str
    slot: str
    now: bool = False


class MakeQueue(_Model):
    """There shall be this task queue before anybody sends to it."""

    queue: str


class BuryQueue(_Model):
    """Fail all tasks of a queue that nobody can serve any more, and delete it."""

    worker: str
    queue: str
    cause: str


class StopWorker(_Model):
    node: str
    worker: str


class BuryActor(_Model):
    """Answer whoever waits for a dead actor, and delete its queue."""

    worker: str
    plan: ActorPlan
    cause: str
    at_birth: bool


class Acknowledge(_Model):
    node: str


class AskReport(_Model):
    """The node shall send a full report."""

    node: str


class ServeQueues(_Model):
    """The node's slots shall take tasks of these queues, too."""

    node: str
    queues: list[str]


class MakeMailbox(_Model):
    """There shall be a mailbox before anybody can send to the actor."""

    plan: ActorPlan


class MakeDeadLetters(_Model):
    """The namespace shall have a place for them."""

    namespace: str


class Changed(_Model):
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
