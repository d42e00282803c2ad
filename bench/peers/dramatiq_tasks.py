"""Dramatiq tasks over RabbitMQ, without results. `python -m bench.peers.dramatiq_tasks SECONDS` prints the figures.

The client and its worker both import this module and read the broker's URL from the environment. There the worker also
finds the name of a file, to which each finished task appends a byte.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.peers.script import DONE_TIMEOUT_SECONDS, in_batches, report, worker
from bench.peers.works import Work

DONE_FILE = "PEERS_DONE_FILE"
PREFETCH = 1000  # with the default, two for each thread, the worker often waits for the broker

# The default middleware; by default, publishing is not confirmed.
dramatiq.set_broker(RabbitmqBroker(url=os.environ["PEERS_URL"]))
done = os.open(os.environ.get(DONE_FILE, os.devnull), os.O_WRONLY | os.O_APPEND)


@dramatiq.actor
def noop() -> None:
    os.write(done, b".")


def batch(count: int, path: str) -> None:
    """Run `count` tasks, from the first send to the end of the last task."""
    target = os.stat(path).st_size + count
    for _ in range(count):
        noop.send()
    until = time.monotonic() + DONE_TIMEOUT_SECONDS
    while os.stat(path).st_size < target:
        if time.monotonic() > until:
            left = target - os.stat(path).st_size
            raise TimeoutError(f"{left} of {count} tasks were not finished in {DONE_TIMEOUT_SECONDS} s")
        time.sleep(0.001)


def measure(threads: int, seconds: float) -> float:
    arguments = ("bench.peers.dramatiq_tasks", "--processes", "1", "--threads", str(threads))
    with tempfile.NamedTemporaryFile() as file:
        environment = {DONE_FILE: file.name, "dramatiq_queue_prefetch": str(PREFETCH)}
        with worker("dramatiq", *arguments, **environment):
            batch(1, file.name)
            return in_batches(lambda count: batch(count, file.name), seconds)


def main(seconds: float) -> None:
    rates = {threads: measure(threads, seconds) for threads in (1, 8)}
    best = max(rates, key=lambda threads: rates[threads])
    how = f"1 worker process, {best} thread{'s' * (best > 1)}, prefetch {PREFETCH}, neither results nor confirms"
    report("dramatiq", how, {Work.TASKS_WITHOUT_RESULTS: rates[best]})


if __name__ == "__main__":
    main(float(sys.argv[1]))
