"""Tasks with requirements, on real nodes: where they run, what they reserve, and bad input."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import cast

import psutil
import pytest
from pydantic import ValidationError

from actorhub import Hub, PlacementInfeasible, Retry, Settings, actor, task
from actorhub.cluster import LocalCluster
from actorhub.core.addressing import new_id
from actorhub.messaging.dead_letter import DeadLetter
from actorhub_rabbitmq import PrivateNode
from tests.conftest import QUICK
from tests.waiting import SETTLED, until

NODES = {"one": {"cpu": 2, "gpu": 2}, "two": {"cpu": 4}}


@task(queue="work", resources={"cpu": 1})
def where(seconds: float = 0.0) -> tuple[str, int]:
    """The node that it runs on, and its process."""
    time.sleep(seconds)
    return os.environ["ACTORHUB_NODE"], os.getpid()


@task(queue="work", resources={"gpu": 1})
def devices(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@task(queue="work")
def node_of() -> str:
    return os.environ["ACTORHUB_NODE"]


@task(queue="work")
def together(results: list[object]) -> int:
    return len(results)


@task(queue="work", resources={"cpu": 1}, retry=Retry(attempts=3))
def twice(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        raise ValueError("not yet")
    return os.path.getsize(path)


@task(queue="work", resources={"cpu": 1})
def die(path: str) -> str:
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@actor(resources={"cpu": 4})
class Large:
    async def ping(self) -> str:
        return "pong"


@actor(resources={"gpu": 1})
class Trainer:
    async def devices(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]


@actor(resources={"gpu": 2})
class Owner:
    def __init__(self, former: int) -> None:
        self.former_is_there = psutil.pid_exists(former)

    async def block(self, path: str) -> None:
        open(path, "w").close()  # noqa: ASYNC230
        time.sleep(600.0)  # noqa: ASYNC251

    async def pid(self) -> int:
        return os.getpid()

    async def is_former_there(self) -> bool:
        return self.former_is_there


@pytest.fixture
async def hub(broker_url: str) -> AsyncIterator[Hub]:
    """Two nodes of different resources on one machine."""
    settings = Settings(url=broker_url, secret="s", prefix=f"t{new_id(6)}", slot_idle=1.0, **QUICK)  # type: ignore[arg-type]
    async with Hub.local(nodes=NODES, workers=1, slots=0, modules=[__name__], settings=settings) as hub:
        yield hub


async def _free(hub: Hub) -> dict[str, float]:
    return {node.id: node.resources_free["cpu"] for node in await hub.nodes()}


async def test_tasks_run_where_their_resources_are_free_and_give_them_back(hub: Hub) -> None:
    assert {await hub.submit(devices) for _ in range(3)} <= {"0", "1"}
    assert {node for node, _ in await hub.get([hub.submit(where, 0.5) for _ in range(24)])} == {"one", "two"}
    assert await until(lambda: _all_free(hub))  # slots end when nothing comes
    assert (await hub.options(resources={"cpu": 4}).submit(where))[0] == "two"
    assert await hub.options(node="one").submit(node_of) == "one"
    assert await hub.options(resources={"cpu": 0.5}, node="two").submit(node_of) == "two"


async def _all_free(hub: Hub, nodes: Collection[str] = NODES) -> bool:
    return await _free(hub) == {node: NODES[node]["cpu"] for node in nodes}


async def test_resources_of_a_task_are_reserved_while_it_runs(hub: Hub) -> None:
    running = [hub.submit(devices, 2.0) for _ in range(3)]
    done, [last] = await hub.wait(running, count=2)
    assert sorted(await hub.get(done)) == ["0", "1"]
    assert not last.done()
    assert await last in ("0", "1")


async def test_slots_make_way_for_an_actor_that_waits(hub: Hub) -> None:
    """Invariant: an actor does not wait for ever behind a queue that never ends; no task is lost or runs twice for it."""
    seen = [hub.submit(where, 0.1) for _ in range(250)]
    await hub.wait(seen, count=20)
    large = await hub.spawn(Large)
    async with asyncio.timeout(20):
        assert await large.ping() == "pong"
    assert not all(future.done() for future in seen)
    assert len(await hub.get(seen)) == 250


async def test_tasks_of_a_group_run_in_its_bundles_and_fail_when_it_is_removed(hub: Hub) -> None:
    group = await hub.placement_group([{"cpu": 1}, {"cpu": 3}], strategy="STRICT_SPREAD")
    nodes = [await hub.options(placement=bundle).submit(node_of) for bundle in group]
    assert nodes == ["one", "two"]
    waiting = [hub.options(placement=group[0]).submit(where, 60.0) for _ in range(3)]
    await asyncio.gather(*(future.accepted() for future in waiting))
    assert await hub.remove(group)
    async with asyncio.timeout(20):
        failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, PlacementInfeasible) and "removed" in str(error) for error in failed), failed
    assert len(await hub.dead()) == 3  # nothing that was accepted is lost
    with pytest.raises(PlacementInfeasible, match="no placement group"):
        await hub.options(placement=group[0]).submit(node_of)
    assert await until(lambda: _all_free(hub))


async def test_delayed_and_chained_tasks_of_a_removed_group_fail_too(hub: Hub) -> None:
    """Invariant: a task that waits for its time, and one that waits for the results of others, end with the group, too."""
    group = await hub.placement_group([{"cpu": 1}])
    inside = hub.options(placement=group[0])
    assert await inside.submit(node_of)
    later = hub.options(placement=group[0], delay=2.0).submit(node_of)
    gathered = inside.gather_into(together, where, [0.0, 0.0, 60.0])
    chained = inside.chain(where, together).submit(60.0)
    await asyncio.gather(*(future.accepted() for future in (later, gathered, chained)))
    assert await hub.remove(group)
    async with asyncio.timeout(20):
        failed = await asyncio.gather(later, gathered, chained, return_exceptions=True)
    assert all(isinstance(error, PlacementInfeasible) for error in failed), failed
    await until(lambda: _is_dead(hub, "node_of"))
    assert {letter.reason for letter in await hub.dead()} == {"exception"}, "none is malformed"


async def _is_dead(hub: Hub, task: str) -> bool:
    return any(letter.method.endswith(f":{task}") for letter in await hub.dead())


async def test_a_group_is_removed_while_the_broker_is_killed_and_none_of_its_tasks_is_left(
    own_rabbitmq: PrivateNode,
) -> None:
    """Invariant: every accepted task fails and is kept, none waits for ever, and nothing stays reserved."""
    settings = Settings(url=own_rabbitmq.url, secret="s", prefix=f"t{new_id(6)}", slot_idle=1.0, **QUICK)  # type: ignore[arg-type]
    async with Hub.local(nodes=NODES, workers=1, slots=0, modules=[__name__], settings=settings) as hub:
        group = await hub.placement_group([{"cpu": 1}])
        waiting = [hub.options(placement=group[0]).submit(where, 60.0) for _ in range(1000)]
        await asyncio.gather(*(future.accepted() for future in waiting))
        await asyncio.sleep(SETTLED)
        assert await hub.remove(group)
        await asyncio.to_thread(own_rabbitmq.kill)
        await asyncio.to_thread(own_rabbitmq.restart)
        async with asyncio.timeout(40):
            failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, PlacementInfeasible) for error in failed)
        kept = {letter.id for letter in await _all_dead(hub)}
        assert len(kept) >= 1000
        assert await until(lambda: _all_free(hub))
        assert not [queue for queue in await hub.tasks() if queue.needs is not None]


async def _all_dead(hub: Hub) -> list[DeadLetter]:
    found = await hub.dead(1000)
    while len(more := await hub.dead(1000, after=found[-1].id)):
        found += more
    return found


async def test_infeasible_tasks_fail_at_once_and_are_not_sent(hub: Hub) -> None:
    with pytest.raises(
        PlacementInfeasible, match=r"asks for resources \{'cpu': 64.0\}; the most that any node has: .*4.0"
    ):
        await hub.options(resources={"cpu": 64}).submit(where)
    with pytest.raises(PlacementInfeasible, match="asks for node 'three'; there are: one, two"):
        await hub.options(node="three").submit(node_of)
    with pytest.raises(PlacementInfeasible, match="gold"):
        await hub.options(resources={"gold": 1}).chain(node_of, where).submit()
    group = await hub.placement_group([{"cpu": 1}])
    with pytest.raises(PlacementInfeasible, match="bundle 0 of its group has"):
        await hub.options(placement=group[0], resources={"gpu": 1}).submit(devices)
    with pytest.raises(ValidationError, match="cannot be -1"):
        hub.options(resources={"cpu": -1})
    with pytest.raises(ValidationError, match="cannot be nan"):
        task(resources={"cpu": float("nan")})(where)
    assert not [queue for queue in await hub.tasks() if queue.waiting]


async def test_retried_and_redelivered_tasks_run_in_dedicated_slots_again(hub: Hub, tmp_path: object) -> None:
    assert await hub.submit(twice, f"{tmp_path}/twice") == 2
    assert await hub.submit(die, f"{tmp_path}/die") == "alive"
    assert await hub.options(delay=0.5).submit(where)


async def test_a_task_that_waits_for_resources_says_so(hub: Hub) -> None:
    holding = [hub.submit(devices, 4.0) for _ in range(2)]
    await until(lambda: _free_gpus(hub, 0))
    waits = hub.options(resources={"cpu": 1, "gpu": 2}).submit(devices)
    await waits.accepted()
    assert await until(lambda: _demanded(hub))
    explained = await hub.explain(waits)
    assert "It waits for a slot: it asks for resources" in explained.text, explained.text
    [info] = [queue for queue in await hub.tasks() if queue.waits_for]
    assert (info.queue, str(info.needs), info.waiting) == ("work", "cpu 1, gpu 2", 1)
    await hub.get(holding)
    assert sorted((await waits).split(",")) == ["0", "1"]


async def _free_gpus(hub: Hub, amount: float) -> bool:
    return sum(node.resources_free.get("gpu", 0.0) for node in await hub.nodes()) == amount


async def _demanded(hub: Hub) -> bool:
    return [(d.kind, d.resources, d.count) for d in await hub.demand()] == [("task", {"cpu": 1.0, "gpu": 2.0}, 1)]


async def test_an_actor_sees_the_gpus_that_it_has(hub: Hub) -> None:
    trainers = [await hub.spawn(Trainer) for _ in range(2)]
    assert sorted([await trainer.devices() for trainer in trainers]) == ["0", "1"]
    await hub.kill(trainers[0])
    assert await hub.options(resources={"gpu": 0.5}).submit(devices) == "0"


async def test_a_killed_actor_s_gpus_are_reused_only_when_its_process_has_ended(hub: Hub, tmp_path: Path) -> None:
    """Invariant: no two processes have one GPU, though control gives it away as soon as the actor is dead; and no actor waits
    for ever for a process whose event loop is blocked."""
    first = await hub.spawn(Owner, 0)
    pid = await first.pid()
    blocking = first.block(f"{tmp_path}/blocks")
    await until((tmp_path / "blocks").exists)
    await hub.kill(first)
    second = await hub.spawn(Owner, pid)
    async with asyncio.timeout(40):
        assert not await second.is_former_there()
        await asyncio.gather(blocking, return_exceptions=True)


async def test_tasks_go_on_when_one_node_after_the_other_is_killed(hub: Hub) -> None:
    """Invariant: every accepted task is done, and no node has more slots than it has room for, whichever node runs control."""
    cluster = cast(LocalCluster, hub._cluster)
    futures = [hub.submit(where, 0.2) for _ in range(150)]
    await hub.wait(futures, count=10)
    await cluster.stop_node("two", signal.SIGKILL)
    await hub.wait(futures, count=30)
    cluster.start_node("two", resources=NODES["two"])
    await hub.wait(futures, count=60)
    await cluster.stop_node("one", signal.SIGKILL)
    async with asyncio.timeout(50):
        assert len(await hub.get(futures)) == 150
    assert await until(lambda: _all_free(hub, {"two"}))
