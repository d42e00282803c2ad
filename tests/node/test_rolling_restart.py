"""Nodes that drain while clients call their actors: one of several nodes, and all of them in turn."""

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
CLIENTS_PER_ACTOR = 2
MAX_PAUSE_SECONDS = 0.06  # between two calls of a client
CALL_TIMEOUT_SECONDS = 30.0  # after which a call without a reply hangs


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
    """Is told every note that is written."""

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
    """A keyed ledger: many instances behind few mailboxes."""


@task
def double(path: str, number: int) -> int:
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return 2 * number


class Load:
    """Clients that call until they are told to end, and the replies that they got."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.hub = hub
        self.positions: dict[str, int] = {}
        """The position of each note in its ledger, as its writer was told."""
        self.replied_at = {"plain": [0.0], "durable": [0.0], "keyed": [0.0], "tasks": [0.0]}
        """When replies came, by the event loop's clock."""
        self.tasks = 0
        self._path = directory / "ran"
        self._clients: list[asyncio.Task[None]] = []
        self._ended = False
        self._notes = 0

    async def begin(self) -> None:
        """Start all clients. Returns when every kind of call has had replies."""
        hub = self.hub
        self._echoes = [await hub.spawn(Echo) for _ in range(PLAIN)]
        self._archive = await hub.spawn(Archive)
        self._ledgers = [await hub.spawn(Ledger) for _ in range(LEDGERS)]
        self._pages = [hub.at(Page, f"page {number}") for number in range(KEYS)]
        now = asyncio.get_running_loop().time()
        self.replied_at = {kind: [now] for kind in self.replied_at}
        calls: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        for echo in self._echoes:
            calls.append(("plain", lambda echo=echo: self._ask(echo)))
        for ledger in self._ledgers:
            calls.append(("durable", lambda ledger=ledger: self._write(ledger)))
        for page in self._pages:
            calls.append(("keyed", lambda page=page: self._write(page)))
        calls.append(("tasks", self._run_tasks))
        self._clients = [
            asyncio.create_task(self._go_on(kind, call)) for kind, call in calls for _ in range(CLIENTS_PER_ACTOR)
        ]
        await self.resume(10)

    async def resume(self, replies: int) -> None:
        """Wait until so many more replies of each kind have come."""
        aims = {kind: len(times) + replies for kind, times in self.replied_at.items()}
        await until(lambda: self._failed() or all(len(self.replied_at[kind]) >= aim for kind, aim in aims.items()))
        for client in self._failed():
            client.result()

    def _failed(self) -> list[asyncio.Task[None]]:
        return [client for client in self._clients if client.done()]

    async def end(self) -> None:
        """Stop all clients. No call may have failed, and none may hang."""
        self._ended = True
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            await asyncio.gather(*self._clients)

    async def _go_on(self, kind: str, call: Callable[[], Awaitable[None]]) -> None:
        while not self._ended:
            await call()
            self.replied_at[kind].append(asyncio.get_running_loop().time())
            await asyncio.sleep(random.uniform(0.0, MAX_PAUSE_SECONDS))

    async def _ask(self, echo: Echo) -> None:
        word, seconds = new_id(8), random.uniform(0.0, 0.05)
        assert await echo.say(word, seconds) == word
        assert await ask(echo.say_in_a_thread, word, seconds) == word
        assert [letter async for letter in echo.spell(word, seconds)] == list(word)

    async def _write(self, ledger: Ledger) -> None:
        self._notes += 1
        note = str(self._notes)
        self.positions[note] = await ledger.write(note, self._archive, random.uniform(0.0, 0.01))

    async def _run_tasks(self) -> None:
        numbers = range(self.tasks, self.tasks + 20)
        self.tasks += 20
        results = await self.hub.get([self.hub.submit(double, str(self._path), number) for number in numbers])
        assert results == [2 * number for number in numbers]

    async def check(self) -> None:
        """Every confirmed call has taken effect once, by its reply and by the journals."""
        everything: list[str] = []
        for ledger in [*self._ledgers, *self._pages]:
            notes = await ledger.read()
            assert [self.positions.get(note) for note in notes] == list(range(1, len(notes) + 1))
            everything += notes
        assert sorted(everything) == sorted(self.positions)
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
        gaps = {
            kind: max(after - before for before, after in pairwise(times)) for kind, times in self.replied_at.items()
        }
        counts = {kind: len(times) - 1 for kind, times in self.replied_at.items()}
        every = sorted(moment for times in self.replied_at.values() for moment in times)
        parts = [f"{kind} {gap:.2f} s ({counts[kind]} replies)" for kind, gap in gaps.items()]
        longest = max(after - before for before, after in pairwise(every))
        print(f"\n{what}: the longest gaps between replies: {', '.join(parts)}; of all {longest:.2f} s")


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
    """Send a node SIGTERM. It has to end by itself, and so do its processes."""
    local = hub._cluster
    assert local is not None
    process = local.processes[node.id]
    await local.stop_node(node.id, signal.SIGTERM)
    assert process.returncode == 0
    assert not [pid for pid in (worker.pid for worker in node.workers) if exists(pid)]


@pytest.mark.parametrize("drained", ["node-1", "node-2"])
async def test_a_node_that_drains_under_load_fails_no_call(settings: Settings, drained: str, tmp_path: Path) -> None:
    """Invariant: every call has a reply; the state of each durable actor has every note once, in the order of the replies;
    every task ran; the node's processes end by themselves."""
    async with cluster(2, settings) as hub:
        nodes = await ready(hub, "node-1", "node-2")
        load = Load(hub, tmp_path)
        await load.begin()
        lived_there: set[Any] = {
            info.class_name.rpartition(":")[2] for info in await hub.actors() if info.node == drained
        }
        assert lived_there >= {"Echo", "Ledger", "Page"}
        await drain(hub, nodes[drained])
        await load.resume(20)
        await load.end()
        await load.check()
        assert {info.node for info in await hub.actors()} == {*nodes} - {drained}
        load.report(f"{drained} of two drained")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("replaced", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["restarted", "replaced"])
async def test_a_cluster_restarted_node_by_node_under_load_fails_no_call(
    settings: Settings, *, replaced: bool, tmp_path: Path
) -> None:
    """Invariant: the same as for one node, while every node is restarted or replaced in turn, and control moves with them. A
    replaced node drains after the new one has joined."""
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
            await load.resume(5)
        await load.end()
        await load.check()
        load.report("three nodes replaced" if replaced else "three nodes restarted")


async def _came_back(hub: Hub, former: NodeInfo) -> bool:
    nodes = {node.id: node for node in await hub.nodes()}
    return former.id in nodes and nodes[former.id].pid != former.pid and _whole(nodes[former.id])
