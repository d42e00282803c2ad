"""The same echo by a Ray actor, for comparison. Runs in an environment of its own, which has Ray and nothing of ours:
`python ray_echo.py SECONDS` prints {outstanding: calls a second} as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray

PAYLOAD = "x" * 80


@ray.remote
class Echo:
    def echo(self, text: str) -> str:
        return text


def measure(echo: Any, outstanding: int, seconds: float) -> float:
    """Batches of so many calls, each batch fetched at once: the fastest way that Ray's documentation shows."""
    ray.get([echo.echo.remote(PAYLOAD) for _ in range(outstanding)])
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        ray.get([echo.echo.remote(PAYLOAD) for _ in range(outstanding)])
        count += outstanding
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    actor = Echo.remote()
    print(json.dumps({n: measure(actor, n, float(sys.argv[1])) for n in (1, 1000)}))
