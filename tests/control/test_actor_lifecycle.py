"""Lifecycle of actors: spawn, placement, restarts, death, deletion of mailboxes, standbys."""

from __future__ import annotations

from typing import Any

import pytest

from actorhub.actors.spec import ActorOptions
from actorhub.control_api.commands import (
    CreateMailbox,
    DeleteMailbox,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
)
from actorhub.control_api.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    KillRequested,
    MailboxDeleted,
    Running,
    SessionEnded,
    Tick,
    WorkerLost,
    WorkerReport,
)
from tests.control.console import Console, node_report, spawn_spec

# ---- spawn and names


def test_a_spawn_is_recorded_answered_and_ordered_at_once() -> None:
    console = Console("w1")
    assert console.spawn(spawn_spec()).created
    assert [type(command).__name__ for command in console.last] == [
        *("CreateMailbox", "SpawnReply", "MakeDeadLetters", "StartActor", "ActorStateChanged")
    ]
    assert console.info().state == "starting"


def test_a_repeated_spawn_changes_nothing() -> None:
    console = Console("w1")
    console.run(spawn_spec())
    again = console.spawn(spawn_spec())
    assert again.created
    assert console.of(CreateMailbox) == console.of(StartActor) == []


def test_a_spawn_waits_for_the_first_worker() -> None:
    console = Console()
    assert console.spawn(spawn_spec()).created
    assert console.of(StartActor) == []
    console.handle(node_report("n1", "w1"))
    assert [order.worker for order in console.of(StartActor)] == ["w1"]


def test_a_name_belongs_to_one_living_actor_and_is_free_after_its_death() -> None:
    console = Console("w1")
    console.run(spawn_spec("a", name="n"))
    refused = console.spawn(spawn_spec("b", name="n"))
    assert (refused.plan, refused.error) == (None, "name taken")
    assert console.info("b") is None
    shared = console.spawn(spawn_spec("b", name="n"), get_if_exists=True)
    assert shared.plan is not None
    assert (shared.plan.actor_id, shared.created) == ("a", False)
    other_class = console.spawn(spawn_spec("b", name="n", class_name="app:Other"), get_if_exists=True)
    assert other_class.error == "name taken"
    assert console.spawn(spawn_spec("c", name="n", namespace="elsewhere")).created
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.state.find("default", "n") is None
    assert console.spawn(spawn_spec("b", name="n")).created


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"node": "n9"}, "asks for node 'n9'; there are: n1"),
        ({"class_name": "app:Unknown"}, "no node knows app:Unknown; start one with `actorhub node app`"),
        ({"labels": {"zone": "b"}}, "asks for labels {'zone': 'b'}"),
        ({"options": {"resources": {"disk": 2}}}, "asks for resources {'disk': 2.0}; the most that any node has"),
    ],
)
def test_an_actor_that_no_node_can_ever_run_is_refused_with_the_best_that_nodes_have(
    overrides: dict[str, Any], words: str
) -> None:
    console = Console("w1")
    reply = console.spawn(spawn_spec(**overrides))
    assert (reply.error, reply.plan) == ("infeasible", None)
    assert words in reply.message


# ---- placement


def test_actors_go_to_the_least_loaded_worker_and_release_their_resources() -> None:
    console = Console()
    console.handle(node_report("n1", "w1", "w2", resources={"disk": 1}))
    orders = [console.run(spawn_spec(str(number))).worker for number in range(6)]
    assert sorted(orders) == ["w1"] * 3 + ["w2"] * 3
    console.run(spawn_spec("g1", options={"resources": {"disk": 1}}))
    console.spawn(spawn_spec("g2", options={"resources": {"disk": 1}}))
    assert console.info("g2").state == "pending", "there is one disk, and it is reserved"
    assert console.spawn(spawn_spec("small")).created
    assert console.info("small").state == "starting", "an actor that waits does not hold up the others"
    console.handle(KillRequested(actor="g1", cause="c"))
    assert [order.residency.plan.actor_id for order in console.of(StartActor)] == ["g2"]
    [node] = console.state.nodes()
    assert node.resources_free == {"disk": 0.0}


def test_an_isolated_actor_gets_a_worker_of_its_own_which_ends_with_it() -> None:
    console = Console("w1")
    console.spawn(spawn_spec(options={"isolation": "process"}))
    [started] = console.of(StartWorker)
    assert console.of(StartActor) == []
    own = WorkerReport(id=started.worker, pid=2, dedicated_to="a", hosted=[])
    console.handle(node_report("n1", "w1", own))
    [order] = console.of(StartActor)
    assert order.worker == started.worker
    assert console.of(StopWorker) == []
    console.handle(KillRequested(actor="a", cause="c"))
    assert [stop.worker for stop in console.of(StopWorker)] == [started.worker]
    console.spawn(spawn_spec("b"))
    assert [order.worker for order in console.of(StartActor)] == ["w1"], "no other actor goes there"


# ---- restarts and death


def test_actors_of_a_lost_worker_restart_elsewhere_with_a_higher_incarnation() -> None:
    console = Console("w1", "w2")
    first = console.run(spawn_spec())
    other = "w2" if first.worker == "w1" else "w1"
    console.handle(WorkerLost(node="n1", worker=first.worker, cause="killed by SIGKILL"))
    [again] = console.of(StartActor)
    assert again.worker == other
    assert again.residency.incarnation > first.residency.incarnation
    assert (again.residency.restarts, console.info().last_error) == (1, "killed by SIGKILL")


def test_an_actor_restarts_max_restarts_times_and_then_dies_of_the_cause() -> None:
    console = Console("w1", "w2", "w3")
    order = console.run(spawn_spec(options={"max_restarts": 1}))
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="first"))
    [order] = console.of(StartActor)
    running = [Running(actor="a", call="c1", method="crash")]
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="second", running=running))
    assert console.info().state == "dead"
    assert console.info().last_error == "second, while it ran crash; it was restarted 1 times before"


def test_restarts_before_the_restart_window_do_not_count() -> None:
    console = Console("w1", "w2")
    order = console.run(spawn_spec(options={"max_restarts": 1, "restart_window": 60.0}))
    for now in (100.0, 200.0):
        console.now = now
        console.handle(
            ActorFailed(
                actor="a", worker=order.worker, incarnation=order.residency.incarnation, phase="life", error="e"
            )
        )
        [order] = console.of(StartActor)
        assert console.info().state == "starting"
    console.now = 230.0
    console.handle(
        ActorFailed(actor="a", worker=order.worker, incarnation=order.residency.incarnation, phase="life", error="e")
    )
    assert console.info().state == "dead"
    assert console.info().last_error == "e; it was restarted 1 times before in 60 s"


def test_a_durable_actor_is_restarted_however_often_its_worker_dies() -> None:
    console = Console(*(f"w{number}" for number in range(6)))
    order = console.run(spawn_spec(options={"durable": True, "max_restarts": 0}))
    for _ in range(4):
        console.handle(WorkerLost(node="n1", worker=order.worker, cause="c"))
        [order] = console.of(StartActor)
    assert (console.info().state, console.info().restarts) == ("starting", 4)


def test_a_call_that_kills_its_workers_too_often_is_poison() -> None:
    console = Console(*(f"w{number}" for number in range(6)))
    order = console.run(spawn_spec(options={"max_restarts": 100, "max_redeliveries": 2}))
    poison = []
    for _ in range(4):
        running = [Running(actor="a", call="bad", method="m")]
        console.handle(WorkerLost(node="n1", worker=order.worker, cause="c", running=running))
        [order] = console.of(StartActor)
        poison.append(order.poison)
    assert poison == [[], [], ["bad"], ["bad"]]


def test_an_actor_whose_constructor_raises_dies_without_a_restart() -> None:
    console = Console("w1")
    console.spawn(spawn_spec())
    [order] = console.of(StartActor)
    console.handle(
        ActorFailed(
            actor="a", worker="w1", incarnation=order.residency.incarnation, phase="birth", error="ValueError: no"
        )
    )
    info = console.info()
    assert (info.state, info.died_at_birth, info.restarts) == ("dead", True, 0)
    [order] = console.of(DeleteMailbox)
    assert (order.cause, order.at_birth) == ("ValueError: no", True)


def test_the_end_of_a_session_ends_its_actors_and_their_children_but_no_detached_ones() -> None:
    console = Console("w1")
    for plan in (
        spawn_spec("a"),
        spawn_spec("child", owner="actor:a"),
        spawn_spec("grandchild", owner="actor:child"),
        spawn_spec("kept", lifetime="detached"),
        spawn_spec("other", owner="another"),
    ):
        console.run(plan)
    assert console.state.sessions() == {"session", "another"}
    console.handle(SessionEnded(session="session"))
    states = {info.id: info.state for info in console.state.actors()}
    dead = ["a", "child", "grandchild"]
    assert states == dict.fromkeys(dead, "dead") | {"kept": "running", "other": "running"}
    assert console.state.sessions() == {"another"}


def test_a_dead_actor_s_mailbox_is_deleted_by_one_worker_and_by_another_if_that_is_lost() -> None:
    console = Console("w1", "w2")
    console.run(spawn_spec())
    console.handle(KillRequested(actor="a", cause="c"))
    [order] = console.of(DeleteMailbox)
    console.handle(Tick())
    assert console.of(DeleteMailbox) == []
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="c"))
    [again] = console.of(DeleteMailbox)
    assert again.worker != order.worker
    console.handle(MailboxDeleted(actor="a"))
    console.handle(MailboxDeleted(actor="a"))
    console.handle(WorkerLost(node="n1", worker=again.worker, cause="c"))
    console.handle(node_report("n1", "w3"))
    assert console.of(DeleteMailbox) == []
    assert console.info().state == "dead", "its cause of death is still known"


def test_the_last_worker_may_be_lost_while_it_deletes_a_mailbox() -> None:
    console = Console("w1")
    console.run(spawn_spec())
    console.handle(KillRequested(actor="a", cause="c"))
    console.handle(WorkerLost(node="n1", worker="w1", cause="c"))
    assert console.of(DeleteMailbox) == []
    console.fail_over()
    console.handle(node_report("n1", "w2"))
    assert [order.worker for order in console.of(DeleteMailbox)] == ["w2"]


def test_the_deletion_of_a_mailbox_waits_for_a_worker() -> None:
    console = Console()
    console.spawn(spawn_spec())
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.of(DeleteMailbox) == []
    console.handle(node_report("n1", "w1"))
    assert len(console.of(DeleteMailbox)) == 1


# ---- standby


def _start_with_standby(console: Console) -> tuple[StartActor, StartActor]:
    """Spawn an actor with a standby. Returns the orders to start each; both have started."""
    console.spawn(spawn_spec(options={"durable": True, "standby": True}))
    home, standby = console.of(StartActor)
    for order in (home, standby):
        console.handle(ActorStarted(actor="a", worker=order.worker, incarnation=order.residency.incarnation))
    return home, standby


def test_a_standby_is_on_another_node_and_takes_over_at_once() -> None:
    console = Console("w1", "w2")
    console.handle(node_report("n2", "w3", resources={"x": 1}))
    home, standby = _start_with_standby(console)
    assert {home.worker, standby.worker} >= {"w3"}
    assert (console.info().worker, console.info().standby) == (home.worker, standby.worker)
    node = "n2" if home.worker == "w3" else "n1"
    console.handle(WorkerLost(node=node, worker=home.worker, cause="c"))
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.last_error) == ("running", standby.worker, 1, "c")
    [another] = console.of(StartActor)
    assert info.standby == another.worker not in (home.worker, standby.worker)
    late = ActorStarted(actor="a", worker=home.worker, incarnation=home.residency.incarnation)
    console.handle(late)
    assert [stop.worker for stop in console.of(StopActor)] == [home.worker]


def test_a_lost_standby_is_replaced_without_touching_the_actor() -> None:
    console = Console("w1", "w2", "w3")
    home, standby = _start_with_standby(console)
    console.handle(WorkerLost(node="n1", worker=standby.worker, cause="c"))
    [another] = console.of(StartActor)
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.standby) == ("running", home.worker, 0, another.worker)
    console.handle(ActorStopped(actor="a", worker=another.worker, incarnation=another.residency.incarnation))
    assert console.info().standby is not None, "its worker drains, but is still there"


def test_a_standby_that_fails_is_replaced_without_touching_the_actor() -> None:
    console = Console("w1", "w2", "w3")
    home, standby = _start_with_standby(console)
    console.handle(
        ActorFailed(
            actor="a", worker=standby.worker, incarnation=standby.residency.incarnation, phase="life", error="e"
        )
    )
    [another] = console.of(StartActor)
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.standby) == ("running", home.worker, 0, another.worker)


def test_there_is_no_standby_until_a_second_worker_comes() -> None:
    console = Console("w1")
    console.spawn(spawn_spec(options={"durable": True, "standby": True}))
    assert console.info().standby is None
    console.handle(node_report("n2", "w2"))
    assert console.info().standby == "w2"
    console.handle(KillRequested(actor="a", cause="c"))
    assert {stop.worker for stop in console.of(StopActor)} == {"w1", "w2"}
    assert console.state._tables.nodes.workers["w2"].load == 0


def test_a_standby_needs_a_durable_actor_on_a_shared_worker() -> None:
    for options in ({"standby": True}, {"standby": True, "durable": True, "isolation": "process"}):
        with pytest.raises(ValueError, match="a standby goes on from the journal"):
            ActorOptions(**options)
