"""Lifecycle of placement groups: request, refusal, reservation, loss of nodes, removal."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actorhub.control_api.commands import (
    StopActor,
)
from actorhub.control_api.events import (
    GroupRemoved,
    KillRequested,
    QueueDepths,
    SessionEnded,
    TaskQueueUsed,
    Tick,
)
from actorhub.control_api.requirements import Bundle, Requirements
from actorhub.control_api.specs import PlacementGroupSpec
from tests.control.placement_console import TIMEOUT, PlacementConsole


def test_a_group_is_reserved_whole_or_not_at_all_and_waits_in_order() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    assert console.group("g", [{"cpu": 2}, {"cpu": 2}]).created
    assert console.nodes_of("g") == ["n1", "n1"]
    assert console.group("late", [{"cpu": 1}, {"cpu": 1}]).created
    assert console.nodes_of("late") == [None, None]
    found = console.state.group("late")
    assert found is not None
    assert "the nearest is node n1 with {'cpu': 0.0}" in found.waits_for
    console.handle(GroupRemoved(group="g", cause="c"))
    assert console.nodes_of("late") == ["n1", "n1"]


@pytest.mark.parametrize(
    ("strategy", "bundles", "nodes"),
    [
        ("PACK", [{"cpu": 1}, {"cpu": 1}], [{"n1"}, {"n1"}]),
        ("STRICT_PACK", [{"cpu": 3}, {"cpu": 1}], [{"n1"}, {"n1"}]),
        ("SPREAD", [{"cpu": 1}, {"cpu": 1}], [{"n1", "n2"}]),
        ("STRICT_SPREAD", [{"cpu": 2}, {"cpu": 1}], [{"n1", "n2"}]),
    ],
)
def test_each_strategy_places_bundles_on_the_nodes_that_it_promises(
    strategy: str, bundles: list[dict[str, float]], nodes: list[set[str]]
) -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.node("n2", cpu=4)
    assert console.group("g", bundles, strategy).created
    found = console.nodes_of("g")
    assert {frozenset(each) for each in nodes} == {frozenset(found)} if "SPREAD" in strategy else len(set(found)) == 1


@pytest.mark.parametrize(
    ("strategy", "bundles", "words"),
    [
        ("PACK", [{"gpu": 1}], "bundle 0 asks for {'gpu': 1.0}; the nearest is node n1 with {'gpu': 0.0}"),
        ("STRICT_PACK", [{"cpu": 3}, {"cpu": 3}], "STRICT_PACK asks one node for {'cpu': 6.0}"),
        ("STRICT_SPREAD", [{"cpu": 1}] * 3, "STRICT_SPREAD asks for different nodes for bundles 0, 1 and 2"),
    ],
)
def test_a_group_that_can_never_fit_is_refused_with_the_best_that_nodes_have(
    strategy: str, bundles: list[dict[str, float]], words: str
) -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.node("n2", cpu=4)
    reply = console.group("g", bundles, strategy)
    assert (reply.error, reply.plan) == ("infeasible", None)
    assert words in reply.message
    assert console.state.group("g") is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bundles": []}, "at least 1 item"),
        ({"bundles": [{}]}, "bundle 0 asks for nothing"),
        ({"bundles": [{"cpu": -1}]}, "'cpu' cannot be -1"),
        ({"bundles": [{"cpu": float("nan")}]}, "'cpu' cannot be nan"),
        ({"bundles": [{"cpu": 1}], "strategy": "RANDOM"}, "'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD'"),
    ],
)
def test_an_invalid_group_is_refused_with_a_reason(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PlacementGroupSpec(group_id="g", namespace="default", **fields)


def test_a_group_s_name_is_its_own_and_get_if_exists_returns_the_same_group() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    bundles: list[dict[str, float]] = [{"cpu": 1}]
    assert console.group("a", bundles, name="train").created
    assert console.group("b", bundles, name="train").error == "name taken"
    same = console.group("b", bundles, name="train", get_if_exists=True)
    assert same.plan is not None
    assert (same.plan.group_id, same.created) == ("a", False)
    assert console.group("c", [{"cpu": 2}], name="train", get_if_exists=True).error == "name taken"
    assert console.group("d", bundles, name="train", namespace="other").created
    console.handle(GroupRemoved(group="a", cause="c"))
    assert console.group("e", bundles, name="train").created


def test_actors_of_a_group_run_on_the_node_of_their_bundle_and_use_its_resources_only() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.node("n2", cpu=2, gpu=1)
    console.group("g", [{"cpu": 1}, {"cpu": 2, "gpu": 1}], "STRICT_SPREAD")
    first, second = Bundle(group="g", index=0), Bundle(group="g", index=1)
    assert console.spawn("a", bundle=second, resources={"gpu": 1}).created
    assert console.info("a").node == "n2"
    assert console.spawn("b", bundle=first).created
    assert console.info("b").node == "n1"
    assert console.spawn("late", bundle=second, resources={"gpu": 0.5}).created
    assert console.info("late").waits_for == (
        "it asks for {'gpu': 0.5}, and free in bundle 1 of its group are: {'cpu': 2.0, 'gpu': 0.0}"
    )
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.info("late").node == "n2"
    free = {node.id: node.resources_free for node in console.state.nodes()}
    assert free == {"n1": {"cpu": 1.0}, "n2": {"cpu": 0.0, "gpu": 0.0}}, (
        "a bundle's resources are reserved, used or not"
    )


@pytest.mark.parametrize(
    ("bundle", "resources", "words"),
    [
        (Bundle(group="g", index=1), {}, "has bundles 0 to 0, and no 1"),
        (Bundle(group="g", index=-1), {}, "and no -1"),
        (Bundle(group="gone", index=0), {}, "there is no placement group gone"),
        (Bundle(group="g", index=0), {"cpu": 2}, "asks for {'cpu': 2.0}, and bundle 0 of its group has {'cpu': 1.0}"),
    ],
)
def test_an_actor_that_does_not_fit_its_bundle_is_refused(
    bundle: Bundle, resources: dict[str, float], words: str
) -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 1}])
    reply = console.spawn("a", bundle=bundle, resources=resources)
    assert reply.error == "infeasible"
    assert words in reply.message


def test_removing_a_group_ends_its_actors_and_releases_its_resources() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.group("g", [{"cpu": 2}], name="n")
    console.spawn("a", bundle=Bundle(group="g", index=0), resources={"cpu": 1}, lifetime="detached")
    console.spawn("other")
    console.handle(GroupRemoved(group="g", cause="its group was removed"))
    assert (console.info("a").state, console.info("a").last_error) == ("dead", "its group was removed")
    assert [stop.actor for stop in console.of(StopActor)] == ["a"]
    assert console.info("other").state == "starting"
    assert console.state.nodes()[0].resources_free == {"cpu": 2.0}
    console.handle(GroupRemoved(group="g", cause="again"))


def test_groups_end_with_their_session_and_detached_ones_stay() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 1}])
    console.group("kept", [{"cpu": 1}], lifetime="detached")
    console.spawn("a", bundle=Bundle(group="g", index=0))
    assert console.state.sessions() == {"s"}
    console.handle(SessionEnded(session="s"))
    assert [group.id for group in console.state.groups()] == ["kept"]
    assert console.info("a").state == "dead"


def test_bundles_of_a_lost_node_move_and_their_actors_follow() -> None:
    console = PlacementConsole()
    for node in ("n1", "n2", "n3"):
        console.node(node, cpu=2)
    console.group("g", [{"cpu": 2}, {"cpu": 2}], "STRICT_SPREAD")
    before = console.nodes_of("g")
    console.spawn("a", bundle=Bundle(group="g", index=0), options={"max_restarts": 5})
    console.now = TIMEOUT + 1
    for node in ("n1", "n2", "n3"):
        if node != before[0]:
            console.node(node, cpu=2)
    console.handle(Tick())
    after = console.nodes_of("g")
    assert after[1] == before[1]
    assert {*before, *after} == {"n1", "n2", "n3"}
    assert console.info("a").node == after[0]


def test_a_group_whose_node_is_lost_waits_for_room_and_so_do_its_actors() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.node("n2", cpu=1)
    console.group("g", [{"cpu": 2}])
    console.spawn("a", bundle=Bundle(group="g", index=0), options={"max_restarts": 5})
    console.now = TIMEOUT + 1
    console.node("n2", cpu=1)
    console.handle(Tick())
    assert console.nodes_of("g") == [None]
    assert console.info("a").waits_for.startswith("its placement group, which waits for bundle 0 asks for {'cpu': 2.0}")
    console.node("n3", cpu=2)
    assert console.nodes_of("g") == ["n3"]
    assert console.info("a").node == "n3"


def test_bundles_of_a_leaving_node_move_before_its_actors_do() -> None:
    console = PlacementConsole()
    console.node("n1", cpu=2)
    console.group("g", [{"cpu": 2}])
    console.spawn("a", bundle=Bundle(group="g", index=0))
    console.node("n2", cpu=2)
    console.node("n1", leaving=True, cpu=2)
    assert console.nodes_of("g") == ["n2"]
    assert console.info("a").node == "n1"


def test_demand_has_groups_that_wait_but_nothing_that_waits_in_a_bundle() -> None:
    """A new node makes no room in a bundle."""
    console = PlacementConsole()
    console.node("n1", cpu=1)
    console.group("g", [{"cpu": 1}])
    console.group("h", [{"cpu": 1}])
    for number in range(3):
        console.spawn(f"a{number}", bundle=Bundle(group="g", index=0), resources={"cpu": 1})
        console.spawn(f"b{number}", bundle=Bundle(group="h", index=0), resources={"cpu": 1})
    needs = Requirements(resources={"cpu": 1}, bundle=Bundle(group="g", index=0))
    console.handle(TaskQueueUsed(queue="q", namespace="default", needs=needs))
    console.handle(QueueDepths(waiting={"q": 5}))
    assert [(demand.kind, demand.resources, demand.count) for demand in console.state.demand()] == [
        ("group", {"cpu": 1.0}, 1)
    ]
