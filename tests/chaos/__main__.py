"""`python -m tests.chaos --minutes 10 --seed 7`."""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from actorhub_rabbitmq import PrivateNode
from tests.chaos.run import endure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="actorhub-chaos-"))
    print(f"seed {given.seed}, {given.minutes:g} minutes, logs in {directory}", flush=True)
    with PrivateNode() as broker:
        transfers, events = asyncio.run(endure(broker, directory, given.seed, given.minutes * 60))
    print("\n".join(events))
    print(f"{len(events)} events, {transfers} transfers: the books are right, and no call hangs")


main()
