"""Linear regression by gradient descent: slots read the data from the object store without a copy.

    python -m examples.linear_regression                     four slots on this machine, with an in-memory broker
    python -m examples.linear_regression --broker rabbitmq   the same with a private RabbitMQ

Each step runs one task for each part of the rows. A task returns the gradient of its part, and the mean of all
gradients moves the weights. At the end the program compares the weights with the exact least-squares solution, and
fails if they differ.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actorhub import Hub, task
from actorhub.cluster import BrokerChoice

ROWS, FEATURES, PARTS = 200_000, 20, 8
STEPS, RATE = 60, 0.5
NOISE = 0.1

Array = NDArray[np.float64]


@task
def gradient(features: Array, targets: Array, weights: Array, first: int, last: int) -> Array:
    """Return the gradient of half the squared error, summed over the rows from `first` up to `last`.

    `features` and `targets` are read-only views of the node's shared memory.
    """
    rows = features[first:last]
    found: Array = rows.T @ (rows @ weights - targets[first:last])
    return found


def made_up() -> tuple[Array, Array]:
    """Return rows of standard normal features, and targets from a hidden linear function with noise."""
    chance = np.random.default_rng(0)
    features = chance.standard_normal((ROWS, FEATURES))
    hidden = chance.uniform(-3, 3, FEATURES)
    return features, features @ hidden + NOISE * chance.standard_normal(ROWS)


async def descend(hub: Hub, features: Array, targets: Array) -> Array:
    weights = np.zeros(FEATURES)
    all_features, all_targets = await hub.put(features), await hub.put(targets)
    bounds = np.linspace(0, ROWS, PARTS + 1, dtype=int).tolist()
    for step in range(STEPS):
        parts = [
            hub.submit(gradient, all_features.as_argument(), all_targets.as_argument(), weights, first, last)
            for first, last in pairwise(bounds)
        ]
        weights = weights - RATE * sum(await hub.get(parts)) / ROWS
        if step % 10 == 9:
            error = float(np.mean((features @ weights - targets) ** 2))
            print(f"step {step + 1:3}: mean squared error {error:.5f}")
    return weights


async def main(broker: BrokerChoice) -> None:
    features, targets = made_up()
    async with Hub.local(workers=1, slots=4, broker=broker, modules=["examples.linear_regression"]) as hub:
        weights = await descend(hub, features, targets)
    exact = np.linalg.lstsq(features, targets, rcond=None)[0]
    difference = float(np.max(np.abs(weights - exact)))
    print(f"the largest difference to the exact solution: {difference:.2e}")
    if difference > 1e-6:
        raise SystemExit("the weights differ from the exact solution")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.linear_regression")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    asyncio.run(main(parser.parse_args().broker))
