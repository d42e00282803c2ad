"""State of control after a failover, and what it forgets."""

from __future__ import annotations

import pytest

from actorhub.control_api.commands import (
    MakeDeadLetters,
    RequestReport,
    StartActor,
)
from actorhub.control_api.events import (
    ActorStarted,
    KillRequested,
    MailboxDeleted,
    Running,
    TaskQueueUsed,
    Tick,
    WorkerLost,
)
from tests.control.console import TIMEOUT, Console, node_report, spawn_spec


def test_a_successor_knows_where_each_actor_is_and_its_past() -> None:
    console = Console("w1", "w2")
    order = console.run(spawn_spec("a", name="n"))
    running = [Running(actor="a", call="bad", method="m")]
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="c", running=running))
    [order] = console.of(StartActor)
    console.handle(ActorStarted(actor="a", worker=order.worker, incarnation=order.residency.incarnation))
    before = console.info()
    console.fail_over()
    assert console.info() == before
    assert (before.restarts, before.last_error) == (1, "c, while it ran m")
    assert console.spawn(spawn_spec("b", name="n")).error == "name taken"
    console.handle(node_report("n1", order.worker))
    assert console.of(RequestReport) == console.of(StartActor) == []


def test_a_successor_waits_the_node_timeout_before_it_takes_a_silent_node_for_lost() -> None:
    console = Console("w1")
    console.handle(node_report("n2", "w2"))
    order = console.run(spawn_spec())
    silent, other = ("n1", "n2") if order.worker == "w1" else ("n2", "n1")
    console.now = 100.0
    console.fail_over()
    console.handle(Tick())
    assert console.info().state == "running"
    console.now += TIMEOUT + 1
    console.handle(node_report(other, f"w{other[1]}"))
    console.handle(Tick())
    [again] = console.of(StartActor)
    assert again.worker == f"w{other[1]}"
    assert f"node {silent} was lost" in console.info().last_error


def test_a_successor_refuses_no_actor_that_a_node_which_has_not_reported_yet_may_run() -> None:
    console = Console("w1")
    console.fail_over()
    assert console.spawn(spawn_spec("a", class_name="app:New")).created, (
        "the node may have started again, with more classes"
    )
    console.handle(node_report("n1", "w1"))
    assert console.spawn(spawn_spec("b", class_name="app:Newer")).error == "infeasible"


def test_each_namespace_gets_one_dead_letter_stream() -> None:
    console = Console("w1")
    console.spawn(spawn_spec("a"))
    console.fail_over()
    console.spawn(spawn_spec("b"))
    assert console.of(MakeDeadLetters) == []
    console.handle(TaskQueueUsed(queue="q", namespace="other"))
    assert [made.namespace for made in console.of(MakeDeadLetters)] == ["other"]


def test_the_oldest_dead_actors_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorhub.control.directory.MAX_DEAD_ACTORS", 2)
    console = Console("w1")
    for actor_id in ("a", "b", "c"):
        console.run(spawn_spec(actor_id, arguments=b"long"))
        console.handle(KillRequested(actor=actor_id, cause="c"))
        console.handle(MailboxDeleted(actor=actor_id))
    assert [info.id for info in console.state.actors()] == ["b", "c"]
    assert {key for key in console.rows if key.startswith(("plan.", "life."))} == {
        "plan.b",
        "life.b",
        "plan.c",
        "life.c",
    }
    assert b"long" not in b"".join(console.rows.values())
