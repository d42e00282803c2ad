"""Command line of the simulation: `python -m tests.simulation --seeds 10000 [--first S] [--mutant NAME] [--processes 2]`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from functools import partial

from tests.simulation.mutants import MUTANTS, parts_of
from tests.simulation.runner import Failure, search


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulates durable mailboxes, by seed."
    )
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="a shortcut, which must be caught")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tail", type=int, default=60, help="lines to show of the trace of a seed that failed")
    given = parser.parse_args()
    name = given.mutant or ""
    begun = time.monotonic()
    failure = _search(name, range(given.first, given.first + given.seeds), given.processes)
    took = time.monotonic() - begun
    if failure is None:
        print(f"{given.seeds} seeds from {given.first} on: nothing found in {took:.1f} s")
        return 0
    print(failure.report(given.tail))
    return 1


def _search(name: str, seeds: range, processes: int) -> Failure | None:
    if processes == 1:
        return search(parts_of(name), seeds)
    chunks = [seeds[at : at + 250] for at in range(0, len(seeds), 250)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        found = pool.imap(partial(_chunk, name), chunks)
        return next((failure for failure in found if failure is not None), None)


def _chunk(name: str, seeds: range) -> Failure | None:
    return search(parts_of(name), seeds)


if __name__ == "__main__":
    sys.exit(main())
