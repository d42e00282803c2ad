"""What control, and others, tell people of actors, groups, nodes and task queues."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actorhub.control_api.requirements import Requirements
from actorhub.control_api.specs import Model, Strategy

State = Literal["pending", "starting", "running", "restarting", "dead"]


class BundleInfo(Model):
    """A bundle, and the node that it is reserved on; None while it waits."""

    resources: dict[str, float]
    node: str | None


class GroupInfo(Model):
    """A placement group, for people. `waits_for`: what there is not that it needs, while it is not ready."""

    id: str
    name: str | None
    namespace: str
    strategy: Strategy
    is_ready: bool
    bundles: list[BundleInfo]
    waits_for: str = ""


class ActorInfo(Model):
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


class ActorActivity(Model):
    """What an actor's instance has in hand: the methods that run, each with the seconds since it began, and how many messages
    wait behind them in its worker."""

    running: list[tuple[str, float]]
    waiting: int


class WorkerInfo(Model):
    """A worker process. `kind` is "shared", "process" for one that hosts a single isolated actor, "task" for a slot."""

    id: str
    pid: int
    kind: Literal["shared", "process", "task"]
    actors: list[str]


class NodeInfo(Model):
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


class QueueInfo(Model):
    """A task queue. `waiting`: tasks' messages that no slot has taken; `slots`: how many take from it. `needs`: what all of its
    tasks ask for, if anything. `waits_for`: what there is not that it needs to be served, where something waits."""

    queue: str
    namespace: str
    waiting: int
    slots: int
    needs: Requirements | None = None
    waits_for: str = ""


class DedicatedQueueInfo(Model):
    """A task queue, as control knows it. `slots`: those that were placed for it alone, with their nodes. `waits_for`: what
    there is not that a slot for it needs, where none serves it."""

    name: str
    namespace: str
    needs: Requirements | None = None
    slots: dict[str, str] = Field(default_factory=dict)
    waits_for: str = ""


class Demand(Model):
    """What waits for a place, `count` times: of an actor, a placement group, or a slot for tasks. What a scaler adds nodes for:
    so what waits for room in a bundle is not among it. `resources`: of a group, of all its bundles."""

    kind: Literal["actor", "group", "task"]
    resources: dict[str, float]
    labels: dict[str, str] = Field(default_factory=dict)
    node: str | None = None
    count: int
