"""Speed of control's placement decisions for actors and groups: its pure state alone, without a broker.

`python -m bench.placement [NODES ...]` prints it for clusters of 10, 100 and 1,000 nodes, or of the given sizes.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass

from actorhub.actors.spec import ActorOptions
from actorhub.control.state import ControlState
from actorhub.control_api.events import GroupRequested, NodeReport, SpawnRequested, Tick, WorkerReport
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec

CLASS = "app:Actor"
CORES = 32
TIMEOUT = 8.0


@dataclass(frozen=True)
class Placed:
    """Speed of decisions on one core, for one cluster size."""

    nodes: int
    actors: float
    """Actors placed per second."""
    groups: float
    """Groups placed per second."""
    lost: int
    """Number of actors on the dead node."""
    replaced: float
    """Seconds until everything of the dead node is placed again."""


class World:
    """Control's state with nodes of 32 cores, every fourth of which has 4 GPUs."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.state = ControlState(node_timeout=TIMEOUT)
        self.nodes = [f"n{number}" for number in range(nodes)]
        for number, node in enumerate(self.nodes):
            self.state.handle(self._report(node, number), 0.0)
        self.state.changes()

    def _report(self, node: str, number: int) -> NodeReport:
        resources = {"cpu": CORES, "memory": 128e9} | ({"gpu": 4} if number % 4 == 0 else {})
        workers = [WorkerReport(id=f"{node}-w{at}", pid=1) for at in range(2)]
        labels = {"zone": "abc"[number % 3]}
        return NodeReport(
            node=node,
            host=node,
            pid=1,
            version="1",
            labels=labels,
            resources=resources,
            classes=[CLASS],
            workers=workers,
        )

    def actors(self, count: int) -> float:
        """Place actors of many shapes that leave a third of the resources free; return actors per second."""
        plans = [self._actor(f"a{number}", count) for number in range(count)]
        began = time.process_time()
        for plan in plans:
            self.state.handle(SpawnRequested(plan=plan), 0.0)
            self.state.changes()
        return count / (time.process_time() - began)

    def _actor(self, actor_id: str, count: int) -> SpawnSpec:
        share = 0.66 * CORES * len(self.nodes) / count
        chance = self.random.random()
        resources = {"cpu": round(share * self.random.uniform(0.2, 1.8), 2)}
        if chance < 0.01:
            resources["gpu"] = 0.5
        return SpawnSpec(
            actor_id=actor_id,
            namespace="default",
            class_name=CLASS,
            lifetime="detached",
            options=ActorOptions(resources=resources),
            labels={"zone": self.random.choice("abc")} if chance > 0.8 else {},
        )

    def groups(self, count: int) -> float:
        """Place groups of 2 to 4 bundles with all strategies; return groups per second."""
        plans = [self._group(f"g{number}", count) for number in range(count)]
        began = time.process_time()
        for plan in plans:
            self.state.handle(GroupRequested(plan=plan), 0.0)
            self.state.changes()
        return count / (time.process_time() - began)

    def _group(self, group_id: str, count: int) -> PlacementGroupSpec:
        share = 0.2 * CORES * len(self.nodes) / (3 * count)
        bundles = [
            {"cpu": round(share * self.random.uniform(0.5, 1.5), 2) or 0.01} for _ in range(self.random.randint(2, 4))
        ]
        strategy = self.random.choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
        return PlacementGroupSpec(
            group_id=group_id, namespace="default", lifetime="detached", bundles=bundles, strategy=strategy
        )  # type: ignore[arg-type]

    def lose(self) -> tuple[int, float]:
        """Lose one silent node. Return the number of its actors, and the seconds until all of them are placed again."""
        lost = self.nodes[len(self.nodes) // 2]
        for number, node in enumerate(self.nodes):
            if node != lost:
                self.state.handle(self._report(node, number), TIMEOUT + 1)
        there = sum(info.node == lost for info in self.state.actors())
        self.state.changes()
        began = time.process_time()
        self.state.handle(Tick(), TIMEOUT + 1)
        self.state.changes()
        took = time.process_time() - began
        assert not any(info.state == "restarting" for info in self.state.actors())
        assert all(group.is_ready for group in self.state.groups())
        return there, took


def measure(nodes: int) -> Placed:
    """Measure with 100 actors and 10 groups for each node."""
    world = World(nodes)
    actors = world.actors(100 * nodes)
    groups = world.groups(10 * nodes)
    lost, replaced = world.lose()
    return Placed(nodes, actors, groups, lost, replaced)


def main() -> None:
    for nodes in [int(word) for word in sys.argv[1:]] or [10, 100, 1000]:
        print(measure(nodes), flush=True)


if __name__ == "__main__":
    main()
