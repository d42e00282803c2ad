"""The same echo with a Ray actor, for comparison. `python -m bench.ray_echo SECONDS` prints its figures.

It runs in a separate environment that has Ray and no package of ActorHub.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import ray

from bench.peers.ray_here import ray_here
from bench.peers.script import report
from bench.peers.works import Work

PAYLOAD = "x" * 80


@ray.remote
class Echo:
    def echo(self, text: str) -> str:
        return text


def measure(echo: Any, outstanding: int, seconds: float) -> float:
    """Return calls per second, in batches of `outstanding` calls.

    Each batch is fetched at once: the fastest way that Ray's documentation shows.
    """
    ray.get([echo.echo.remote(PAYLOAD) for _ in range(outstanding)])
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        ray.get([echo.echo.remote(PAYLOAD) for _ in range(outstanding)])
        count += outstanding
    return count / (time.perf_counter() - began)


def main(seconds: float) -> None:
    with ray_here(cpus=2):
        actor = Echo.remote()
        calls = measure(actor, 1000, seconds)
        figures = {
            Work.CALL: measure(actor, 1, seconds),
            Work.CALLS: calls,
            Work.DURABLE_CALLS: calls,  # Ray's calls are not durable; ActorHub's durable calls are compared with them
        }
    report("ray", "num_cpus=2 for actor calls", figures)


if __name__ == "__main__":
    main(float(sys.argv[1]))
