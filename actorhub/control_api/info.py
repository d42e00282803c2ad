"""Information about actors, groups, nodes and task queues, for people and tools. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import Model, Strategy

State = Literal["pending", "starting", "running", "restarting", "dead"]


class BundleInfo(Model):
    """A bundle of a placement group."""

    resources: dict[str, float]
    node: str | None
    """The node on which it is reserved; None while it waits."""


class GroupInfo(Model):
    """A placement group."""

    id: str
    name: str | None
    namespace: str
    strategy: Strategy
    is_ready: bool
    """True if all its bundles are reserved."""
    bundles: list[BundleInfo]
    waits_for: str = ""
    """The thing that is missing before it is ready; empty if it is."""


class ActorInfo(Model):
    """An actor."""

    id: str
    name: str | None
    namespace: str
    class_name: str
    state: State
    node: str | None
    """The node of `worker`."""
    worker: str | None
    """The worker that hosts it or is to start it; None while it waits for one, and when it is dead."""
    standby: str | None = None
    """The worker that takes it over when `worker` is lost."""
    restarts: int
    """Restarts after failures."""
    last_error: str | None
    """Cause of its last restart, or of its death."""
    died_at_birth: bool = False
    """True if its constructor raised."""
    durable: bool = False
    waits_for: str = ""
    """The thing that is missing before it can run. Only `ControlService.describe` says it."""


class ActorActivity(Model):
    """Work of an actor's instance."""

    running: list[tuple[str, float]]
    """Methods that run, each with the seconds since it began."""
    waiting: int
    """Number of messages that wait for it in its worker."""


class WorkerInfo(Model):
    """A worker process, or a slot."""

    id: str
    pid: int
    kind: Literal["shared", "process", "task"]
    """A "shared" worker hosts many actors, a "process" one isolated actor; "task" is a slot."""
    actors: list[str]
    """Ids of the actors that it hosts."""


class NodeInfo(Model):
    """A live node with its workers and slots."""

    id: str
    host: str
    pid: int
    version: str
    """Version of ActorHub."""
    labels: dict[str, str]
    resources_total: dict[str, float]
    resources_free: dict[str, float]
    leaving: bool
    """True if nothing more is placed there, since it is about to end."""
    workers: list[WorkerInfo]
    store: str | None = None
    """Directory of its object store, for processes of its machine."""


class QueueInfo(Model):
    """A task queue, as the broker and control know it."""

    queue: str
    namespace: str
    waiting: int
    """Number of messages that no slot has taken."""
    slots: int
    """Number of slots that take tasks from it."""
    needs: Requirements | None = None
    """Requirements of all its tasks; None if any slot may run them."""
    waits_for: str = ""
    """The thing that is missing before it is served; empty if it is served, or if nothing waits in it."""


class DedicatedQueueInfo(Model):
    """A task queue with dedicated slots, as control knows it."""

    name: str
    namespace: str
    needs: Requirements | None = None
    """Requirements of all its tasks."""
    slots: dict[str, str] = Field(default_factory=dict)
    """The node of each of its slots, by the slot's id."""
    waits_for: str = ""
    """The thing that is missing before it gets a slot; empty if it has one."""


class Demand(Model):
    """Equal placements that wait for resources, as a scaler that adds nodes needs them.

    Placements in a bundle are not among them, since no new node helps them.
    """

    kind: Literal["actor", "group", "task"]
    """The thing that waits: an actor, a placement group, or a slot for tasks."""
    resources: dict[str, float]
    """Amounts that each asks for; for a group, the sum of its bundles that wait."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that the node must have."""
    node: str | None = None
    """The only node that it may run on."""
    count: int
    """Number of equal placements."""
