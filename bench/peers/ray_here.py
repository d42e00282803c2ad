"""A private Ray cluster on this machine, for the scripts of the peers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def ray_here(cpus: int) -> Iterator[None]:
    """Start Ray without a dashboard, and delete its directory at the end. The runner's environment keeps it on loopback."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, _temp_dir=directory)
        try:
            yield
        finally:
            ray.shutdown()
