"""Placement in random worlds of nodes, actors, groups and tasks (property test)."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actorhub.control_api.commands import (
    Command,
    DeleteMailbox,
    DeleteTaskQueue,
    StartActor,
    StartSlot,
    StartWorker,
    StopSlot,
    StopWorker,
    TaskQueueReply,
)
from actorhub.control_api.events import (
    ActorStarted,
    Event,
    GroupRemoved,
    KillRequested,
    MailboxDeleted,
    QueueDepths,
    SlotEnded,
    TaskQueueUsed,
    Tick,
    WorkerLost,
    WorkerStopped,
)
from actorhub.control_api.info import GroupInfo
from actorhub.control_api.requirements import Bundle, Requirements
from tests.control.placement_console import TIMEOUT, PlacementConsole

AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0])
RESOURCES = st.fixed_dictionaries({"cpu": AMOUNTS}, optional={"gpu": AMOUNTS}).map(
    lambda resources: {name: amount for name, amount in resources.items() if amount}
)
BUNDLES = st.lists(RESOURCES.filter(bool), min_size=1, max_size=3)
STRATEGIES = st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 4), st.sampled_from([1.0, 2.0, 4.0]), st.sampled_from([0.0, 1.0])),
        st.tuples(st.just("leave"), st.integers(0, 4)),
        st.tuples(st.just("lose"), st.integers(0, 4)),
        st.tuples(st.just("deaf"), st.integers(0, 4)),
        st.tuples(st.just("worker"), st.integers(0, 4)),
        st.tuples(st.just("spawn"), RESOURCES, st.booleans()),
        st.tuples(st.just("inside"), st.integers(0, 9), st.integers(0, 2), RESOURCES),
        st.tuples(st.just("kill"), st.integers(0, 30)),
        st.tuples(st.just("group"), BUNDLES, STRATEGIES),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("tasks"), RESOURCES, st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("tasks_inside"), st.integers(0, 9), st.integers(0, 2), RESOURCES, st.integers(0, 5)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("time"), st.sampled_from([0.5, 5.0])),
    ),
    max_size=40,
)


Ordered = StartActor | DeleteMailbox | StartWorker | StopWorker | StartSlot | StopSlot | DeleteTaskQueue


class World(PlacementConsole):
    """Nodes, actors, groups and tasks that come and go. Every order is carried out at once, except on a deaf node: that starts
    no worker any more, and leaves, is lost or starts again."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: deque[Ordered] = deque()
        self.live: dict[str, dict[str, float]] = {}
        self.pids: dict[str, int] = {}
        self.deaf: set[str] = set()
        self.own: dict[str, dict[str, str]] = {}
        self.placed: dict[str, dict[str, str]] = {}
        self.tasks: dict[str, int] = {}
        self.count = 0

    def step(self, step: tuple[Any, ...]) -> None:
        getattr(self, f"do_{step[0]}")(*step[1:])
        while self.orders:
            self._obey(self.orders.popleft())

    def handle(self, event: Event) -> list[Command]:
        super().handle(event)
        self.orders.extend(order for order in self.last if isinstance(order, Ordered))
        return self.last

    def _obey(self, order: Ordered) -> None:
        match order:
            case StartActor():
                residency = order.residency
                self.handle(
                    ActorStarted(actor=residency.plan.actor_id, worker=order.worker, incarnation=residency.incarnation)
                )
            case DeleteMailbox():
                self.handle(MailboxDeleted(actor=order.plan.actor_id))
            case DeleteTaskQueue():
                self.tasks.pop(order.queue, None)
                self.handle(MailboxDeleted(actor=order.queue))
            case StartWorker() if order.node in self.live and order.node not in self.deaf:
                self.own[order.node][order.worker] = order.actor
                self._report(order.node)
            case StopWorker() if order.node in self.live:
                if self.own[order.node].pop(order.worker, None) is not None:
                    self.handle(WorkerStopped(node=order.node, worker=order.worker))
            case StartSlot() if order.node in self.live:
                self.placed[order.node][order.slot] = order.queue
                self._report(order.node)
            case StopSlot() if order.node in self.live:
                self.placed[order.node].pop(order.slot, None)
                self.handle(SlotEnded(node=order.node, slot=order.slot))
            case _:
                pass  # the node is gone

    def _report(self, node: str, **more: Any) -> None:
        given: dict[str, Any] = {"workers": 2, "own": self.own[node], "placed": tuple(self.placed[node]), **more}
        self.node(node, pid=self.pids[node], **given, **self.live[node])

    def do_join(self, number: int, cpu: float, gpu: float) -> None:
        node = f"n{number}"
        self.pids[node] = self.pids.get(node, 0) + 1
        self.live[node] = {"cpu": cpu} | ({"gpu": gpu} if gpu else {})
        self.own[node], self.placed[node] = {}, {}
        self.deaf.discard(node)
        self._report(node)

    def do_deaf(self, number: int) -> None:
        self.deaf.add(f"n{number}")

    def do_leave(self, number: int) -> None:
        node = f"n{number}"
        if node in self.live:
            self._report(node, leaving=True)
            self.own[node], self.placed[node] = {}, {}
            self._report(node, workers=0, leaving=True)
            del self.live[node]

    def do_lose(self, number: int) -> None:
        self.live.pop(f"n{number}", None)
        self.now += TIMEOUT + 1
        for node in self.live:
            self._report(node)
        self.handle(Tick())

    def do_worker(self, number: int) -> None:
        node = f"n{number}"
        if node in self.live:
            self.handle(WorkerLost(node=node, worker=f"{node}-0-{self.pids[node]}", cause="killed"))
            self._report(node)

    def do_tasks(self, resources: dict[str, float], count: int, priority: int) -> None:
        self._submit(Requirements(resources=resources or {"cpu": 1}), count, priority)

    def do_tasks_inside(self, group: int, index: int, resources: dict[str, float], count: int) -> None:
        self._submit(Requirements(resources=resources, bundle=Bundle(group=f"g{group}", index=index)), count, 0)

    def _submit(self, needs: Requirements, count: int, priority: int) -> None:
        queue = f"q{needs.suffix}"
        self.handle(TaskQueueUsed(queue=queue, namespace="default", needs=needs, priority=priority))
        if self.of(TaskQueueReply)[0].error is None:
            self.tasks[queue] = self.tasks.get(queue, 0) + count
            self.report_depths()

    def report_depths(self) -> None:
        if self.state.would_act_on(self.tasks):
            self.handle(QueueDepths(waiting=dict(self.tasks)))

    def do_finish(self, number: int) -> None:
        """Finish the tasks of one queue, and end its slots."""
        for queue in list(self.tasks)[number : number + 1]:
            self.tasks[queue] = 0
            self.report_depths()
            for node, slots in self.placed.items():
                for slot in [slot for slot, of in slots.items() if of == queue]:
                    del slots[slot]
                    self.handle(SlotEnded(node=node, slot=slot))

    def do_time(self, seconds: float) -> None:
        self.now += seconds
        for node in self.live:
            self._report(node)
        self.report_depths()
        self.handle(Tick())

    def do_spawn(self, resources: dict[str, float], standby: bool) -> None:
        self.count += 1
        backed = standby and "gpu" not in resources
        options: dict[str, Any] = {"durable": True, "standby": True} if backed else {"max_restarts": 1000}
        self.spawn(f"a{self.count}", resources=resources, options=options)

    def do_inside(self, group: int, index: int, resources: dict[str, float]) -> None:
        self.count += 1
        bundle = Bundle(group=f"g{group}", index=index)
        self.spawn(f"a{self.count}", bundle=bundle, resources=resources, options={"max_restarts": 1000})

    def do_kill(self, number: int) -> None:
        self.handle(KillRequested(actor=f"a{number}", cause="killed"))

    def do_group(self, bundles: list[dict[str, float]], strategy: str) -> None:
        taken = {info.id for info in self.state.groups()}
        free = next((f"g{number}" for number in range(10) if f"g{number}" not in taken), None)
        if free is not None:
            self.group(free, bundles, strategy)

    def do_remove(self, number: int) -> None:
        self.handle(GroupRemoved(group=f"g{number}", cause="removed"))

    def settle(self) -> None:
        """Start deaf nodes again, and add large nodes, so that everything can be placed."""
        for node in sorted(self.deaf & self.live.keys()):
            self.step(("join", int(node[1:]), 4.0, 1.0))
        for number in range(5, 13):
            self.step(("join", number, 400.0, 100.0))
        for _ in range(10):
            self.step(("time", 0.5))
            for queue in self.state.task_queues():
                if queue.needs.bundle is not None and queue.slots:  # a bundle may have no room for more
                    self.tasks[queue.name] = 0
        self.step(("time", 0.5))


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None)
@given(STEPS)
@example([("group", [{"gpu": 0.5}], "PACK"), ("tasks_inside", 0, 0, {"gpu": 0.5}, 5)])
def test_no_resource_is_ever_reserved_twice_and_everything_that_waits_is_placed_in_the_end(
    steps: list[tuple[Any, ...]],
) -> None:
    world = World()
    for step in steps:
        world.step(step)
    world.settle()
    waiting = [info for info in world.state.actors() if info.state not in ("running", "dead")]
    assert not waiting
    assert all(isinstance(group, GroupInfo) and group.is_ready for group in world.state.groups())
    assert not world.state._pending.items()
    for queue in world.state.task_queues():
        assert queue.slots or not world.tasks[queue.name], "a queue with waiting tasks has no slot"
    for queue in world.state._tables.task_queues.all():
        for slot in queue.slots.values():
            assert slot.id in world.placed[slot.node or ""]
    for group in world.state._tables.groups.all():
        for actor in world.state._tables.directory.owned_by(f"group:{group.id}"):
            assert actor.plan.bundle is not None
            assert actor.node == group.nodes[actor.plan.bundle.index]
