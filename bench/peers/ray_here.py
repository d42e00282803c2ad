"""A Ray of one's own on this machine, for the peers' scripts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def ray_here(cpus: int) -> Iterator[None]:
    """Without a dashboard; its directory goes with it. The runner's environment keeps it on loopback."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, _temp_dir=directory)
        try:
            yield
        finally:
            ray.shutdown()
