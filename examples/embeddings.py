"""A pipeline of cpu and gpu stages that turns the Python language reference, whose text ships with Python, into vectors.

    python -m examples.embeddings                     two cpu and two gpu nodes here, with an in-memory broker
    python -m examples.embeddings --broker rabbitmq   the same with a private RabbitMQ
    python -m examples.embeddings --kill              kill a gpu node half-way

For each batch of passages, a chain of three tasks counts words on a cpu, embeds them on a gpu, and normalises them on a
cpu. Each task requires its own resources. The four gpus exist in name only: numpy does the work. Each task records
where it ran and which device it was given. At the end the program compares the vectors with those of the same functions
in this process, and fails if they differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
from collections import Counter
from pydoc_data.topics import topics
from typing import cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from actorhub import Hub, task
from actorhub.cluster import BrokerChoice, LocalCluster

NODES = {
    "cpu-1": {"cpu": 2.0, "gpu": 0.0},
    "cpu-2": {"cpu": 2.0, "gpu": 0.0},
    "gpu-1": {"cpu": 1.0, "gpu": 2.0},
    "gpu-2": {"cpu": 1.0, "gpu": 2.0},
}
PASSAGE_WORDS, BATCH_PASSAGES = 50, 32
FEATURES, DIMENSIONS = 4096, 256

Array = NDArray[np.float64]
Batch = tuple[Array, list[str]]
"""One row for each passage, and the places where the stages ran."""

_WORD = re.compile(r"[a-z_]{3,}")


@task(queue="embeddings", resources={"cpu": 1}, max_redeliveries=10)
def count(passages: list[str]) -> Batch:
    """Count the words of each passage; a word's hash selects one of FEATURES columns."""
    rows = np.zeros((len(passages), FEATURES))
    for row, passage in zip(rows, passages, strict=True):
        for word, times in Counter(_WORD.findall(passage)).items():
            row[crc32(word.encode()) % FEATURES] += times
    return rows, [place()]


@task(queue="embeddings", resources={"gpu": 1}, max_redeliveries=10)
def embed(counted: Batch) -> Batch:
    """Embed by a random projection, which nearly preserves distances (Johnson and Lindenstrauss, 1984)."""
    rows, places = counted
    projection = np.random.default_rng(0).standard_normal((FEATURES, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    return np.log1p(rows) @ projection, [*places, f"{place()} device {os.environ.get('CUDA_VISIBLE_DEVICES')}"]


@task(queue="embeddings", resources={"cpu": 1}, max_redeliveries=10)
def normalise(embedded: Batch) -> Batch:
    rows, places = embedded
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), [*places, place()]


def place() -> str:
    return os.environ.get("ACTORHUB_NODE", "here")


def read() -> list[str]:
    """Return the passages of all topics."""
    words = [_WORD.findall(topics[name].lower()) for name in sorted(topics)]
    starts = ((of, start) for of in words for start in range(0, len(of), PASSAGE_WORDS))
    return [" ".join(of[start : start + PASSAGE_WORDS]) for of, start in starts]


async def embed_all(hub: Hub, passages: list[str], *, kill: bool) -> Array:
    batches = [passages[at : at + BATCH_PASSAGES] for at in range(0, len(passages), BATCH_PASSAGES)]
    futures = [hub.chain(count, embed, normalise).submit(batch) for batch in batches]
    if kill:
        await hub.wait(futures, count=len(futures) // 3)
        print("SIGKILL of gpu-2")
        await cast(LocalCluster, hub._cluster).stop_node("gpu-2", signal.SIGKILL)
    done = await hub.get(futures)
    for stage, function in enumerate((count, embed, normalise)):
        ran = Counter(places[stage] for _, places in done)
        print(f"{function.__name__:>10}: " + ", ".join(f"{times} on {where}" for where, times in sorted(ran.items())))
    if not all("gpu" in places[1] for _, places in done):
        raise SystemExit("a batch was embedded on a node without a gpu")
    return np.concatenate([rows for rows, _ in done])


async def main(broker: BrokerChoice, *, kill: bool) -> None:
    passages = read()
    async with Hub.local(nodes=NODES, workers=1, slots=0, broker=broker, modules=["examples.embeddings"]) as hub:
        vectors = await embed_all(hub, passages, kill=kill)
    expected, _ = normalise(embed(count(passages)))
    difference = float(np.max(np.abs(vectors - expected)))
    print(f"{len(passages)} passages, the largest difference to one process: {difference:.1e}")
    if difference > 1e-9:
        raise SystemExit("the vectors differ from those of one process")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.embeddings")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    parser.add_argument("--kill", action="store_true", help="kill a gpu node half-way")
    given = parser.parse_args()
    asyncio.run(main(given.broker, kill=given.kill))
