"""A state of control under test: events in, the commands of the last event out."""

from __future__ import annotations

from typing import Any

from actorhub.actors.spec import ActorOptions
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Command,
    SpawnReply,
    StartActor,
)
from actorhub.control_api.events import (
    ActorStarted,
    Event,
    NodeReport,
    SpawnRequested,
    WorkerReport,
)
from actorhub.control_api.specs import SpawnSpec

CLASS = "app:Actor"
TIMEOUT = 8.0


def spawn_spec(actor_id: str = "a", **overrides: Any) -> SpawnSpec:
    options = ActorOptions(**overrides.pop("options", {}))
    fields = {"owner": "session", "class_name": CLASS, "namespace": "default"} | overrides
    return SpawnSpec(actor_id=actor_id, options=options, **fields)


def node_report(node: str, *workers: str | WorkerReport, **fields: Any) -> NodeReport:
    reports = [worker if isinstance(worker, WorkerReport) else WorkerReport(id=worker, pid=1) for worker in workers]
    defaults: dict[str, Any] = {"host": "h", "pid": 1, "version": "1", "classes": [CLASS], "known": True}
    return NodeReport(node=node, workers=reports, **(defaults | fields))


def persist(rows: dict[str, bytes], state: ControlState) -> None:
    """Keep the changed rows, as a journal does."""
    for key, body in state.changes().items():
        if body is None:
            rows.pop(key, None)
        else:
            rows[key] = body


def successor(rows: dict[str, bytes], now: float) -> ControlState:
    return ControlState.restored(rows, node_timeout=TIMEOUT, now=now)


def known_to(state: ControlState) -> object:
    """Everything that decisions depend on, but for the times of the nodes' last reports."""
    cleanup, directory = state._cleanup._queue, state._tables.directory
    actors = list(directory.all())
    keys = [f"{kind}{actor.id}" for actor in actors for kind in ("plan.", "life.")]
    keys += [f"node.{node}" for node in sorted(state._tables.nodes.by_id)] + ["cluster"]
    return (
        {key: state.row(key) for key in keys},
        [actor.id for actor in actors],
        [item.id for item in state._pending.items()],
        sorted(actor.id for actor in cleanup._unassigned),
        sorted(cleanup._assigned),
        {owner: sorted(actor.id for actor in directory.owned_by(owner)) for owner in directory.owners()},
        {worker.id: worker.load for worker in state._tables.nodes.workers.values()},
        {node.id: dict(node.reserved) for node in state._tables.nodes.by_id.values()},
    )


class Console:
    """A control state, its clock, and its last commands. After each event a successor would know the same."""

    def __init__(self, *workers: str, node: str = "n1") -> None:
        self.state = ControlState(node_timeout=TIMEOUT)
        self.rows: dict[str, bytes] = {}
        self.now = 0.0
        self.last: list[Command] = []
        if workers:
            self.handle(node_report(node, *workers))

    def handle(self, event: Event) -> list[Command]:
        self.last = self.state.handle(event, self.now)
        persist(self.rows, self.state)
        assert known_to(successor(self.rows, self.now)) == known_to(self.state)
        return self.last

    def fail_over(self) -> None:
        self.state = successor(self.rows, self.now)

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.last if isinstance(command, kind)]

    def spawn(self, plan: SpawnSpec, **fields: Any) -> SpawnReply:
        self.handle(SpawnRequested(plan=plan, **fields))
        [reply] = self.of(SpawnReply)
        return reply  # type: ignore[no-any-return]

    def run(self, plan: SpawnSpec) -> StartActor:
        """Spawn an actor, and report that it has started."""
        self.spawn(plan)
        [order] = self.of(StartActor)
        incarnation = order.residency.incarnation
        self.handle(ActorStarted(actor=plan.actor_id, worker=order.worker, incarnation=incarnation))
        return order  # type: ignore[no-any-return]

    def info(self, actor_id: str = "a") -> Any:
        return self.state.describe(actor_id)
