"""`make chaos`: a long trial."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from actorhub_rabbitmq import PrivateNode
from tests.chaos.broker import Broker, Container, Private
from tests.chaos.cluster import Cluster
from tests.chaos.trial import Plan, Trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--image", help="of RabbitMQ, to run in a container; by default a private node of the system's")
    parser.add_argument("--cluster", action="store_true", help="three nodes in containers")
    given = parser.parse_args()
    plan = Plan(given.minutes * 60, given.seed, loud=True)
    with _broker(given) as broker:
        try:
            print(asyncio.run(Trial(plan, broker).run()))
        except AssertionError as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


@contextmanager
def _broker(given: argparse.Namespace) -> Iterator[Broker]:
    if given.cluster or given.image is not None:
        made = Cluster(random.Random(given.seed)) if given.cluster else Container(given.image)
        try:
            yield made
        finally:
            made.remove()
    else:
        with PrivateNode() as node:
            yield Private(node)


if __name__ == "__main__":
    sys.exit(main())
