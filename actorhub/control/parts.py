"""What of control's knowledge outlives it, in parts: of each actor its plan and its life, of each node what is known of it, and
what is known of the whole cluster. A part has a key, and is JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from actorhub.control.directory import Actor, Directory, Spot
from actorhub.control.fleet import Fleet
from actorhub.control.messages import ActorPlan, State
from actorhub.control.placement import Node, Worker

PLAN, LIFE, NODE = "plan.", "life.", "node."
CLUSTER = "cluster"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()


class Life(_Part):
    """An actor's, but for its plan. See `Actor`."""

    number: int
    state: State
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    starts: int = 0
    standby: Spot | None = None
    restarts: int = 0
    restarted: tuple[float, ...] = ()
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = {}
    waits: int | None = None
    digger: str | None = None
    is_buried: bool = False

    @classmethod
    def of(cls, actor: Actor) -> Self:
        return cls.model_validate({name: getattr(actor, name) for name in cls.model_fields})

    def actor(self, plan: ActorPlan) -> Actor:
        fields: dict[str, Any] = dict(self) | {"restarted": list(self.restarted), "kills": dict(self.kills)}
        return Actor(plan, **fields)


class Unit(_Part):
    """A node, but for what follows from the lives of its actors."""

    id: str
    host: str
    pid: int
    version: str
    labels: dict[str, str] = {}
    total: dict[str, float] = {}
    classes: tuple[str, ...] = ()
    leaving: bool = False
    store: str | None = None
    slots: dict[str, int] = {}
    workers: tuple[tuple[str, int, str | None], ...] = ()

    @classmethod
    def of(cls, node: Node) -> Self:
        fields = {name: getattr(node, name) for name in cls.model_fields}
        workers = [(worker.id, worker.pid, worker.dedicated_to) for worker in node.workers.values()]
        return cls.model_validate(fields | {"classes": sorted(node.classes), "workers": workers})

    def node(self, seen: float) -> Node:
        workers = {id_: Worker(id_, self.id, pid, dedicated_to) for id_, pid, dedicated_to in self.workers}
        fields: dict[str, Any] = dict(self) | {"classes": frozenset(self.classes), "workers": workers, "seen": seen}
        return Node(**fields)


class Cluster(_Part):
    """The task queues that anybody has used, and the namespaces that are prepared."""

    queues: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


def changed(directory: Directory, fleet: Fleet) -> list[str]:
    """The keys of all parts that have changed since they were taken down."""
    plans, lives, nodes = (PLAN, directory.plans), (LIFE, directory.lives), (NODE, fleet.touched)
    return [f"{prefix}{id_}" for prefix, ids in (plans, lives, nodes) for id_ in ids]


def encoded(key: str, directory: Directory, fleet: Fleet) -> bytes | None:
    """A part as it is now; None where there is none any more."""
    kind, id_ = key[: len(PLAN)], key[len(PLAN) :]
    if kind == NODE:
        node = fleet.nodes.get(id_)
        return Unit.of(node).encoded() if node is not None else None
    actor = directory.get(id_)
    if actor is None:
        return None
    return actor.plan.model_dump_json().encode() if kind == PLAN else Life.of(actor).encoded()


def restore(parts: Mapping[str, bytes], directory: Directory, fleet: Fleet, *, now: float) -> None:
    """Fill both as the parts say. Whoever is silent is so from now on."""
    plans = {
        key[len(PLAN) :]: ActorPlan.model_validate_json(body) for key, body in parts.items() if key.startswith(PLAN)
    }
    actors = [
        Life.model_validate_json(body).actor(plans[key[len(LIFE) :]])
        for key, body in parts.items()
        if key.startswith(LIFE)
    ]
    nodes = [Unit.model_validate_json(body).node(now) for key, body in parts.items() if key.startswith(NODE)]
    directory.restore(actors)
    fleet.restore(nodes, actors)
