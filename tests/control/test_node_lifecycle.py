"""Lifecycle of nodes: silence, leaving, restarts of the agent, reports that come late."""

from __future__ import annotations

from actorhub.control_api.commands import (
    Acknowledge,
    RequestReport,
    StartActor,
    StopActor,
    StopWorker,
)
from actorhub.control_api.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control_api.specs import Activation
from tests.control.console import TIMEOUT, Console, node_report, spawn_spec


def test_a_silent_node_is_lost_with_its_workers() -> None:
    console = Console("w1")
    console.handle(node_report("n2", "w2"))
    order = console.run(spawn_spec())
    silent, other = ("n1", "n2") if order.worker == "w1" else ("n2", "n1")
    console.now = TIMEOUT - 1
    console.handle(node_report(other, "w2" if other == "n2" else "w1"))
    console.now = TIMEOUT + 1
    console.handle(Tick())
    [again] = console.of(StartActor)
    assert again.worker != order.worker
    assert f"node {silent} was lost: silent for 9.0 s" in console.info().last_error
    assert [node.id for node in console.state.nodes()] == [other]


def test_a_leaving_node_gets_nothing_new_and_its_actors_move_without_a_restart() -> None:
    console = Console("w1")
    console.run(spawn_spec())
    console.handle(node_report("n1", "w1", leaving=True))
    console.handle(node_report("n2", "w2"))
    console.run(spawn_spec("b"))
    assert console.info("b").node == "n2"
    console.handle(WorkerStopped(node="n1", worker="w1"))
    assert [order.worker for order in console.of(StartActor)] == ["w2"]
    assert console.info().restarts == 0
    assert [node.id for node in console.state.nodes()] == ["n2"]


def test_a_report_of_an_old_incarnation_stops_it_and_changes_nothing_else() -> None:
    console = Console("w1", "w2")
    first = console.run(spawn_spec())
    console.handle(WorkerLost(node="n1", worker=first.worker, cause="c"))
    before = console.info()
    old = first.residency.incarnation
    console.handle(ActorStarted(actor="a", worker=first.worker, incarnation=old))
    assert console.of(StopActor) == [StopActor(worker=first.worker, actor="a", incarnation=old)]
    console.handle(ActorFailed(actor="a", worker=first.worker, incarnation=old, phase="birth", error="e"))
    console.handle(ActorStopped(actor="a", worker=first.worker, incarnation=old))
    assert console.info() == before


def test_a_node_that_starts_again_under_its_id_is_a_new_node() -> None:
    console = Console()
    console.handle(node_report("n1", "w1", pid=1, resources={"disk": 2}))
    console.run(spawn_spec(options={"resources": {"disk": 1}}))
    console.handle(node_report("n1", pid=2, resources={"disk": 1}, known=False))
    assert [acknowledged.node for acknowledged in console.of(Acknowledge)] == ["n1"]
    assert console.info().state == "restarting"
    assert console.state.nodes()[0].resources_free == {"disk": 1.0}
    console.handle(node_report("n1", "w2", pid=2, resources={"disk": 1}))
    assert [order.worker for order in console.of(StartActor)] == ["w2"]


def test_a_node_that_was_taken_for_lost_reports_its_actors_and_ends_those_that_have_moved() -> None:
    console = Console("w1")
    order = console.run(spawn_spec())
    console.now = TIMEOUT + 1
    console.handle(node_report("n2", "w2"))
    console.handle(Tick())
    assert console.info().worker == "w2"
    console.handle(node_report("n1", "w1"))
    assert [order.node for order in console.of(RequestReport)] == ["n1"]
    unknown = Activation(plan=spawn_spec("x"), incarnation=1, restarts=0)
    console.handle(node_report("n1", WorkerReport(id="w1", pid=1, hosted=[order.residency, unknown])))
    assert {stop.actor for stop in console.of(StopActor)} == {"a", "x"}
    assert console.info().worker == "w2"


def test_a_dedicated_worker_whose_actor_has_moved_is_stopped() -> None:
    console = Console()
    console.handle(node_report("n1", WorkerReport(id="own", pid=1, dedicated_to="a", hosted=[])))
    assert [stop.worker for stop in console.of(StopWorker)] == ["own"]
