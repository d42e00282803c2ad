"""Celery's tasks over RabbitMQ, with results by `rpc://`: `python -m bench.peers.celery_tasks SECONDS` prints its figures.

The client and its worker both import this module, and find the broker in their environment.
"""

from __future__ import annotations

import os
import sys

from celery import Celery
from celery.result import ResultSet

from bench.peers.script import DONE, READY, in_batches, one_by_one, report, worker
from bench.peers.works import Work

PREFETCH = 100  # "Optimizing" in Celery's guide has 50 to 150 for tasks that are short and many; the default is 4

app = Celery(broker=os.environ["PEERS_URL"], backend="rpc://")
app.conf.update(worker_prefetch_multiplier=PREFETCH)


@app.task(name="noop")
def noop() -> None:
    pass


def once() -> None:
    noop.delay().get(timeout=DONE)


def batch(count: int) -> None:
    """`join_native` is Celery's optimised way to many results; a `group` or a producer of one's own is no faster here."""
    ResultSet([noop.delay() for _ in range(count)]).join_native(timeout=DONE)


def measure(pool: str, seconds: float) -> dict[Work, float]:
    """Acknowledgements, persistence and serializer are the defaults: early, persistent tasks and transient results, JSON.
    Events, task logs and what workers tell each other are off, as none of it is needed."""
    arguments = f"-A bench.peers.celery_tasks worker --pool {pool} --concurrency 1 --loglevel ERROR"
    quiet = "--without-gossip --without-mingle --without-heartbeat"
    with worker("celery", *arguments.split(), *quiet.split()):
        noop.delay().get(timeout=READY)
        return {Work.ROUND_TRIPS: one_by_one(once, seconds), Work.TASKS: in_batches(batch, seconds)}


def main(seconds: float) -> None:
    pools = {pool: measure(pool, seconds) for pool in ("prefork", "solo")}
    best = max(pools, key=lambda pool: pools[pool][Work.TASKS])
    report("celery", f"1 worker, {best} pool, prefetch {PREFETCH}, results by rpc://", pools[best])


if __name__ == "__main__":
    main(float(sys.argv[1]))
