"""Speed of put and get of an array of 100 MB in the object store. `python -m bench.objects` prints it.

`put` is compared with the minimum that every store in shared memory needs: a plain copy into a fresh shared mapping.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from actorhub.objects.store import ObjectStore

T = TypeVar("T")

ARRAY_BYTES = 100_000_000


class Measured(NamedTuple):
    """Medians of all rounds."""

    copy: float
    """Gigabytes per second of a plain copy."""
    put: float
    """Gigabytes per second of a put."""
    get: float
    """Milliseconds of a get."""


def measure(rounds: int = 7) -> Measured:
    """Measure copies, puts and gets. They alternate, so that all see the same machine load."""
    store = ObjectStore.create("bench", f"objects-{os.getpid()}", capacity=3 * ARRAY_BYTES)
    value = np.random.default_rng(0).integers(0, 255, ARRAY_BYTES, dtype=np.uint8)
    copies: list[float] = []
    puts: list[float] = []
    gets: list[float] = []
    try:
        for _ in range(rounds):
            copies.append(_copy(value, store.path))
            object_id, taken = _timed(lambda: store.put(value).id)
            puts.append(taken)
            back, taken = _timed(lambda: store.get(object_id))  # noqa: B023
            gets.append(taken)
            assert back[-1] == value[-1]
            del back
            store.free(object_id)
    finally:
        store.close()
    copy, put, get = map(statistics.median, (copies, puts, gets))
    return Measured(ARRAY_BYTES / copy / 1e9, ARRAY_BYTES / put / 1e9, get * 1e3)


def _copy(value: np.ndarray, directory: Path) -> float:
    path = directory / "copy"
    with path.open("w+b") as file:
        file.truncate(ARRAY_BYTES)
        with mmap.mmap(file.fileno(), ARRAY_BYTES) as fresh:
            began = time.perf_counter()
            np.copyto(np.frombuffer(fresh, dtype=np.uint8), value)
            taken = time.perf_counter() - began
    path.unlink()
    return taken


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
    print(f"copy into a fresh shared mapping: {found.copy:.2f} GB/s")
    print(f"put of {ARRAY_BYTES // 10**6} MB: {found.put:.2f} GB/s, {found.put / found.copy:.2f} x the copy")
    print(f"get of {ARRAY_BYTES // 10**6} MB: {found.get:.2f} ms")
