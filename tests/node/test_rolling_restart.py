"""Nodes that are told to end while clients call what lives on them: one node of several, and all of them in turn."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from actorhub import Hub, Settings, actor, ask, task, tell
from actorhub.control_api.info import NodeInfo
from actorhub.core.addressing import new_id
from tests.conftest import QUICK
from tests.waiting import until

PLAIN, LEDGERS, KEYS = 4, 4, 8
CLIENTS = 2  # for each actor
PAUSE = 0.06  # seconds that a client waits between calls, at most
ENDING = 30.0  # seconds after which a call that has no answer hangs


@actor
class Echo:
    async def say(self, word: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return word

    def say_in_a_thread(self, word: str, seconds: float) -> str:
        time.sleep(seconds)
        return word

    async def spell(self, word: str, seconds: float) -> AsyncIterator[str]:
        for letter in word:
            await asyncio.sleep(seconds / len(word))
            yield letter


@actor(durable=True)
class Archive:
    """Hears of everything that is written."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def keep(self, note: str) -> None:
        self.notes.append(note)

    async def read(self) -> list[str]:
        return self.notes


@actor(durable=True)
class Ledger:
    def __init__(self) -> None:
        self.notes: list[str] = []

    async def write(self, note: str, archive: Archive, seconds: float) -> int:
        self.notes.append(note)
        await asyncio.sleep(seconds)
        await tell(archive.keep, note)
        return len(self.notes)

    async def read(self) -> list[str]:
        return self.notes


@actor(durable=True, shards=4)
class Page(Ledger):
    """The same, many behind few mailboxes."""


@task
def double(path: str, number: int) -> int:
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return 2 * number


class Load:
    """Clients that call until they are told to end, and what they have been answered."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.answers: dict[str, int] = {}
        """Of each note: its place in its ledger, as the writer was told."""
        self.answered = {"plain": [0.0], "durable": [0.0], "keyed": [0.0], "tasks": [0.0]}
        """When answers came."""
        self.tasks = 0
        self._path = directory / "ran"
        self._clients: list[asyncio.Task[None]] = []
        self._ended = False
        self._notes = 0

    async def begin(self) -> None:
        """Returns when every kind of call has been answered."""
        hub = self.hub
        self._echoes = [await hub.spawn(Echo) for _ in range(PLAIN)]
        self._archive = await hub.spawn(Archive)
        self._ledgers = [await hub.spawn(Ledger) for _ in range(LEDGERS)]
        self._pages = [hub.at(Page, f"page {number}") for number in range(KEYS)]
        now = asyncio.get_running_loop().time()
        self.answered = {kind: [now] for kind in self.answered}
        calls: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        for echo in self._echoes:
            calls.append(("plain", lambda echo=echo: self._ask(echo)))
        for ledger in self._ledgers:
            calls.append(("durable", lambda ledger=ledger: self._write(ledger)))
        for page in self._pages:
            calls.append(("keyed", lambda page=page: self._write(page)))
        calls.append(("tasks", self._run_tasks))
        self._clients = [asyncio.create_task(self._go_on(kind, call)) for kind, call in calls for _ in range(CLIENTS)]
        await self.go_on(10)

    async def go_on(self, answers: int) -> None:
        """Until so many more of each kind have come."""
        aims = {kind: len(times) + answers for kind, times in self.answered.items()}
        await until(lambda: self._failed() or all(len(self.answered[kind]) >= aim for kind, aim in aims.items()))
        for client in self._failed():
            client.result()

    def _failed(self) -> list[asyncio.Task[None]]:
        return [client for client in self._clients if client.done()]

    async def end(self) -> None:
        """No call has failed, and none hangs."""
        self._ended = True
        async with asyncio.timeout(ENDING):
            await asyncio.gather(*self._clients)

    async def _go_on(self, kind: str, call: Callable[[], Awaitable[None]]) -> None:
        while not self._ended:
            await call()
            self.answered[kind].append(asyncio.get_running_loop().time())
            await asyncio.sleep(random.uniform(0.0, PAUSE))

    async def _ask(self, echo: Echo) -> None:
        word, seconds = new_id(8), random.uniform(0.0, 0.05)
        assert await echo.say(word, seconds) == word
        assert await ask(echo.say_in_a_thread, word, seconds) == word
        assert [letter async for letter in echo.spell(word, seconds)] == list(word)

    async def _write(self, ledger: Ledger) -> None:
        self._notes += 1
        note = str(self._notes)
        self.answers[note] = await ledger.write(note, self._archive, random.uniform(0.0, 0.01))

    async def _run_tasks(self) -> None:
        numbers = range(self.tasks, self.tasks + 20)
        self.tasks += 20
        results = await self.hub.get([self.hub.submit(double, str(self._path), number) for number in numbers])
        assert results == [2 * number for number in numbers]

    async def check(self) -> None:
        """Everything that was answered has happened once, as the answers and the journals say."""
        everything: list[str] = []
        for ledger in [*self._ledgers, *self._pages]:
            notes = await ledger.read()
            assert [self.answers.get(note) for note in notes] == list(range(1, len(notes) + 1))
            everything += notes
        assert sorted(everything) == sorted(self.answers)
        archived = await until(lambda: self._archived(len(everything)))
        assert sorted(archived) == sorted(everything)
        for ledger in self._ledgers:
            entries = await self.hub.history(ledger, limit=100_000)
            written = [word for entry in entries if entry.verdict == "counts" for word in entry.methods]
            assert written.count("write") == len(await ledger.read())
        assert {int(line) for line in self._path.read_text().split()} == set(range(self.tasks))
        assert await self.hub.dead() == []

    async def _archived(self, count: int) -> list[str]:
        notes = await self._archive.read()
        return notes if len(notes) >= count else []

    def report(self, what: str) -> None:
        gaps = {kind: max(after - before for before, after in pairwise(times)) for kind, times in self.answered.items()}
        counts = {kind: len(times) - 1 for kind, times in self.answered.items()}
        every = sorted(moment for times in self.answered.values() for moment in times)
        parts = [f"{kind} {gap:.2f} s ({counts[kind]} answers)" for kind, gap in gaps.items()]
        longest = max(after - before for before, after in pairwise(every))
        print(f"\n{what}: the longest gaps between answers: {', '.join(parts)}; of all {longest:.2f} s")


@pytest.fixture
def settings(broker_url: str) -> Settings:
    return Settings(url=broker_url, secret="s", namespace=new_id(6), **QUICK)  # type: ignore[arg-type]


def cluster(nodes: int, settings: Settings) -> Hub:
    return Hub.local(nodes=nodes, workers=1, slots=1, modules=[__name__], settings=settings)


async def ready(hub: Hub, *ids: str) -> dict[str, NodeInfo]:
    """The nodes with these ids, each with all of its processes."""

    async def look() -> dict[str, NodeInfo]:
        nodes = {node.id: node for node in await hub.nodes() if node.id in ids}
        return nodes if len(nodes) == len(ids) and all(_whole(node) for node in nodes.values()) else {}

    return await until(look)


def _whole(node: NodeInfo) -> bool:
    return {worker.kind for worker in node.workers} == {"shared", "task"}


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def drain(hub: Hub, node: NodeInfo) -> None:
    """It ends by itself, and so do its processes."""
    local = hub._cluster
    assert local is not None
    process = local.processes[node.id]
    await local.stop_node(node.id, signal.SIGTERM)
    assert process.returncode == 0
    assert not [pid for pid in (worker.pid for worker in node.workers) if exists(pid)]


@pytest.mark.parametrize("drained", ["node-1", "node-2"])
async def test_a_node_that_drains_under_load_fails_no_call(settings: Settings, drained: str, tmp_path: Path) -> None:
    """Invariant: every call is answered, whatever it is to; what durable actors were told is in their states once, and in the
    order in which they answered; every task ran; the node's processes end by themselves."""
    async with cluster(2, settings) as hub:
        nodes = await ready(hub, "node-1", "node-2")
        load = Load(hub, tmp_path)
        await load.begin()
        lived_there: set[Any] = {
            info.class_name.rpartition(":")[2] for info in await hub.actors() if info.node == drained
        }
        assert lived_there >= {"Echo", "Ledger", "Page"}
        await drain(hub, nodes[drained])
        await load.go_on(20)
        await load.end()
        await load.check()
        assert {info.node for info in await hub.actors()} == {*nodes} - {drained}
        load.report(f"{drained} of two drained")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("replaced", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["restarted", "replaced"])
async def test_a_cluster_restarted_node_by_node_under_load_fails_no_call(
    settings: Settings, *, replaced: bool, tmp_path: Path
) -> None:
    """Invariant: as above, though no node lives from the beginning to the end, and control moves with them. A node comes back
    under its id, or another takes its place before it leaves."""
    async with cluster(3, settings) as hub:
        nodes = await ready(hub, "node-1", "node-2", "node-3")
        load = Load(hub, tmp_path)
        await load.begin()
        assert hub._cluster is not None
        for node_id, node in nodes.items():
            if replaced:
                hub._cluster.start_node(f"new-{node_id}")
                await ready(hub, f"new-{node_id}")
                await drain(hub, node)
            else:
                await drain(hub, node)
                hub._cluster.start_node(node_id)
                await until(lambda former=node: _came_back(hub, former))  # type: ignore[misc]
            await load.go_on(5)
        await load.end()
        await load.check()
        load.report("three nodes replaced" if replaced else "three nodes restarted")


async def _came_back(hub: Hub, former: NodeInfo) -> bool:
    nodes = {node.id: node for node in await hub.nodes()}
    return former.id in nodes and nodes[former.id].pid != former.pid and _whole(nodes[former.id])
