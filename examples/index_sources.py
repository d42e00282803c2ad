"""The demo: actors in several processes count the identifiers in every source file of the Python standard library.

    python -m examples.index_sources                      two workers on this machine, with an in-memory broker
    python -m examples.index_sources --kill               kill one worker process half-way
    python -m examples.index_sources --broker rabbitmq    use a private RabbitMQ

At the end the program compares the result with a plain run in this process. If ACTORHUB_URL is set, it runs on that
cluster; start the nodes with `actorhub node examples.indexer`.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actorhub import Hub, ask
from examples.indexer import Indexer, identifiers

SHARDS = 8
console = Console(highlight=False)


async def main() -> int:
    parser = argparse.ArgumentParser(description="index the source files of the standard library with actors")
    parser.add_argument("--kill", action="store_true", help="kill one worker process half-way, with SIGKILL")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="TIMES", help="count each file this many times, for a longer job"
    )
    parser.add_argument(
        "--broker", choices=("embedded", "rabbitmq"), default="embedded", help="broker of the local cluster"
    )
    options = parser.parse_args()

    sources = read_sources() * options.repeat
    async with cluster(options.broker) as hub:
        began = time.perf_counter()
        found = await index(hub, sources, kill=options.kill)
        by_actors = time.perf_counter() - began
    began = time.perf_counter()
    plain = index_plainly(sources)
    in_one_process = time.perf_counter() - began

    show(found)
    console.print(f"{len(sources)} files: {by_actors:.1f} s with actors, {in_one_process:.1f} s in one process")
    return compare(found, plain)


def read_sources() -> list[str]:
    """Return the text of all files, except the few that are undecodable on purpose."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        try:
            with tokenize.open(path) as file:
                sources.append(file.read())
        except (SyntaxError, UnicodeDecodeError):
            continue
    return sources


def cluster(broker: Literal["embedded", "rabbitmq"]) -> AbstractAsyncContextManager[Hub]:
    """Return a hub of the cluster at ACTORHUB_URL, or of a local cluster that lives as long as the job."""
    if "ACTORHUB_URL" in os.environ:
        return Hub()
    return Hub.local(workers=2, broker=broker, modules=["examples.indexer"])


async def index(hub: Hub, sources: list[str], *, kill: bool) -> Counter[str]:
    """Count with actors: all calls are sent at once and wait in queues; replies are added as they arrive."""
    shards = await asyncio.gather(*(hub.spawn(Indexer) for _ in range(SHARDS)))
    calls = [ask(shards[number % SHARDS].count, source) for number, source in enumerate(sources)]

    total: Counter[str] = Counter()
    with progress_bar() as progress:
        bar = progress.add_task(f"{SHARDS} actors", total=len(calls))
        for answered, call in enumerate(asyncio.as_completed(calls), start=1):
            total.update(await call)
            progress.advance(bar)
            report_without_a_terminal(answered, len(calls))
            if kill and answered == len(calls) // 2:
                await kill_a_worker(hub)
    restarts = sum(info.restarts for info in await hub.actors())
    console.print(f"{restarts} actors were restarted meanwhile" if restarts else "no actor was restarted")
    return total


def index_plainly(sources: list[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    with progress_bar() as progress:
        for source in progress.track(sources, description="a plain run"):
            total.update(identifiers(source))
    return total


async def kill_a_worker(hub: Hub) -> None:
    """Kill a worker process, as the kernel does when memory runs out.

    Its actors restart in another worker, and the broker delivers its unfinished calls again.
    """
    for node in await hub.nodes():
        if node.host == socket.gethostname() and node.workers:
            os.kill(node.workers[0].pid, signal.SIGKILL)
            console.print(f"killed worker process {node.workers[0].pid}")
            return
    console.print("no worker runs on this machine, so no worker was killed")


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def report_without_a_terminal(done: int, total: int) -> None:
    """Print a line for each tenth of the job, for logs."""
    if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
        print(f"{done} of {total} files", flush=True)


def show(found: Counter[str]) -> None:
    table = Table("identifier", "times", title="most frequent identifiers")
    table.columns[1].justify = "right"
    for name, count in found.most_common(12):
        table.add_row(name, f"{count:,}")
    console.print(table)


def compare(found: Counter[str], plain: Counter[str]) -> int:
    """Return the program's exit code: 0 if both runs have the same counts."""
    if found == plain:
        console.print(f"the same as in one process: {found.total():,} identifiers, {len(found):,} distinct")
        return 0
    different = [name for name in found | plain if found[name] != plain[name]]
    console.print(f"NOT the same as in one process: {len(different):,} identifiers differ, such as:")
    for name in different[:10]:
        console.print(f"  {name}: {found[name]:,} with actors, {plain[name]:,} in one process")
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
