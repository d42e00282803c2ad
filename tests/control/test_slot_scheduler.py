"""Dedicated slots, which control places for the tasks of one queue: their number, placement, preemption and end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from actorhub.broker import Link, QueueState
from actorhub.control import queue_monitor
from actorhub.control.slot_scheduler import PREEMPTION_CHECKS_PER_TICK, TURN_SECONDS, UNSEEN_SLOT_TIMEOUT_SECONDS
from actorhub.control.state import ControlState
from actorhub.control_api.commands import DeleteTaskQueue, MakeQueue, StartSlot, StopSlot, TaskQueueReply
from actorhub.control_api.events import (
    GroupRemoved,
    KillRequested,
    MailboxDeleted,
    QueueDepths,
    SlotEnded,
    TaskQueueUsed,
    Tick,
    WorkerStopped,
)
from actorhub.control_api.requirements import Bundle, Requirements
from actorhub.errors import BrokerUnavailable
from actorhub.node.gpus import VARIABLE, GpuAllocator
from tests.control.test_placement import TIMEOUT, Console
from tests.waiting import until


class Queues(Console):
    """Each queue is called by its first letter."""

    def use(self, queue: str, needs: Requirements, priority: int = 0) -> str | None:
        self.handle(TaskQueueUsed(queue=queue, namespace="default", needs=needs, priority=priority))
        return self.of(TaskQueueReply)[0].error  # type: ignore[no-any-return]

    def wait(self, **waiting: int) -> list[StartSlot]:
        self.handle(QueueDepths(waiting=waiting))
        return self.of(StartSlot)

    def fill(self, queue: str, count: int = 100) -> list[StartSlot]:
        """All the slots that it can get."""
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


def _cpu(amount: float) -> Requirements:
    return Requirements(resources={"cpu": amount})


def test_a_queue_gets_a_slot_and_then_as_many_again_while_tasks_wait() -> None:
    console = Queues()
    console.node("n1", cpu=16)
    assert console.use("q", _cpu(1)) is None
    assert console.of(MakeQueue)[0].queue == "q"
    assert not console.wait(q=0)
    assert [len(console.wait(q=100)) for _ in range(6)] == [1, 1, 2, 4, 8, 0]
    assert console.state.demand()[0].count == 16, "as many again wait for a place"
    assert not console.wait(q=0)
    assert not console.state.demand(), "nothing waits any more"
    assert not console.state.would_act_on({"q": 0})


def test_a_queue_gets_no_more_slots_than_tasks_wait_and_counts_those_on_their_way() -> None:
    console = Queues()
    console.node("n1", cpu=16)
    console.use("q", _cpu(1))
    assert len(console.fill("q", 3)) == 3
    assert not console.state.would_act_on({"q": 3})
    placed = tuple(f"{slot.slot}" for slot in console.fill("q", 5))
    assert len(placed) == 2
    console.node("n1", cpu=16, placed=placed)
    assert console.wait(q=5), "those are at work, and tasks wait all the same"


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (_cpu(17), "a task of q asks for resources {'cpu': 17.0}; the most that any node has: {'cpu': 16.0}"),
        (Requirements(node="n9"), "a task of q asks for node 'n9'; there are: n1"),
        (Requirements(labels={"zone": "x"}), "asks for labels"),
        (Requirements(bundle=Bundle(group="no", index=0)), "there is no placement group no"),
        (Requirements(bundle=Bundle(group="g", index=7)), "has bundles 0 to 0, and no 7"),
        (
            Requirements(resources={"gpu": 1}, bundle=Bundle(group="g", index=0)),
            "and bundle 0 of its group has {'cpu': 2.0}",
        ),
    ],
)
def test_infeasible_requirements_are_refused_and_no_queue_is_declared(needs: Requirements, words: str) -> None:
    console = Queues()
    console.node("n1", cpu=16)
    console.group("g", [{"cpu": 2}])
    assert words in (console.use("q", needs) or "")
    assert not console.of(MakeQueue)
    assert not list(console.state.task_queues())


def test_slots_are_preempted_for_an_actor_after_their_turn_and_their_resources_are_kept_for_it() -> None:
    console = Queues()
    console.node("n1", cpu=4)
    console.use("q", _cpu(1))
    assert len(console.fill("q")) == 4
    console.spawn("large", resources={"cpu": 3})
    assert not console.later(TURN_SECONDS / 2)
    leaving = console.later(TURN_SECONDS / 2)
    assert len(leaving) == 3
    assert not console.wait(q=100), "more slots come behind the actor"
    assert not console.end(*leaving[:2])
    assert console.info("large").node is None
    assert not console.end(leaving[2])
    assert console.info("large").node == "n1"


def test_slots_are_preempted_for_a_whole_group_or_not_at_all() -> None:
    console = Queues()
    for node in ("n1", "n2", "n3"):
        console.node(node, cpu=2)
    console.use("q", _cpu(2))
    assert len(console.fill("q")) == 3
    console.spawn("a", resources={"cpu": 1})
    console.group("g", [{"cpu": 2}, {"cpu": 2}], "STRICT_SPREAD")
    ended = 0
    for _ in range(3):
        leaving = console.later(TURN_SECONDS)
        assert not console.later(0.1), "those that leave will do"
        assert not console.end(*leaving)
        ended += len(leaving)
    assert ended == 3, "one for the actor, which has waited longer, and two for the group"
    assert console.info("a").node is not None
    assert None not in console.nodes_of("g")


def test_two_queues_take_turns() -> None:
    console = Queues()
    console.node("n1", cpu=1)
    console.use("a", _cpu(1))
    console.use("b", Requirements(resources={"cpu": 1}, prefer={"name": "n1"}))
    served = {"a": 0.0, "b": 0.0}
    [running] = console.wait(a=100, b=100)
    for _ in range(100):
        leaving = console.later(0.1)
        served[running.queue] += 0.1
        console.wait(a=100, b=100)
        for slot in leaving:
            [running] = console.end(slot)
    assert min(served.values()) > 0.4 * sum(served.values())


def test_a_higher_priority_has_its_slots_at_once_and_a_lower_one_waits() -> None:
    console = Queues()
    console.node("n1", cpu=1)
    console.use("low", _cpu(1), 1)
    [first] = console.wait(low=10)
    console.use("high", Requirements(resources={"cpu": 1}, prefer={"x": "y"}), 5)
    console.wait(low=10, high=10)
    [leaving] = console.later(0.1)
    assert leaving.slot == first.slot
    console.wait(low=10, high=10)
    [second] = console.end(leaving)
    assert second.queue == "high"
    assert not console.later(3 * TURN_SECONDS), "no slot makes way for a lower priority"
    console.wait(low=10, high=0)
    [third] = console.end(second)
    assert third.queue == "low"


def test_an_actor_for_which_slots_are_preempted_precedes_tasks_of_a_higher_priority() -> None:
    console = Queues()
    console.node("n1", cpu=2)
    console.use("q", _cpu(1), 9)
    assert len(console.fill("q")) == 2
    console.spawn("large", resources={"cpu": 2})
    for slot in console.later(TURN_SECONDS):
        console.wait(q=100)
        assert not console.end(slot), "it is kept for the actor"
    assert console.info("large").node == "n1"


def test_placements_that_preemption_cannot_help_hide_no_others() -> None:
    console = Queues()
    console.node("n1", cpu=1, disk=1)
    console.spawn("holds", resources={"disk": 1})
    for number in range(2 * PREEMPTION_CHECKS_PER_TICK):
        console.spawn(f"a{number}", resources={"disk": 1}, prefer={"x": str(number)})
    console.use("a", _cpu(1))
    console.use("b", Requirements(resources={"cpu": 1}, prefer={"x": "y"}))
    [first] = console.wait(a=9, b=9)
    console.now += TURN_SECONDS
    assert [stop.slot for _ in range(3) for stop in console.later(0.1)] == [first.slot]


def test_waiting_tasks_have_the_present_priority_of_their_queue() -> None:
    console = Queues()
    console.node("n1", cpu=1)
    console.spawn("a", resources={"cpu": 1})
    console.use("early", _cpu(1))
    console.use("late", Requirements(resources={"cpu": 1}, prefer={"x": "y"}))
    console.wait(early=1, late=1)
    console.use("late", Requirements(resources={"cpu": 1}, prefer={"x": "y"}), 5)
    console.wait(early=1, late=1)
    console.handle(KillRequested(actor="a", cause="c"))
    assert [slot.queue for slot in console.of(StartSlot)] == ["late"]


def test_tasks_of_a_bundle_use_only_its_reservation() -> None:
    console = Queues()
    console.node("n1", cpu=8)
    console.group("g", [{"cpu": 2}])
    console.use("q", Requirements(bundle=Bundle(group="g", index=0)))
    assert len(console.fill("q")) == 2
    console.spawn("a", bundle=Bundle(group="g", index=0), resources={"cpu": 1})
    [leaving] = console.later(TURN_SECONDS)
    assert not console.end(leaving)
    assert console.info("a").node == "n1"


def test_when_a_group_is_removed_its_tasks_end_and_their_queue_is_deleted() -> None:
    console = Queues()
    console.node("n1", workers=2, cpu=8)
    console.group("g", [{"cpu": 2}])
    needs = Requirements(bundle=Bundle(group="g", index=0))
    console.use("q", needs)
    console.fill("q")
    console.handle(GroupRemoved(group="g", cause="it was removed"))
    assert [(slot.node, slot.now) for slot in console.of(StopSlot)] == [("n1", True)] * 2
    [bury] = console.of(DeleteTaskQueue)
    assert (bury.queue, bury.cause) == ("q", "it was removed")
    assert console.use("q", needs) == "it was removed"
    console.state = ControlState.restored(console.parts, node_timeout=TIMEOUT, now=console.now)
    console.node("n1", pid=2, cpu=8)
    assert console.of(DeleteTaskQueue)[0].worker != bury.worker, "its digger is gone, and another one digs"
    console.handle(MailboxDeleted(actor="q"))
    assert "there is no placement group g" in (console.use("q", needs) or "")


def test_a_slot_that_its_node_does_not_report_counts_as_ended() -> None:
    console = Queues()
    console.node("n1", cpu=1)
    console.use("q", _cpu(1))
    [slot] = console.wait(q=1)
    console.node("n1", cpu=1)
    assert console.state.nodes()[0].resources_free == {"cpu": 0.0}, "it may be on its way"
    console.node("n1", cpu=1, placed=(slot.slot,))
    console.node("n1", cpu=1)
    assert console.state.nodes()[0].resources_free == {"cpu": 1.0}
    [slot] = console.wait(q=1)
    console.now += UNSEEN_SLOT_TIMEOUT_SECONDS + 1
    console.node("n1", cpu=1)
    assert console.state.nodes()[0].resources_free == {"cpu": 1.0}
    console.node("n1", cpu=1, placed=("unknown",))
    assert [stop.slot for stop in console.of(StopSlot)] == ["unknown"]


def test_slots_of_a_lost_node_are_placed_elsewhere() -> None:
    console = Queues()
    console.node("n1", cpu=2)
    console.use("q", _cpu(2))
    [slot] = console.wait(q=9)
    assert slot.node == "n1"
    console.node("n2", cpu=2)
    console.now = TIMEOUT + 1
    console.node("n2", cpu=2)
    console.handle(Tick())
    [slot] = console.wait(q=9)
    assert slot.node == "n2"


@pytest.mark.parametrize("worker_first", [False, True])
def test_slots_of_a_drained_node_are_placed_elsewhere(worker_first: bool) -> None:
    """Slots that are not ready yet when it leaves are never named."""
    console = Queues()
    console.node("n1", cpu=2)
    console.use("q", _cpu(2))
    [slot] = console.wait(q=1)
    console.node("n2", cpu=2)
    console.node("n1", cpu=2, leaving=True)
    assert not console.wait(q=1)
    if worker_first:
        console.handle(WorkerStopped(node="n1", worker="n1-0-1"))
    else:
        console.node("n1", workers=0, cpu=2, leaving=True)
    assert [node.id for node in console.state.nodes()] == ["n2"]
    [slot] = console.wait(q=1)
    assert slot.node == "n2"


def test_a_killed_actor_s_resources_go_to_tasks() -> None:
    console = Queues()
    console.node("n1", cpu=1)
    console.spawn("a", resources={"cpu": 1})
    console.use("q", _cpu(1))
    assert not console.wait(q=9)
    [queue] = console.state.task_queues()
    assert queue.waits_for.startswith("it asks for resources {'cpu': 1.0}, and free are")
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.of(StartSlot)


class Counted:
    """A link that says how many messages wait."""

    lost = None

    def __init__(self, **waiting: int) -> None:
        self.waiting = waiting
        self.looks = 0

    async def state(self, queue: str) -> QueueState | None:
        self.looks += 1
        if queue == "unreachable":
            raise BrokerUnavailable("its broker node is down")
        return QueueState(self.waiting[queue], 0) if queue in self.waiting else None


async def test_a_queue_without_slots_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_monitor, "UNSERVED_WARNING_SECONDS", 0.0)
    monkeypatch.setattr(queue_monitor, "POLL_INTERVAL_SECONDS", 0.001)
    console = Queues()
    console.node("n1", cpu=2)
    console.use("a", _cpu(2))
    console.use("b", Requirements(resources={"cpu": 2}, prefer={"x": "y"}))
    told = list[dict[str, int]]()

    async def tell(waiting: dict[str, int]) -> None:
        told.append(waiting)
        console.handle(QueueDepths(waiting=waiting))

    console.use("unreachable", Requirements(resources={"cpu": 2}, prefer={"x": "z"}))
    link = Counted(a=1, b=1)
    looking = asyncio.create_task(queue_monitor.QueueDepthMonitor(cast(Link, link), console.state, tell).run())
    await until(lambda: "no slot serves" in caplog.text)
    enough = link.looks + 20
    await until(lambda: link.looks >= enough)
    looking.cancel()
    [said] = [record.getMessage() for record in caplog.records if "no slot serves" in record.getMessage()]
    assert said.startswith("tasks wait in b, but no slot serves them: it asks for resources {'cpu': 2.0}, and free are")
    assert told, "control hears what waits"


# ---- which GPUs


def _all_of(devices: GpuAllocator, **amounts: float) -> dict[str, str]:
    return {holder: devices.take(holder, amount).get(VARIABLE, "") for holder, amount in amounts.items()}


def test_whole_gpus_are_given_once_and_parts_share_as_few_as_can_be() -> None:
    devices = GpuAllocator(4, {})
    taken = _all_of(devices, a=0.5, b=0.25, c=1, d=2)
    assert taken["a"] == taken["b"]
    assert len({taken["a"], taken["c"], *taken["d"].split(",")}) == 4
    devices.give_back("d")
    assert _all_of(devices, e=0.5)["e"] not in (taken["a"], taken["c"])
    assert not devices.take("f", 0)


@pytest.mark.parametrize(
    ("amount", "environment", "names"),
    [
        (2, {}, ["0", "1"]),
        (2, {VARIABLE: "3,5"}, ["3", "5"]),
        (1, {VARIABLE: "GPU-a1,GPU-b2"}, ["GPU-a1"]),
        (3, {VARIABLE: "1"}, ["1", "0", "2"]),
        (0.5, {}, ["0"]),
        (0, {VARIABLE: ""}, []),
    ],
)
def test_gpus_are_named_as_the_environment_names_them(
    amount: float, environment: Mapping[str, str], names: list[str]
) -> None:
    devices = GpuAllocator(amount, environment)
    given = [devices.take(str(number), 1).get(VARIABLE) for number in range(len(names))]
    assert given == names


def test_parts_that_fit_no_single_gpu_share_the_emptiest_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    devices = GpuAllocator(2, {})
    _all_of(devices, a=0.6, b=0.6)
    assert devices.take("c", 0.8)[VARIABLE] in ("0", "1")
    assert "is shared by more than it has" in caplog.text
