"""The actors that control knows: by id, by name, by worker and by owner. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.messages import ActorInfo, ActorPlan, State

TOMBSTONES = 10_000  # dead actors that are remembered, with the cause


@dataclass(eq=False)
class Actor:
    """An actor, where it is, and which of its calls have killed workers, how often."""

    plan: ActorPlan
    state: State = "pending"
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    restarts: int = 0
    restarted: list[float] = field(default_factory=list)  # when, by control's clock
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.plan.actor_id

    @property
    def info(self) -> ActorInfo:
        plan = self.plan
        return ActorInfo(
            id=plan.actor_id,
            name=plan.name,
            namespace=plan.namespace,
            class_name=plan.class_name,
            state=self.state,
            node=self.node,
            worker=self.worker,
            restarts=self.restarts,
            last_error=self.last_error,
            died_at_birth=self.died_at_birth,
            durable=plan.options.durable,
        )


class Directory:
    """Every question that control's decisions ask is answered without a look at all actors."""

    def __init__(self) -> None:
        self._actors: dict[str, Actor] = {}
        self._names: dict[tuple[str, str], Actor] = {}
        self._hosted: dict[str, dict[str, Actor]] = {}
        self._owned: dict[str, dict[str, Actor]] = {}
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    def get(self, actor_id: str) -> Actor | None:
        return self._actors.get(actor_id)

    def living(self, actor_id: str) -> Actor | None:
        found = self._actors.get(actor_id)
        return found if found is not None and found.state != "dead" else None

    def find(self, namespace: str, name: str) -> Actor | None:
        """The living actor that has the name."""
        return self._names.get((namespace, name))

    def all(self) -> Iterable[Actor]:
        """Living and dead ones, in the order of their making."""
        return self._actors.values()

    def hosted_by(self, worker: str) -> list[Actor]:
        return list(self._hosted.get(worker, {}).values())

    def owned_by(self, owner: str) -> list[Actor]:
        """Living actors that end with `owner`."""
        return list(self._owned.get(owner, {}).values())

    def owners(self) -> list[str]:
        """Who owns living actors: ids of sessions, and `actor:{id}`."""
        return list(self._owned)

    def add(self, actor: Actor) -> None:
        """A living actor. A name that is taken stays with the one that has it."""
        plan = actor.plan
        self._actors[plan.actor_id] = actor
        if plan.name is not None:
            self._names.setdefault((plan.namespace, plan.name), actor)
        if plan.lifetime == "session":
            self._owned.setdefault(plan.owner, {})[plan.actor_id] = actor

    def settle(self, actor: Actor, node: str, worker: str) -> None:
        """It lives there from now on, or is on its way there."""
        self.leave(actor)
        actor.node, actor.worker = node, worker
        self._hosted.setdefault(worker, {})[actor.id] = actor

    def leave(self, actor: Actor) -> None:
        """It is no longer where it was."""
        if actor.worker is not None:
            _drop(self._hosted, actor.worker, actor.id)
        actor.node = actor.worker = None

    def end(self, actor: Actor) -> None:
        """It is dead: its name is free, and its owner is rid of it."""
        plan = actor.plan
        self.leave(actor)
        if plan.name is not None and self._names.get((plan.namespace, plan.name)) is actor:
            del self._names[plan.namespace, plan.name]
        _drop(self._owned, plan.owner, plan.actor_id)

    def entomb(self, actor: Actor) -> None:
        """Nothing is left of it but what is said of it here; the oldest dead are forgotten."""
        self._tombstones[actor.id] = None
        if len(self._tombstones) > TOMBSTONES:
            forgotten, _ = self._tombstones.popitem(last=False)
            del self._actors[forgotten]


def _drop(index: dict[str, dict[str, Actor]], key: str, actor_id: str) -> None:
    entries = index.get(key)
    if entries is not None:
        entries.pop(actor_id, None)
        if not entries:
            del index[key]
