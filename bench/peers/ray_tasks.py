"""Ray's tasks and object store. `python -m bench.peers.ray_tasks SECONDS` prints the figures.

`bench/ray_echo.py` measures Ray's actors.
"""

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

ARRAY_BYTES = 100_000_000
KEPT_ARRAYS = 5
ROUNDS = 20


@ray.remote
def noop() -> None:
    pass


@ray.remote(num_cpus=0)
class Reader:
    def get(self, references: list[Any]) -> float:
        """Return the seconds of a get in this process. Ray does not resolve a reference inside a list argument."""
        began = time.perf_counter()
        ray.get(references[0])
        return time.perf_counter() - began


def objects(seconds: float) -> dict[Work, float]:
    """Return medians of puts and gets.

    A put into memory that the store has not used before also pays for its pages; after the first rounds, freed memory
    has them already. A get ends when the array is available: a view of shared memory, without a copy.
    """
    array = np.ones(ARRAY_BYTES, dtype=np.uint8)
    kept: list[Any] = []
    fresh = [_put(array, kept) for _ in range(KEPT_ARRAYS)]
    reader = Reader.remote()
    again, here, elsewhere = [], [], []
    until = time.perf_counter() + seconds
    while len(again) < ROUNDS or time.perf_counter() < until:
        del kept[-1]
        time.sleep(0.05)  # until the store has freed it
        again.append(_put(array, kept))
        began = time.perf_counter()
        ray.get(kept[-1])
        here.append(time.perf_counter() - began)
        elsewhere.append(ray.get(reader.get.remote(kept[-1:])))
    return {
        Work.PUT: ARRAY_BYTES / statistics.median(fresh) / 1e9,
        Work.PUT_AGAIN: ARRAY_BYTES / statistics.median(again) / 1e9,
        Work.GET: statistics.median(here) * 1e3,
        Work.GET_ELSEWHERE: statistics.median(elsewhere) * 1e3,
    }


def _put(array: Any, kept: list[Any]) -> float:
    began = time.perf_counter()
    kept.append(ray.put(array))
    return time.perf_counter() - began


def main(seconds: float) -> None:
    """Measure with one processor, which means one worker process. Ray's documentation fetches many results as a list."""
    with ray_here(cpus=1):
        figures = {
            Work.ROUND_TRIPS: one_by_one(lambda: ray.get(noop.remote()), seconds),
            Work.TASKS: in_batches(lambda count: ray.get([noop.remote() for _ in range(count)]), seconds),
            **objects(seconds),
        }
    report("ray", "num_cpus=1 for tasks, ray.get of a list", figures)


if __name__ == "__main__":
    main(float(sys.argv[1]))
