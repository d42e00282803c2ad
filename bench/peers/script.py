"""What the peers' scripts share. Only the standard library: it runs in each peer's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

from bench.peers.works import Work

READY = 60.0  # seconds that a worker may take to its first answer
DONE = 120.0  # seconds that a batch may take
STOP = 5.0  # seconds that a worker may take to end


@contextmanager
def worker(module: str, *arguments: str, **environment: str) -> Iterator[None]:
    """`python -m module` as a worker process, with more in its environment; it is ended by pid, whatever happens here."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def in_batches(run: Callable[[int], object], seconds: float) -> float:
    """Tasks a second, where `run(count)` does so many: of the first batch that takes as long, after smaller ones that warm
    up and tell how many are needed."""
    run(100)
    count = 200
    while True:
        began = time.perf_counter()
        run(count)
        took = time.perf_counter() - began
        if took >= seconds:
            return count / took
        count = int(count * 1.2 * seconds / took)


def one_by_one(once: Callable[[], object], seconds: float) -> float:
    """Round trips a second, each begun when the one before has ended."""
    for _ in range(50):
        once()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        once()
        count += 1
    return count / (time.perf_counter() - began)


def report(package: str, how: str, figures: Mapping[Work, float]) -> None:
    """The last line that a script prints, for `bench.peers.runner`."""
    print(json.dumps({"version": metadata.version(package), "how": how, "figures": figures}))
