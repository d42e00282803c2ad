"""The actors that control knows: by id, by name, by worker and by owner. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.placement import PlacementRequest
from actorhub.control_api.info import ActorInfo, State
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.specs import SpawnSpec

TOMBSTONES = 10_000  # dead actors that are remembered, with the cause


@dataclass(frozen=True)
class StandbyWorker:
    """Where somebody stands by to go on with an actor, as which incarnation, and whether that worker has said so."""

    node: str
    worker: str
    incarnation: int
    is_ready: bool = False


@dataclass(eq=False)
class ActorEntry:
    """An actor, where it is, and which of its calls have killed workers, how often. `number` counts all actors; `starts` its
    own, of which `incarnation` is the one that counts; `waits`: its place among those that wait for a worker; `cleaner`: the
    worker that buries it."""

    plan: SpawnSpec
    number: int = 0
    state: State = "pending"
    worker: str | None = None
    node: str | None = None
    incarnation: int = 0
    starts: int = 0
    standby: StandbyWorker | None = None
    restarts: int = 0
    restarted: list[float] = field(default_factory=list)  # when, by control's clock
    last_error: str | None = None
    died_at_birth: bool = False
    kills: dict[str, int] = field(default_factory=dict)
    waits: int | None = None
    cleaner: str | None = None
    is_buried: bool = False

    def __post_init__(self) -> None:
        self.ask = PlacementRequest.of(self.plan)

    @property
    def id(self) -> str:
        return self.plan.actor_id

    @property
    def bundle(self) -> Bundle | None:
        return self.plan.bundle

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.plan.class_name} {self.plan.name or self.id}"

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
            standby=self.standby.worker if self.standby is not None else None,
            restarts=self.restarts,
            last_error=self.last_error,
            died_at_birth=self.died_at_birth,
            durable=plan.options.durable,
        )


class ActorDirectory:
    """Every question that control's decisions ask is answered without a look at all actors.

    Whoever changes an actor says so by `touch`, if no method here does: `plans` and `lives` are the ids of those whose plan,
    and of those of whom anything else, has changed since somebody took that down.
    """

    def __init__(self) -> None:
        self.plans: dict[str, None] = {}
        self.lives: dict[str, None] = {}
        self._actors: dict[str, ActorEntry] = {}
        self._names: dict[tuple[str, str], ActorEntry] = {}
        self._hosted: dict[str, dict[str, ActorEntry]] = {}
        self._backed: dict[str, dict[str, ActorEntry]] = {}
        self._alone: OrderedDict[str, ActorEntry] = OrderedDict()
        self._owned: dict[str, dict[str, ActorEntry]] = {}
        self._tombstones: OrderedDict[str, None] = OrderedDict()
        self._counted = 0

    def get(self, actor_id: str) -> ActorEntry | None:
        return self._actors.get(actor_id)

    def living(self, actor_id: str) -> ActorEntry | None:
        found = self._actors.get(actor_id)
        return found if found is not None and found.state != "dead" else None

    def find(self, namespace: str, name: str) -> ActorEntry | None:
        """The living actor that has the name."""
        return self._names.get((namespace, name))

    def all(self) -> Iterable[ActorEntry]:
        """Living and dead ones, in the order of their making."""
        return self._actors.values()

    def hosted_by(self, worker: str) -> list[ActorEntry]:
        return list(self._hosted.get(worker, {}).values())

    def backed_by(self, worker: str) -> list[ActorEntry]:
        """Those for which the worker stands by."""
        return list(self._backed.get(worker, {}).values())

    def load_of(self, worker: str) -> int:
        """How many actors live there or have it stand by."""
        return len(self._hosted.get(worker, ())) + len(self._backed.get(worker, ()))

    def alone(self) -> list[ActorEntry]:
        """Those that live somewhere, and want somebody to stand by."""
        return list(self._alone.values())

    def owned_by(self, owner: str) -> list[ActorEntry]:
        """Living actors that end with `owner`."""
        return list(self._owned.get(owner, {}).values())

    def owners(self) -> list[str]:
        """Who owns living actors: ids of sessions, `actor:{id}` and `group:{id}`."""
        return list(self._owned)

    # ---- changes

    def touch(self, actor: ActorEntry) -> None:
        self.lives[actor.id] = None

    def add(self, plan: SpawnSpec) -> ActorEntry:
        """A new actor, whose name nobody has. It waits."""
        actor = ActorEntry(plan, number=self.count())
        self.plans[actor.id] = None
        self._index(actor)
        self.wait(actor)
        return actor

    def wait(self, actor: ActorEntry) -> None:
        """It is nowhere, and waits for a worker."""
        self.leave(actor)
        actor.waits = self.count()

    def settle(self, actor: ActorEntry, node: str, worker: str) -> None:
        """It lives there from now on, or is on its way there."""
        self.leave(actor)
        actor.node, actor.worker = node, worker
        self._hosted.setdefault(worker, {})[actor.id] = actor
        self._note_alone(actor)

    def set_standby(self, actor: ActorEntry, spot: StandbyWorker | None) -> None:
        """There somebody stands by for it, or nobody does any more."""
        self.touch(actor)
        if actor.standby is not None:
            _drop(self._backed, actor.standby.worker, actor.id)
        actor.standby = spot
        if spot is not None:
            self._backed.setdefault(spot.worker, {})[actor.id] = actor
        self._note_alone(actor)

    def _note_alone(self, actor: ActorEntry) -> None:
        if actor.plan.options.standby and actor.worker is not None and actor.standby is None:
            self._alone[actor.id] = actor
        else:
            self._alone.pop(actor.id, None)

    def leave(self, actor: ActorEntry) -> None:
        """It is no longer where it was, and does not wait."""
        self.touch(actor)
        if actor.worker is not None:
            _drop(self._hosted, actor.worker, actor.id)
        actor.node = actor.worker = actor.waits = None
        self._note_alone(actor)

    def end(self, actor: ActorEntry) -> None:
        """It is dead: its name is free, and its owner is rid of it."""
        plan = actor.plan
        self.leave(actor)
        actor.state = "dead"
        if plan.name is not None and self._names.get((plan.namespace, plan.name)) is actor:
            del self._names[plan.namespace, plan.name]
        for owner in _owners(plan):
            _drop(self._owned, owner, plan.actor_id)

    def entomb(self, actor: ActorEntry) -> None:
        """Nothing is left of it but what is said of it here; the oldest dead are forgotten."""
        actor.is_buried, actor.cleaner = True, None
        actor.plan = actor.plan.outline
        self.plans[actor.id] = self.lives[actor.id] = None
        self._tombstones[actor.id] = None
        if len(self._tombstones) > TOMBSTONES:
            forgotten, _ = self._tombstones.popitem(last=False)
            self.plans[forgotten] = self.lives[forgotten] = None
            del self._actors[forgotten]

    def restore(self, actors: Iterable[ActorEntry]) -> None:
        """As another directory had them. Before any change."""
        there = sorted(actors, key=lambda actor: actor.number)
        for actor in there:
            self._index(actor)
            if actor.worker is not None:
                self._hosted.setdefault(actor.worker, {})[actor.id] = actor
            if actor.standby is not None:
                self._backed.setdefault(actor.standby.worker, {})[actor.id] = actor
            self._note_alone(actor)
            if actor.is_buried:
                self._tombstones[actor.id] = None
        self._counted = max((max(actor.number, actor.waits or 0) for actor in there), default=0)

    def _index(self, actor: ActorEntry) -> None:
        plan = actor.plan
        self._actors[plan.actor_id] = actor
        if actor.state == "dead":
            return
        if plan.name is not None:
            self._names[plan.namespace, plan.name] = actor
        for owner in _owners(plan):
            self._owned.setdefault(owner, {})[plan.actor_id] = actor

    def count(self, above: int = 0) -> int:
        """The next number of whatever is counted: of actors, of groups, of those that wait."""
        self._counted = max(self._counted, above) + 1
        return self._counted


def _owners(plan: SpawnSpec) -> list[str]:
    """Whose end is its end."""
    owners = [plan.owner] if plan.lifetime == "session" else []
    return owners if plan.bundle is None else [*owners, f"group:{plan.bundle.group}"]


def _drop(index: dict[str, dict[str, ActorEntry]], key: str, actor_id: str) -> None:
    entries = index.get(key)
    if entries is not None:
        entries.pop(actor_id, None)
        if not entries:
            del index[key]
