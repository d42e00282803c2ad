"""Celery tasks over RabbitMQ, with results by `rpc://`. `python -m bench.peers.celery_tasks SECONDS` prints the figures.

The client and its worker both import this module and read the broker's URL from the environment.
"""

from __future__ import annotations

import os
import sys

from celery import Celery
from celery.result import ResultSet

from bench.peers.script import DONE_TIMEOUT_SECONDS, READY_TIMEOUT_SECONDS, in_batches, one_by_one, report, worker
from bench.peers.works import Work

# "Optimizing" in Celery's guide recommends 50 to 150 for many short tasks; the default is 4.
PREFETCH = 100

app = Celery(broker=os.environ["PEERS_URL"], backend="rpc://")
app.conf.update(worker_prefetch_multiplier=PREFETCH)


@app.task(name="noop")
def noop() -> None:
    pass


def once() -> None:
    noop.delay().get(timeout=DONE_TIMEOUT_SECONDS)


def batch(count: int) -> None:
    """Run `count` tasks. `join_native` is Celery's fastest way to many results; a `group` or an own producer is no faster."""
    ResultSet([noop.delay() for _ in range(count)]).join_native(timeout=DONE_TIMEOUT_SECONDS)


def measure(pool: str, seconds: float) -> dict[Work, float]:
    """Measure with the default settings: early acknowledgements, persistent tasks, transient results, JSON.

    Events, task logs and messages between workers are off, because this work does not need them.
    """
    arguments = f"-A bench.peers.celery_tasks worker --pool {pool} --concurrency 1 --loglevel ERROR"
    quiet = "--without-gossip --without-mingle --without-heartbeat"
    with worker("celery", *arguments.split(), *quiet.split()):
        noop.delay().get(timeout=READY_TIMEOUT_SECONDS)
        return {Work.ROUND_TRIPS: one_by_one(once, seconds), Work.TASKS: in_batches(batch, seconds)}


def main(seconds: float) -> None:
    pools = {pool: measure(pool, seconds) for pool in ("prefork", "solo")}
    best = max(pools, key=lambda pool: pools[pool][Work.TASKS])
    report("celery", f"1 worker, {best} pool, prefetch {PREFETCH}, results by rpc://", pools[best])


if __name__ == "__main__":
    main(float(sys.argv[1]))
