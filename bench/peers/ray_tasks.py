"""Ray's tasks and its object store: `python -m bench.peers.ray_tasks SECONDS` prints its figures.
Its actors are in `bench/ray_echo.py`."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
import ray

from bench.peers.ray_here import ray_here
from bench.peers.script import in_batches, one_by_one, report
from bench.peers.works import Work

SIZE = 100_000_000
KEPT = 5
ROUNDS = 20


@ray.remote
def noop() -> None:
    pass


@ray.remote(num_cpus=0)
class Reader:
    def get(self, references: list[Any]) -> float:
        """Seconds that this process takes to get an array; a reference within a list is not resolved on the way here."""
        began = time.perf_counter()
        ray.get(references[0])
        return time.perf_counter() - began


def objects(seconds: float) -> dict[Work, float]:
    """Medians. A put into memory that the store has not used yet costs its pages; memory that was let go has them, after the
    first rounds. A get ends when there is an array: a view of shared memory, nothing is copied."""
    array = np.ones(SIZE, dtype=np.uint8)
    kept: list[Any] = []
    fresh = [_put(array, kept) for _ in range(KEPT)]
    reader = Reader.remote()
    again, here, elsewhere = [], [], []
    until = time.perf_counter() + seconds
    while len(again) < ROUNDS or time.perf_counter() < until:
        del kept[-1]
        time.sleep(0.05)  # the store learns of it later
        again.append(_put(array, kept))
        began = time.perf_counter()
        ray.get(kept[-1])
        here.append(time.perf_counter() - began)
        elsewhere.append(ray.get(reader.get.remote(kept[-1:])))
    return {
        Work.PUT: SIZE / statistics.median(fresh) / 1e9,
        Work.PUT_AGAIN: SIZE / statistics.median(again) / 1e9,
        Work.GET: statistics.median(here) * 1e3,
        Work.GET_ELSEWHERE: statistics.median(elsewhere) * 1e3,
    }


def _put(array: Any, kept: list[Any]) -> float:
    began = time.perf_counter()
    kept.append(ray.put(array))
    return time.perf_counter() - began


def main(seconds: float) -> None:
    """One processor is one worker process. A list of references that is fetched at once is the way of Ray's documentation."""
    with ray_here(cpus=1):
        figures = {
            Work.ROUND_TRIPS: one_by_one(lambda: ray.get(noop.remote()), seconds),
            Work.TASKS: in_batches(lambda count: ray.get([noop.remote() for _ in range(count)]), seconds),
            **objects(seconds),
        }
    report("ray", "num_cpus=1 for tasks, ray.get of a list", figures)


if __name__ == "__main__":
    main(float(sys.argv[1]))
