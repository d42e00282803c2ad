"""Shared parts of the peers' scripts. Uses only the standard library, because it runs in each peer's environment."""

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

READY_TIMEOUT_SECONDS = 60.0  # for the first reply of a worker
DONE_TIMEOUT_SECONDS = 120.0  # for a batch
STOP_TIMEOUT_SECONDS = 5.0  # for the end of a worker


@contextmanager
def worker(module: str, *arguments: str, **environment: str) -> Iterator[None]:
    """Run `python -m module` as a worker process with an extended environment, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def in_batches(run: Callable[[int], object], seconds: float) -> float:
    """Return tasks per second; `run(count)` runs that many tasks.

    The figure is that of the first batch that takes at least `seconds`. Smaller batches before it warm up and estimate
    its size.
    """
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
    """Return round trips per second; each starts when the one before has ended."""
    for _ in range(50):
        once()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        once()
        count += 1
    return count / (time.perf_counter() - began)


def report(package: str, how: str, figures: Mapping[Work, float]) -> None:
    """Print the last line of a script, which `bench.peers.runner` reads."""
    print(json.dumps({"version": metadata.version(package), "how": how, "figures": figures}))
