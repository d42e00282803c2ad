"""Linear regression by gradient descent: the data is put into the object store once, and the slots read it there, uncopied.

    python -m examples.linear_regression                     a broker in memory and four slots, on this machine
    python -m examples.linear_regression --broker rabbitmq   on a private RabbitMQ

Each step is a handful of tasks, one for each part of the rows; each returns the gradient of its part, and the mean of all moves
the weights. It ends by holding them against the exact solution by least squares, and fails where they differ.
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
    """Of half the squared error, summed over the rows from `first` up to `last`. `features` and `targets` are read-only views
    of the node's shared memory."""
    rows = features[first:last]
    found: Array = rows.T @ (rows @ weights - targets[first:last])
    return found


def made_up() -> tuple[Array, Array]:
    """Rows of standard normal features, and what a hidden line says of them, with noise."""
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
        raise SystemExit("it has not learned")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.linear_regression")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    asyncio.run(main(parser.parse_args().broker))
