"""A parameter server: trainers on separate nodes pull the weights and push gradients of their own rows.

    python -m examples.parameter_server                     three nodes on this machine, with an in-memory broker
    python -m examples.parameter_server --broker rabbitmq   the same with a private RabbitMQ
    python -m examples.parameter_server --kill              kill the node of a trainer half-way

A placement group reserves one bundle on each of three nodes. The server is durable: each gradient moves the weights
once, whatever is killed. A trainer whose node dies continues on the node where its bundle finds room. At the end the
program compares the weights with the exact least-squares solution, and fails if they differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from typing import cast

import numpy as np
from numpy.typing import NDArray

from actorhub import Hub, PlacementGroup, actor, ask
from actorhub.cluster import BrokerChoice, LocalCluster

ROWS, FEATURES, TRAINERS = 50_000, 10, 2
STEPS, RATE = 100, 0.2

Array = NDArray[np.float64]


@actor(durable=True, reads=("pull", "steps"))
class Server:
    def __init__(self) -> None:
        self.weights: Array = np.zeros(FEATURES)
        self.pushed = 0

    async def pull(self) -> Array:
        return self.weights

    async def push(self, gradient: Array) -> None:
        self.weights = self.weights - RATE * gradient
        self.pushed += 1

    async def steps(self) -> int:
        return self.pushed


@actor(max_restarts=10)
class Trainer:
    """Trains on its own rows, which it generates again after a restart."""

    def __init__(self, server: Server, part: int) -> None:
        self.server = server
        self.features, self.targets = rows(part)

    async def train(self, steps: int) -> None:
        for _ in range(steps):
            weights = await self.server.pull()
            gradient = self.features.T @ (self.features @ weights - self.targets) / ROWS
            await self.server.push(gradient)


def rows(part: int) -> tuple[Array, Array]:
    """Return standard normal features, and targets from a hidden linear function with noise."""
    hidden = np.random.default_rng(0).uniform(-3, 3, FEATURES)
    chance = np.random.default_rng(part + 1)
    features = chance.standard_normal((ROWS, FEATURES))
    return features, features @ hidden + 0.1 * chance.standard_normal(ROWS)


async def train(hub: Hub, *, kill: bool) -> Array:
    group = await hub.placement_group([{"cpu": 1}] * (1 + TRAINERS), strategy="STRICT_SPREAD", name="training")
    info = await group.ready(60)
    print(f"reserved on {', '.join(str(bundle.node) for bundle in info.bundles)}")
    server = await hub.options(placement=group[0]).spawn(Server)
    trainers = [await hub.options(placement=group[1 + part]).spawn(Trainer, server, part) for part in range(TRAINERS)]
    training = [ask(trainer.train, STEPS) for trainer in trainers]
    if kill:
        await _kill_a_trainers_node(hub, group, server)
    await asyncio.gather(*training)
    print(f"{await server.steps()} gradients were pushed")
    return await server.pull()


async def _kill_a_trainers_node(hub: Hub, group: PlacementGroup, server: Server) -> None:
    while await server.steps() < STEPS:
        await asyncio.sleep(0.01)
    [info] = [info for info in await hub.groups() if info.id == group.id]
    [node] = [node for node in await hub.nodes() if node.id == info.bundles[1].node]
    print(f"SIGKILL of {node.id} and its workers")
    os.kill(node.pid, signal.SIGSTOP)  # or the agent would notice that its workers died, and start others
    for worker in node.workers:
        os.kill(worker.pid, signal.SIGKILL)
    await cast(LocalCluster, hub._cluster).stop_node(node.id, signal.SIGKILL)


async def main(broker: BrokerChoice, *, kill: bool) -> None:
    modules = ["examples.parameter_server"]
    nodes = 1 + TRAINERS + kill  # a spare node for the bundle of the killed one
    async with Hub.local(nodes=nodes, workers=1, slots=0, broker=broker, modules=modules) as hub:
        weights = await train(hub, kill=kill)
    parts = [rows(part) for part in range(TRAINERS)]
    features, targets = (np.concatenate(each) for each in zip(*parts, strict=True))
    exact = np.linalg.lstsq(features, targets, rcond=None)[0]
    difference = float(np.max(np.abs(weights - exact)))
    print(f"the largest difference to the exact solution: {difference:.2e}")
    if difference > 1e-2:
        raise SystemExit("the weights differ from the exact solution")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.parameter_server")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    parser.add_argument("--kill", action="store_true", help="kill the node of a trainer half-way")
    given = parser.parse_args()
    asyncio.run(main(given.broker, kill=given.kill))
