"""How fast the object store takes an array of 100 MB, and gives it back: `python -m bench.objects` prints it.

What `put` is compared with is the least that any store in shared memory does: a plain copy into a fresh shared mapping.
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

from actorhub.objects.store import Store

T = TypeVar("T")

SIZE = 100_000_000


class Measured(NamedTuple):
    """Gigabytes a second of copies and puts, and the milliseconds of a get; medians."""

    copy: float
    put: float
    get: float


def measure(rounds: int = 7) -> Measured:
    """Copies, puts and gets in alternation, so that all see the same machine."""
    store = Store.create("bench", f"objects-{os.getpid()}", capacity=3 * SIZE)
    value = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
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
    return Measured(SIZE / copy / 1e9, SIZE / put / 1e9, get * 1e3)


def _copy(value: np.ndarray, directory: Path) -> float:
    path = directory / "copy"
    with path.open("w+b") as file:
        file.truncate(SIZE)
        with mmap.mmap(file.fileno(), SIZE) as fresh:
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
    print(f"put of {SIZE // 10**6} MB: {found.put:.2f} GB/s, {found.put / found.copy:.2f} x the copy")
    print(f"get of {SIZE // 10**6} MB: {found.get:.2f} ms")
