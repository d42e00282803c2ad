"""Directory of actors, living and dead: by id, name, worker and owner. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from actorhub.control.placement import PlacementRequest
from actorhub.control_api.info import ActorInfo, State
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec

MAX_DEAD_ACTORS = 10_000
"""Dead actors that are kept with their cause of death; the oldest are forgotten first."""


@dataclass(frozen=True)
class StandbyWorker:
    """The worker that takes an actor over when the one that hosts it is lost."""

    node: str
    worker: str
    incarnation: int
    """The incarnation that the actor has there."""
    is_ready: bool = False
    """True once the worker has reported that its instance waits for messages."""


@dataclass(eq=False)
class ActorEntry:
    """One actor: its plan, where it is, and its past."""

    plan: SpawnSpec
    number: int = 0
    """Position among all actors and groups, in the order of their creation."""
    state: State = "pending"
    worker: str | None = None
    """The worker that hosts it or is to start it; None while it waits for one, and when it is dead."""
    node: str | None = None
    """The node of `worker`."""
    incarnation: int = 0
    """The start that counts: reports about any other are ignored."""
    starts: int = 0
    """Starts ordered so far, those on standby workers included."""
    standby: StandbyWorker | None = None
    restarts: int = 0
    """Restarts after failures; moves from a draining worker do not count."""
    restart_times: list[float] = field(default_factory=list)
    """When it was restarted, by control's clock; only those within `restart_window` seconds are kept."""
    last_error: str | None = None
    """Cause of its last restart, or of its death."""
    died_at_birth: bool = False
    """True if its constructor raised."""
    kills: dict[str, int] = field(default_factory=dict)
    """Worker processes that died while they ran a call, by the call's id."""
    pending_number: int | None = None
    """Position among pending placements; None unless it waits for a worker."""
    cleaner: str | None = None
    """The worker that deletes its mailbox once it is dead."""
    is_mailbox_deleted: bool = False

    def __post_init__(self) -> None:
        self.request = PlacementRequest.for_actor(self.plan)

    @property
    def id(self) -> str:
        return self.plan.actor_id

    @property
    def bundle(self) -> Bundle | None:
        return self.plan.bundle

    @property
    def pending_key(self) -> str:
        """Key among pending placements."""
        return self.plan.actor_id

    @property
    def label(self) -> str:
        """Class and name, or id, for messages to people."""
        return f"{self.plan.class_name} {self.plan.name or self.id}"

    def is_at(self, worker: str, incarnation: int) -> bool:
        """True if the worker hosts this incarnation, or is its standby."""
        if (self.worker, self.incarnation) == (worker, incarnation):
            return True
        standby = self.standby
        return standby is not None and (standby.worker, standby.incarnation) == (worker, incarnation)

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
    """Index of all actors. No lookup that a decision needs scans all of them.

    Code that changes an entry without a method of this class must call `mark_changed`.
    """

    def __init__(self) -> None:
        self.changed_plans: dict[str, None] = {}
        """Ids of actors whose plan has changed since it was last persisted, in order."""
        self.changed_actors: dict[str, None] = {}
        """Ids of actors of which anything but the plan has changed since it was last persisted, in order."""
        self._actors: dict[str, ActorEntry] = {}
        self._by_name: dict[tuple[str, str], ActorEntry] = {}
        self._by_worker: dict[str, dict[str, ActorEntry]] = {}
        self._by_standby: dict[str, dict[str, ActorEntry]] = {}
        self._by_owner: dict[str, dict[str, ActorEntry]] = {}
        self._without_standby: OrderedDict[str, ActorEntry] = OrderedDict()
        self._cleaned_up: OrderedDict[str, None] = OrderedDict()
        self._last_number = 0

    def get(self, actor_id: str) -> ActorEntry | None:
        return self._actors.get(actor_id)

    def get_living(self, actor_id: str) -> ActorEntry | None:
        found = self._actors.get(actor_id)
        return found if found is not None and found.state != "dead" else None

    def find(self, namespace: str, name: str) -> ActorEntry | None:
        """The living actor with this name."""
        return self._by_name.get((namespace, name))

    def all(self) -> Iterable[ActorEntry]:
        """Living and dead actors, in the order of their creation."""
        return self._actors.values()

    def hosted_by(self, worker: str) -> list[ActorEntry]:
        return list(self._by_worker.get(worker, {}).values())

    def with_standby_on(self, worker: str) -> list[ActorEntry]:
        """Actors whose standby is this worker."""
        return list(self._by_standby.get(worker, {}).values())

    def load_of(self, worker: str) -> int:
        """Number of actors that the worker hosts or is the standby of."""
        return len(self._by_worker.get(worker, ())) + len(self._by_standby.get(worker, ()))

    def without_standby(self) -> list[ActorEntry]:
        """Actors on a worker that want a standby and have none."""
        return list(self._without_standby.values())

    def owned_by(self, owner: str) -> list[ActorEntry]:
        """Living actors that end with `owner`."""
        return list(self._by_owner.get(owner, {}).values())

    def owners(self) -> list[str]:
        """Owners of living actors: ids of sessions, `actor:{id}` and `group:{id}`."""
        return list(self._by_owner)

    def dead_parent(self, plan: SpawnSpec | PlacementGroupSpec) -> str | None:
        """The id of the actor with which a new actor or group would end, if it is dead; else None."""
        parent = plan.owner.removeprefix("actor:")
        is_owned = plan.lifetime == "session" and parent != plan.owner
        return parent if is_owned and self.get_living(parent) is None else None

    # ---- changes

    def mark_changed(self, actor: ActorEntry) -> None:
        self.changed_actors[actor.id] = None

    def add(self, plan: SpawnSpec) -> ActorEntry:
        """Add a new, pending actor, whose name must be free."""
        actor = ActorEntry(plan, number=self.next_number())
        self.changed_plans[actor.id] = None
        self._index(actor)
        self.set_pending(actor)
        return actor

    def set_pending(self, actor: ActorEntry) -> None:
        """Take the actor from its worker, and give it the last position among pending placements."""
        self.unassign(actor)
        actor.pending_number = self.next_number()

    def assign(self, actor: ActorEntry, node: str, worker: str) -> None:
        """Give the actor to a worker, which hosts it or is to start it."""
        self.unassign(actor)
        actor.node, actor.worker = node, worker
        self._by_worker.setdefault(worker, {})[actor.id] = actor
        self._index_standby_wanted(actor)

    def unassign(self, actor: ActorEntry) -> None:
        """Take the actor from its worker, or from the pending placements."""
        self.mark_changed(actor)
        if actor.worker is not None:
            _drop(self._by_worker, actor.worker, actor.id)
        actor.node = actor.worker = actor.pending_number = None
        self._index_standby_wanted(actor)

    def set_standby(self, actor: ActorEntry, standby: StandbyWorker | None) -> None:
        """Set the actor's standby, or remove it."""
        self.mark_changed(actor)
        if actor.standby is not None:
            _drop(self._by_standby, actor.standby.worker, actor.id)
        actor.standby = standby
        if standby is not None:
            self._by_standby.setdefault(standby.worker, {})[actor.id] = actor
        self._index_standby_wanted(actor)

    def set_dead(self, actor: ActorEntry) -> None:
        """Mark the actor dead, and free its name."""
        plan = actor.plan
        self.unassign(actor)
        actor.state = "dead"
        if plan.name is not None and self._by_name.get((plan.namespace, plan.name)) is actor:
            del self._by_name[plan.namespace, plan.name]
        for owner in _owners(plan):
            _drop(self._by_owner, owner, plan.actor_id)

    def set_mailbox_deleted(self, actor: ActorEntry) -> None:
        """Note that a dead actor's mailbox is gone. Keeps an outline of its plan, and forgets the oldest dead actor if there
        are more than `MAX_DEAD_ACTORS`."""
        actor.is_mailbox_deleted, actor.cleaner = True, None
        actor.plan = actor.plan.outline
        self.changed_plans[actor.id] = self.changed_actors[actor.id] = None
        self._cleaned_up[actor.id] = None
        if len(self._cleaned_up) > MAX_DEAD_ACTORS:
            forgotten, _ = self._cleaned_up.popitem(last=False)
            self.changed_plans[forgotten] = self.changed_actors[forgotten] = None
            del self._actors[forgotten]

    def restore(self, actors: Iterable[ActorEntry]) -> None:
        """Fill an empty directory with persisted actors."""
        ordered = sorted(actors, key=lambda actor: actor.number)
        for actor in ordered:
            self._index(actor)
            if actor.worker is not None:
                self._by_worker.setdefault(actor.worker, {})[actor.id] = actor
            if actor.standby is not None:
                self._by_standby.setdefault(actor.standby.worker, {})[actor.id] = actor
            self._index_standby_wanted(actor)
            if actor.is_mailbox_deleted:
                self._cleaned_up[actor.id] = None
        self._last_number = max((max(actor.number, actor.pending_number or 0) for actor in ordered), default=0)

    def next_number(self, above: int = 0) -> int:
        """The next number of the one sequence that orders actors, groups and pending placements."""
        self._last_number = max(self._last_number, above) + 1
        return self._last_number

    def _index(self, actor: ActorEntry) -> None:
        plan = actor.plan
        self._actors[plan.actor_id] = actor
        if actor.state == "dead":
            return
        if plan.name is not None:
            self._by_name[plan.namespace, plan.name] = actor
        for owner in _owners(plan):
            self._by_owner.setdefault(owner, {})[plan.actor_id] = actor

    def _index_standby_wanted(self, actor: ActorEntry) -> None:
        if actor.plan.options.standby and actor.worker is not None and actor.standby is None:
            self._without_standby[actor.id] = actor
        else:
            self._without_standby.pop(actor.id, None)


def _owners(plan: SpawnSpec) -> list[str]:
    """Owners with which the actor ends."""
    owners = [plan.owner] if plan.lifetime == "session" else []
    return owners if plan.bundle is None else [*owners, f"group:{plan.bundle.group}"]


def _drop(index: dict[str, dict[str, ActorEntry]], key: str, actor_id: str) -> None:
    entries = index.get(key)
    if entries is not None:
        entries.pop(actor_id, None)
        if not entries:
            del index[key]
