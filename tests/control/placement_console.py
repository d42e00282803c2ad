"""A state of control under test, which is checked after each event: nothing is reserved twice."""

from __future__ import annotations

from typing import Any

from actorhub.actors.spec import ActorOptions
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Command,
    GroupReply,
    SpawnReply,
    StartSlot,
    StopSlot,
    TaskQueueReply,
)
from actorhub.control_api.events import (
    Event,
    GroupRequested,
    NodeReport,
    QueueDepths,
    SlotEnded,
    SpawnRequested,
    TaskQueueUsed,
    Tick,
    WorkerReport,
)
from actorhub.control_api.info import ActorInfo
from actorhub.control_api.requirements import Bundle, Requirements
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec
from actorhub.core.resources import fits, plus

CLASS = "app:Actor"
TIMEOUT = 8.0


class PlacementConsole:
    """A control state and its last commands. `handle` checks reservations, and that a successor would know the same."""

    def __init__(self) -> None:
        self.state = ControlState(node_timeout=TIMEOUT)
        self.rows: dict[str, bytes] = {}
        self.now = 0.0
        self.last: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        self.last = self.state.handle(event, self.now)
        for key, body in self.state.changes().items():
            if body is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = body
        check_reservations(self.state)
        restored = ControlState.restored(self.rows, node_timeout=TIMEOUT, now=self.now)
        assert visible_state(restored) == visible_state(self.state)
        return self.last

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.last if isinstance(command, kind)]

    def node(
        self,
        node: str,
        *,
        workers: int = 1,
        own: dict[str, str] | None = None,
        placed: tuple[str, ...] = (),
        leaving: bool = False,
        pid: int = 1,
        run: str = "",
        **resources: float,
    ) -> None:
        """A node reports. `own`: the actors of its dedicated workers, by the workers' ids."""
        reports = [WorkerReport(id=f"{node}-{number}-{pid}", pid=1) for number in range(workers)]
        reports += [WorkerReport(id=worker, pid=1, dedicated_to=actor) for worker, actor in (own or {}).items()]
        self.handle(
            NodeReport(
                node=node,
                host="h",
                pid=pid,
                version="1",
                labels={"name": node},
                resources=resources,
                classes=[CLASS],
                workers=reports,
                slots=dict.fromkeys(placed, 1),
                placed=list(placed),
                known=True,
                leaving=leaving,
                run=run,
            )
        )

    def spawn(self, actor_id: str, *, bundle: Bundle | None = None, **fields: Any) -> SpawnReply:
        options = ActorOptions(**fields.pop("options", {}), resources=fields.pop("resources", {}))
        given: dict[str, Any] = {"namespace": "default", "class_name": CLASS, "owner": "s", **fields}
        self.handle(SpawnRequested(plan=SpawnSpec(actor_id=actor_id, options=options, bundle=bundle, **given)))
        return self.of(SpawnReply)[0]  # type: ignore[no-any-return]

    def group(
        self, group_id: str, bundles: list[dict[str, float]], strategy: Any = "PACK", **fields: Any
    ) -> GroupReply:
        get = fields.pop("get_if_exists", False)
        given: dict[str, Any] = {"namespace": "default", "owner": "s", **fields}
        plan = PlacementGroupSpec(group_id=group_id, bundles=bundles, strategy=strategy, **given)
        self.handle(GroupRequested(plan=plan, get_if_exists=get))
        return self.of(GroupReply)[0]  # type: ignore[no-any-return]

    def info(self, actor_id: str) -> ActorInfo:
        found = self.state.describe(actor_id)
        assert found is not None
        return found

    def nodes_of(self, group_id: str) -> list[str | None]:
        found = self.state.group(group_id)
        assert found is not None
        return [bundle.node for bundle in found.bundles]


def visible_state(state: ControlState) -> object:
    """Everything that a state tells of itself, in an order that does not depend on its history."""
    nodes = [node.model_dump() for node in sorted(state.nodes(), key=lambda node: node.id)]
    for node in nodes:
        for worker in node["workers"]:
            worker["actors"].sort()
    queues = sorted((queue.model_dump() for queue in state.task_queues()), key=lambda queue: str(queue["name"]))
    return list(state.actors()), list(state.groups()), nodes, queues


def check_reservations(state: ControlState) -> None:
    """No resource of a node or bundle is reserved twice, exactly what is placed is reserved, and strict strategies hold."""
    taken: dict[str, list[dict[str, int]]] = {}
    inside: dict[Bundle, list[dict[str, int]]] = {}
    for actor in state._tables.directory.all():
        places = [actor.node] if actor.standby is None else [actor.node, actor.standby.node]
        for node in places:
            if node is not None and actor.plan.bundle is None:
                taken.setdefault(node, []).append(dict(actor.request.units))
            elif node is not None and actor.plan.bundle is not None:
                inside.setdefault(actor.plan.bundle, []).append(dict(actor.request.units))
    for queue in state._tables.task_queues.all():
        for slot in queue.slots.values():
            assert slot.node is not None
            if slot.bundle is None:
                taken.setdefault(slot.node, []).append(dict(slot.request.units))
            else:
                inside.setdefault(slot.bundle, []).append(dict(slot.request.units))
    for group in state._tables.groups.all():
        for bundle, node in zip(group.bundles, group.nodes, strict=True):
            if node is not None:
                taken.setdefault(node, []).append(dict(bundle))
        strategy_holds(group.plan.strategy, [node for node in group.nodes if node is not None])
    for node_id, several in taken.items():
        node = state._tables.nodes.by_id[node_id]
        assert fits(plus(*several), node.total), f"{node_id} is reserved twice"
        assert dict(node.reserved) == plus(*several)
    for node in state._tables.nodes.by_id.values():
        assert node.id in taken or not node.reserved
    for bundle, several in inside.items():
        group = state._tables.groups.get(bundle.group)
        assert group is not None
        assert fits(plus(*several), group.bundles[bundle.index]), f"{bundle} is reserved twice"


def strategy_holds(strategy: str, nodes: list[str]) -> None:
    if strategy == "STRICT_PACK":
        assert len(set(nodes)) <= 1
    if strategy == "STRICT_SPREAD":
        assert len(set(nodes)) == len(nodes)


class QueueConsole(PlacementConsole):
    """The same with task queues."""

    def use(self, queue: str, needs: Requirements, priority: int = 0) -> str | None:
        self.handle(TaskQueueUsed(queue=queue, namespace="default", needs=needs, priority=priority))
        return self.of(TaskQueueReply)[0].error  # type: ignore[no-any-return]

    def wait(self, **waiting: int) -> list[StartSlot]:
        self.handle(QueueDepths(waiting=waiting))
        return self.of(StartSlot)

    def fill(self, queue: str, count: int = 100) -> list[StartSlot]:
        """Let tasks wait until the queue gets no more slots. Returns the slots that it got."""
        found = list[StartSlot]()
        while more := self.wait(**{queue: count}):
            found += more
        return found

    def later(self, seconds: float) -> list[StopSlot]:
        self.now += seconds
        self.handle(Tick())
        return self.of(StopSlot)

    def end(self, *slots: StopSlot | StartSlot) -> list[StartSlot]:
        started = []
        for slot in slots:
            self.handle(SlotEnded(node=slot.node, slot=slot.slot))
            started += self.of(StartSlot)
        return started


def cpu(amount: float) -> Requirements:
    return Requirements(resources={"cpu": amount})
