"""Scheduling of dedicated slots: their number, their placement, and preemption."""

from __future__ import annotations

import pytest

from actorhub.control.slot_scheduler import PREEMPTION_CHECKS_PER_TICK, TURN_SECONDS, UNSEEN_SLOT_TIMEOUT_SECONDS
from actorhub.control.state import ControlState
from actorhub.control_api.commands import DeleteTaskQueue, MakeQueue, StartSlot, StopSlot
from actorhub.control_api.events import (
    GroupRemoved,
    KillRequested,
    MailboxDeleted,
    Tick,
    WorkerStopped,
)
from actorhub.control_api.requirements import Bundle, Requirements
from tests.control.placement_console import TIMEOUT, QueueConsole, cpu


def test_a_queue_gets_a_slot_and_then_as_many_again_while_tasks_wait() -> None:
    console = QueueConsole()
    console.node("n1", cpu=16)
    assert console.use("q", cpu(1)) is None
    assert console.of(MakeQueue)[0].queue == "q"
    assert not console.wait(q=0)
    assert [len(console.wait(q=100)) for _ in range(6)] == [1, 1, 2, 4, 8, 0]
    assert console.state.demand()[0].count == 16, "as many again are pending"
    assert not console.wait(q=0)
    assert not console.state.demand(), "none is pending any more"
    assert not console.state.would_act_on({"q": 0})


def test_a_queue_gets_no_more_slots_than_tasks_wait_and_counts_those_that_start() -> None:
    console = QueueConsole()
    console.node("n1", cpu=16)
    console.use("q", cpu(1))
    assert len(console.fill("q", 3)) == 3
    assert not console.state.would_act_on({"q": 3})
    placed = tuple(f"{slot.slot}" for slot in console.fill("q", 5))
    assert len(placed) == 2
    console.node("n1", cpu=16, placed=placed)
    assert console.wait(q=5), "those slots take tasks already, and tasks still wait"


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (cpu(17), "a task of q asks for resources {'cpu': 17.0}; the most that any node has: {'cpu': 16.0}"),
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
def test_a_queue_that_can_never_be_served_is_refused_and_not_created(needs: Requirements, words: str) -> None:
    console = QueueConsole()
    console.node("n1", cpu=16)
    console.group("g", [{"cpu": 2}])
    assert words in (console.use("q", needs) or "")
    assert not console.of(MakeQueue)
    assert not list(console.state.task_queues())


def test_slots_are_preempted_after_their_turn_for_an_actor_and_their_resources_are_held_for_it() -> None:
    console = QueueConsole()
    console.node("n1", cpu=4)
    console.use("q", cpu(1))
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
    console = QueueConsole()
    for node in ("n1", "n2", "n3"):
        console.node(node, cpu=2)
    console.use("q", cpu(2))
    assert len(console.fill("q")) == 3
    console.spawn("a", resources={"cpu": 1})
    console.group("g", [{"cpu": 2}, {"cpu": 2}], "STRICT_SPREAD")
    ended = 0
    for _ in range(3):
        leaving = console.later(TURN_SECONDS)
        assert not console.later(0.1), "the slots that are leaving are enough"
        assert not console.end(*leaving)
        ended += len(leaving)
    assert ended == 3, "one for the actor, which has waited longer, and two for the group"
    assert console.info("a").node is not None
    assert None not in console.nodes_of("g")


def test_two_queues_take_turns() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1)
    console.use("a", cpu(1))
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


def test_a_higher_priority_preempts_at_once_and_a_lower_one_waits() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1)
    console.use("low", cpu(1), 1)
    [first] = console.wait(low=10)
    console.use("high", Requirements(resources={"cpu": 1}, prefer={"x": "y"}), 5)
    console.wait(low=10, high=10)
    [leaving] = console.later(0.1)
    assert leaving.slot == first.slot
    console.wait(low=10, high=10)
    [second] = console.end(leaving)
    assert second.queue == "high"
    assert not console.later(3 * TURN_SECONDS), "no slot is preempted for a lower priority"
    console.wait(low=10, high=0)
    [third] = console.end(second)
    assert third.queue == "low"


def test_an_actor_for_which_slots_are_preempted_comes_before_tasks_of_a_higher_priority() -> None:
    console = QueueConsole()
    console.node("n1", cpu=2)
    console.use("q", cpu(1), 9)
    assert len(console.fill("q")) == 2
    console.spawn("large", resources={"cpu": 2})
    for slot in console.later(TURN_SECONDS):
        console.wait(q=100)
        assert not console.end(slot), "its resources are held for the actor"
    assert console.info("large").node == "n1"


def test_items_that_no_preemption_helps_hide_no_other() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1, disk=1)
    console.spawn("holds", resources={"disk": 1})
    for number in range(2 * PREEMPTION_CHECKS_PER_TICK):
        console.spawn(f"a{number}", resources={"disk": 1}, prefer={"x": str(number)})
    console.use("a", cpu(1))
    console.use("b", Requirements(resources={"cpu": 1}, prefer={"x": "y"}))
    [first] = console.wait(a=9, b=9)
    console.now += TURN_SECONDS
    assert [stop.slot for _ in range(3) for stop in console.later(0.1)] == [first.slot]


def test_pending_slots_have_the_current_priority_of_their_queue() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1)
    console.spawn("a", resources={"cpu": 1})
    console.use("early", cpu(1))
    console.use("late", Requirements(resources={"cpu": 1}, prefer={"x": "y"}))
    console.wait(early=1, late=1)
    console.use("late", Requirements(resources={"cpu": 1}, prefer={"x": "y"}), 5)
    console.wait(early=1, late=1)
    console.handle(KillRequested(actor="a", cause="c"))
    assert [slot.queue for slot in console.of(StartSlot)] == ["late"]


def test_tasks_in_a_bundle_use_its_resources_only() -> None:
    console = QueueConsole()
    console.node("n1", cpu=8)
    console.group("g", [{"cpu": 2}])
    console.use("q", Requirements(bundle=Bundle(group="g", index=0)))
    assert len(console.fill("q")) == 2
    console.spawn("a", bundle=Bundle(group="g", index=0), resources={"cpu": 1})
    [leaving] = console.later(TURN_SECONDS)
    assert not console.end(leaving)
    assert console.info("a").node == "n1"


def test_removing_a_group_ends_its_tasks_and_deletes_their_queue() -> None:
    console = QueueConsole()
    console.node("n1", workers=2, cpu=8)
    console.group("g", [{"cpu": 2}])
    needs = Requirements(bundle=Bundle(group="g", index=0))
    console.use("q", needs)
    console.fill("q")
    console.handle(GroupRemoved(group="g", cause="it was removed"))
    assert [(slot.node, slot.now) for slot in console.of(StopSlot)] == [("n1", True)] * 2
    [order] = console.of(DeleteTaskQueue)
    assert (order.queue, order.cause) == ("q", "it was removed")
    assert console.use("q", needs) == "it was removed"
    console.state = ControlState.restored(console.rows, node_timeout=TIMEOUT, now=console.now)
    console.node("n1", pid=2, cpu=8)
    assert console.of(DeleteTaskQueue)[0].worker != order.worker, "that worker is gone, and another deletes it"
    console.handle(MailboxDeleted(actor="q"))
    assert "there is no placement group g" in (console.use("q", needs) or "")


def test_a_slot_that_its_node_does_not_report_is_lost() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1)
    console.use("q", cpu(1))
    [slot] = console.wait(q=1)
    console.node("n1", cpu=1)
    assert console.state.nodes()[0].resources_free == {"cpu": 0.0}, "its start may have been ordered just now"
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
    console = QueueConsole()
    console.node("n1", cpu=2)
    console.use("q", cpu(2))
    [slot] = console.wait(q=9)
    assert slot.node == "n1"
    console.node("n2", cpu=2)
    console.now = TIMEOUT + 1
    console.node("n2", cpu=2)
    console.handle(Tick())
    [slot] = console.wait(q=9)
    assert slot.node == "n2"


@pytest.mark.parametrize("worker_first", [False, True])
def test_slots_of_a_node_that_left_in_order_are_placed_elsewhere(worker_first: bool) -> None:
    """A leaving node never reports slots that were not ready yet."""
    console = QueueConsole()
    console.node("n1", cpu=2)
    console.use("q", cpu(2))
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


def test_the_resources_of_a_killed_actor_go_to_tasks() -> None:
    console = QueueConsole()
    console.node("n1", cpu=1)
    console.spawn("a", resources={"cpu": 1})
    console.use("q", cpu(1))
    assert not console.wait(q=9)
    [queue] = console.state.task_queues()
    assert queue.waits_for.startswith("it asks for resources {'cpu': 1.0}, and free are")
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.of(StartSlot)
