"""Placement groups on real nodes: placement of their actors, killed and draining nodes, and bad input."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from pydantic import ValidationError

from actorhub import ActorDied, ActorHubError, Hub, NameTaken, PlacementGroup, PlacementInfeasible, Settings, actor
from actorhub.actors.handle import address_of
from actorhub.cluster import LocalCluster
from actorhub.core.addressing import new_id
from tests.conftest import QUICK
from tests.waiting import until


@actor(max_restarts=10)
class Member:
    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def next(self) -> int:
        self.count += 1
        return self.count


NODES = {"one": {"cpu": 2, "gpu": 1}, "two": {"cpu": 2}, "three": {"cpu": 4}}


@pytest.fixture
async def hub(broker_url: str) -> AsyncIterator[Hub]:
    """Three nodes of different resources on one machine."""
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    async with Hub.local(nodes=NODES, workers=1, slots=0, modules=[__name__], settings=settings) as hub:
        yield hub


async def _are_up(hub: Hub, nodes: set[str]) -> bool:
    return {node.id for node in await hub.nodes() if node.workers} == nodes


async def _places(hub: Hub, group: PlacementGroup) -> list[str | None]:
    [info] = [info for info in await hub.groups() if info.id == group.id]
    return [bundle.node for bundle in info.bundles]


async def _home(hub: Hub, handle: Any) -> str | None:
    [info] = [info for info in await hub.actors() if info.id == address_of(handle).actor_id]
    return info.node if info.state == "running" else None


async def test_actors_of_a_group_run_where_their_bundles_are_and_end_with_it(hub: Hub) -> None:
    group = await hub.placement_group(
        [{"cpu": 2}, {"cpu": 1, "gpu": 1}, {"cpu": 3}], strategy="STRICT_SPREAD", name="train"
    )
    assert (await group.ready(30)).is_ready
    places = await _places(hub, group)
    assert places == ["two", "one", "three"]
    members = [await hub.options(placement=bundle).spawn(Member) for bundle in group]
    assert await asyncio.gather(*(until(lambda m=member: _home(hub, m)) for member in members)) == places  # type: ignore[misc]
    free = {node.id: node.resources_free["cpu"] for node in await hub.nodes()}
    assert free == {"one": 1.0, "two": 0.0, "three": 1.0}
    assert await hub.remove(group)
    assert not await hub.remove(group)
    for member in members:
        with pytest.raises(ActorDied, match=r"its placement group .* was removed"):
            await member.pid()
    with pytest.raises(ActorHubError, match="was removed"):
        await group.ready(1)
    assert {node.id: node.resources_free["cpu"] for node in await hub.nodes()} == {
        node: float(resources["cpu"]) for node, resources in NODES.items()
    }


async def test_bundles_of_a_killed_node_move_and_their_actors_go_on(hub: Hub) -> None:
    """Invariant: a durable actor of a group loses nothing when its node is killed, and runs where its bundle is."""
    group = await hub.placement_group([{"cpu": 2}, {"cpu": 2}], strategy="STRICT_SPREAD")
    await group.ready(30)
    before = await _places(hub, group)
    counter = await hub.options(placement=group[0]).spawn(Counter)
    assert [await counter.next() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert hub._cluster is not None
    await cast(LocalCluster, hub._cluster).stop_node(str(before[0]), signal.SIGKILL)
    assert await counter.next() == 6
    after = await until(lambda: _places_without(hub, group, before[0]))
    assert after[1] == before[1]
    assert {*before, *after} == set(NODES)
    assert await counter.next() == 7
    assert await until(lambda: _home(hub, counter)) == after[0]


async def _places_without(hub: Hub, group: PlacementGroup, node: str | None) -> list[str | None]:
    places = await _places(hub, group)
    return [] if node in places or None in places else places


async def test_a_group_that_does_not_fit_now_waits_and_says_what_for(hub: Hub) -> None:
    first = await hub.placement_group([{"cpu": 4}])
    await first.ready(30)
    second = await hub.placement_group([{"cpu": 3}])
    with pytest.raises(TimeoutError, match=r"bundle 0 asks for .*'cpu': 3.0.*the nearest is node"):
        await second.ready(0.5)
    waiting = await hub.options(placement=second[0]).spawn(Member)
    call = waiting.pid()
    explanation = await hub.explain(waiting)
    assert "its placement group, which waits for bundle 0 asks for {'cpu': 3.0}" in explanation.text
    assert await hub.remove(first)
    await second.ready(30)
    assert await call


async def test_bad_input_is_refused_with_a_reason(hub: Hub) -> None:
    with pytest.raises(PlacementInfeasible, match=r"STRICT_PACK asks one node for .*5"):
        await hub.placement_group([{"cpu": 3}, {"cpu": 2}], strategy="STRICT_PACK")
    with pytest.raises(ValidationError, match="bundle 0 asks for nothing"):
        await hub.placement_group([{}])
    with pytest.raises(ValidationError, match="at least 1 item"):
        await hub.placement_group([])
    with pytest.raises(ValidationError, match="STRICT_SPREAD"):
        await hub.placement_group([{"cpu": 1}], strategy="RANDOM")  # type: ignore[arg-type]
    group = await hub.placement_group([{"cpu": 1}], name="one")
    with pytest.raises(NameTaken, match="'one' is taken"):
        await hub.placement_group([{"cpu": 1}], name="one")
    with pytest.raises(IndexError, match="has bundles 0 to 0, and no 1"):
        group[1]
    await hub.remove(group)
    with pytest.raises(PlacementInfeasible, match="there is no placement group"):
        await hub.options(placement=group[0]).spawn(Member)
    with pytest.raises(PlacementInfeasible, match="asks for node 'node-9'; there are: one, three, two"):
        await hub.options(node="node-9").spawn(Member)
    with pytest.raises(ValidationError, match="'cpu' cannot be -1"):
        hub.options(resources={"cpu": -1})
    with pytest.raises(ActorHubError, match="there is no node 'node-9'; there are: one, three, two"):
        await hub.drain("node-9")


async def test_a_node_that_drains_hands_its_bundles_to_other_nodes(hub: Hub) -> None:
    """Invariant: no call fails while the node of the actor's bundle drains."""
    group = await hub.placement_group([{"cpu": 2}])
    await group.ready(30)
    [home] = await _places(hub, group)
    counter = await hub.options(placement=group[0]).spawn(Counter)
    calls = [counter.next() for _ in range(200)]
    await hub.drain(str(home))
    assert await asyncio.gather(*calls) == list(range(1, 201))
    await until(lambda: _are_up(hub, set(NODES) - {str(home)}))
    assert await counter.next() == 201
    assert await _places(hub, group) != [home]


async def test_draining_a_node_that_is_gone_fails_and_spares_a_new_node_of_its_name(hub: Hub) -> None:
    """Invariant: draining a dead node raises, and a node that starts later under its id stays."""
    cluster = cast(LocalCluster, hub._cluster)
    await cluster.stop_node("two", signal.SIGKILL)
    with pytest.raises(ActorHubError, match="node 'two' does not answer"):
        await hub.drain("two")
    cluster.start_node("two", resources=NODES["two"])
    assert await until(lambda: _are_up(hub, set(NODES)))
    assert await (await hub.options(node="two").spawn(Member)).pid()
    assert cluster.processes["two"].poll() is None
