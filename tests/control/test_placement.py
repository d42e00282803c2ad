"""Placement of actors: labels, order, starvation, nodes that leave or start again."""

from __future__ import annotations

from typing import Any

import pytest

from actorhub.control import pending
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    StartWorker,
)
from actorhub.control_api.events import (
    KillRequested,
    WorkerLost,
    WorkerStopped,
)
from actorhub.control_api.requirements import Bundle
from actorhub.core.resources import units
from tests.control.placement_console import TIMEOUT, PlacementConsole

ISOLATED = {"isolation": "process"}


@pytest.mark.parametrize("worker_first", [False, True])
def test_an_actor_ordered_from_a_node_that_leaves_is_placed_elsewhere(worker_first: bool) -> None:
    """A leaving node starts no worker any more, and never reports one that it has not started."""
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    assert [order.node for order in console.of(StartWorker)] == ["n1"]
    console.node("n2", cpu=2)
    console.node("n1", cpu=2, leaving=True)
    if worker_first:
        console.handle(WorkerStopped(node="n1", worker="n1-0-1"))
    else:
        console.node("n1", workers=0, cpu=2, leaving=True)
    assert [order.node for order in console.of(StartWorker)] == ["n2"]
    assert (console.info("a").node, console.info("a").restarts) == ("n2", 0)


def test_an_actor_ordered_from_a_node_that_starts_again_is_ordered_again() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    [first] = console.of(StartWorker)
    console.node("n1", cpu=1, pid=2)
    [again] = console.of(StartWorker)
    assert (again.node, again.actor) == ("n1", "a")
    assert again.worker != first.worker
    assert console.state.nodes()[0].resources_free == {"cpu": 0.0}


def test_a_node_that_comes_back_with_fewer_resources_has_those_it_reports() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 3}])
    console.spawn("a", resources={"cpu": 1}, options={"max_restarts": 9})
    console.node("n1", pid=2, cpu=2)
    assert console.nodes_of("g") == [None]
    assert console.info("a").node == "n1"
    assert console.state.nodes()[0].resources_free == {"cpu": 1.0}


def test_a_container_that_starts_again_has_the_same_host_and_pid_and_is_another_node() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    console.node("n1", run="2", cpu=2)
    assert console.state.nodes()[0].resources_total == {"cpu": 2.0}
    assert console.of(StartWorker)
    console.node("n1", run="2", cpu=2)
    assert not console.last


def test_preferred_labels_are_chosen_if_there_is_room_and_required_ones_always() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=1)
    console.node("n2", cpu=1)
    assert console.spawn("a", prefer={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("a").node == "n2"
    assert console.spawn("b", prefer={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("b").node == "n1"
    assert console.spawn("c", labels={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("c").node is None


def _churn(console: PlacementConsole, rounds: int) -> int:
    """Replace one small actor by the next, again and again, until the large one is placed. Returns the number of rounds."""
    console.spawn("s0", resources={"cpu": 1}, labels={"name": "n1"})
    console.spawn("large", resources={"cpu": 2})
    for number in range(1, rounds):
        console.spawn(f"s{number}", resources={"cpu": 1})
        console.handle(KillRequested(actor=f"s{number - 1}", cause="c"))
        if console.info("large").node is not None:
            return number
    return rounds


LIMIT = 10  # the starvation limit in these tests


def test_a_large_request_is_not_starved_by_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", LIMIT)
    console = PlacementConsole()
    console.node("n1", cpu=2)
    assert LIMIT <= _churn(console, 3 * LIMIT) <= LIMIT + 2
    assert console.info("large").node == "n1"


def test_without_the_starvation_limit_small_requests_starve_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", 10**9)
    console = PlacementConsole()
    console.node("n1", cpu=2)
    assert _churn(console, 3 * LIMIT) == 3 * LIMIT


@pytest.mark.parametrize(
    "wanted",
    [
        {"resources": {"cpu": 2}},  # where it would fit, an actor never ends
        {"resources": {"cpu": 1}, "labels": {"name": "n1"}},
        {"resources": {"cpu": 1}, "node": "n1"},
        {"resources": {"cpu": 1}, "bundle": Bundle(group="g", index=0)},
    ],
)
def test_a_request_that_is_never_placed_holds_up_no_other_elsewhere(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", LIMIT)
    console = PlacementConsole()
    console.node("n1", cpu=3)
    console.spawn("for ever", resources={"cpu": 2})
    console.group("g", [{"cpu": 1}])
    console.spawn("in the bundle", resources={"cpu": 1}, bundle=Bundle(group="g", index=0))
    console.node("n2", cpu=1)
    assert console.spawn("waits", **wanted).created
    for number in range(3 * LIMIT):
        console.spawn(f"s{number}", resources={"cpu": 1})
        assert console.info(f"s{number}").node == "n2"
        assert console.spawn(f"t{number}").created
        assert console.info(f"t{number}").node is not None, "an actor that reserves nothing does not wait"
        console.handle(KillRequested(actor=f"s{number}", cause="c"))
    assert console.info("waits").node is None


def test_a_successor_tries_pending_placements_in_the_same_order() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=1)
    options = {"max_restarts": 9}
    console.spawn("first", resources={"cpu": 1}, options=options)
    console.spawn("second", resources={"cpu": 1}, options=options)
    console.handle(WorkerLost(node="n1", worker="n1-0-1", cause="c"))
    console.state = ControlState.restored(console.rows, node_timeout=TIMEOUT, now=console.now)
    console.node("n1", pid=2, cpu=1)
    assert console.info("second").node == "n1", "it has waited since before the first one waits again"


def test_amounts_never_drift() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=1)
    for number in range(200):
        console.spawn(f"a{number}", resources={"cpu": 0.1})
        if number >= 10:
            console.handle(KillRequested(actor=f"a{number - 10}", cause="c"))
    assert sum(info.node is not None for info in console.state.actors()) == 10
    assert units({"cpu": 0.1})["cpu"] * 10 == units({"cpu": 1})["cpu"]
