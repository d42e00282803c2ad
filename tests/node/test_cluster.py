"""Nodes: several of them, draining, killed agents, control that moves, isolation of by-value classes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from actorhub import ActorDied, Hub, PlacementInfeasible, Settings, actor, ask, tell
from actorhub.actors.spec import class_name_of
from actorhub.core.addressing import new_id
from actorhub.node.echo import Echo
from tests.conftest import QUICK
from tests.waiting import until


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@actor(max_restarts=10)
class Worker:
    def __init__(self, path: str = "") -> None:
        self.path = path
        self.count = 0

    async def pid(self) -> int:
        return os.getpid()

    def block(self) -> None:
        _append(Path(self.path), "begun\n")
        threading.Event().wait()

    async def work(self, number: int, seconds: float = 0.0) -> int:
        await asyncio.sleep(seconds)
        if self.path:
            _append(Path(self.path), f"{number}\n")
        return number


@pytest.fixture
def settings(broker_url: str) -> Settings:
    return Settings(url=broker_url, secret="s", namespace=new_id(6), **QUICK)  # type: ignore[arg-type]


async def test_actors_are_spread_over_nodes_and_workers(settings: Settings) -> None:
    async with Hub.local(nodes=2, workers=2, modules=[__name__], settings=settings) as hub:
        nodes = await hub.nodes()
        assert {node.id for node in nodes} == {"node-1", "node-2"}
        assert all(len([w for w in node.workers if w.kind == "shared"]) == 2 for node in nodes)
        workers = await asyncio.gather(*(hub.spawn(Worker) for _ in range(8)))
        pids = await asyncio.gather(*(worker.pid() for worker in workers))
        assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2, 2, 2]


async def test_the_error_for_an_unknown_class_lists_the_classes_that_users_may_spawn(settings: Settings) -> None:
    """Invariant: services of the system are no classes of a node."""
    settings = settings.model_copy(update={"prefix": f"t{new_id(6)}"})
    async with Hub.local(nodes=1, workers=1, slots=0, settings=settings) as hub:
        with pytest.raises(PlacementInfeasible) as error:
            await hub.spawn(Worker)
        assert str(error.value).endswith(f"nodes know: {class_name_of(Echo)}")


async def test_sigterm_drains_a_node_and_nothing_accepted_is_lost(settings: Settings, tmp_path: Path) -> None:
    """Invariant: every tell that returned is handled once the dust has settled; running calls end; actors move."""
    path = tmp_path / "numbers"
    hub = Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings)
    async with hub:
        workers = [await hub.spawn(Worker, str(path)) for _ in range(2)]
        for worker in workers:
            await worker.pid()
        tells = [
            asyncio.create_task(tell(worker.work, number, 0.001))
            for number in range(600)
            for worker in (workers[number % 2],)
        ]
        long = ask(workers[0].work, 1000, 1.0)
        await asyncio.gather(*tells[:10])
        assert hub._cluster is not None
        stopping = asyncio.create_task(hub._cluster.stop_node("node-1", signal.SIGTERM))
        await asyncio.gather(*tells)
        assert await long == 1000
        await stopping
        for number, worker in enumerate(workers):
            assert await worker.work(2000 + number) == 2000 + number
        numbers = [int(line) for line in path.read_text().split()]
        assert sorted(set(numbers)) == [*range(600), 1000, 2000, 2001]
        infos = await hub.actors()
        assert {info.node for info in infos} == {"node-2"}
        assert {info.restarts for info in infos} == {0}, "a move is no restart"


async def test_a_killed_agent_takes_its_workers_along_and_its_actors_go_on_elsewhere(settings: Settings) -> None:
    """Invariant: the calls on their way are answered, also when the killed node ran control."""
    hub = Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings)
    async with hub:
        workers = [await hub.spawn(Worker) for _ in range(4)]
        pids = await asyncio.gather(*(worker.pid() for worker in workers))
        assert hub._cluster is not None
        calls = [worker.work(number, 0.3) for number, worker in enumerate(workers)]
        await asyncio.sleep(0.1)
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        assert await asyncio.gather(*calls) == [0, 1, 2, 3]
        new = await asyncio.gather(*(worker.pid() for worker in workers))
        assert sum(1 for before, after in zip(pids, new, strict=True) if before != after) == 2
        await until(lambda: not any(_exists(pid) for pid in set(pids) - set(new)))
        another = await hub.spawn(Worker)
        assert await another.work(7) == 7


async def test_a_killed_agent_s_worker_ends_though_a_cancelled_call_holds_a_thread(
    settings: Settings, tmp_path: Path
) -> None:
    """Invariant: the actor goes on elsewhere, and its worker is gone, whatever the thread does that nobody waits for."""
    hub = Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings)
    async with hub:
        workers = [await hub.spawn(Worker, str(tmp_path / f"begun-{number}")) for number in range(2)]
        pids = await asyncio.gather(*(worker.pid() for worker in workers))
        calls = [ask(worker.block) for worker in workers]
        await until(lambda: len(list(tmp_path.iterdir())) == 2)
        for call in calls:
            call.cancel()
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        await until(lambda: not all(_exists(pid) for pid in pids))
        [there] = [pid for pid in pids if _exists(pid)]
        moved = workers[pids.index(there) - 1]
        assert await moved.pid() == there


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_what_a_killed_agent_has_left_is_removed_by_the_next(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: directories of living agents stay, and none is left in the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def left() -> set[Path]:
        return set(tmp_path.glob("actorhub-*"))

    def cluster() -> Hub:
        own = settings.model_copy(update={"prefix": f"t{new_id(6)}"})
        return Hub.local(workers=1, modules=[__name__], settings=own)

    async with cluster():
        living = left()
        assert living
        async with cluster() as other:
            pid = await (await other.spawn(Worker)).pid()
            assert other._cluster is not None
            killed = left() - living
            assert killed
            await other._cluster.stop_node("node-1", signal.SIGKILL)
            await until(lambda: not _exists(pid))
            assert left() == living | killed
        async with cluster():
            assert living < left()
            assert not killed & left()
    assert not left()


async def test_control_s_successor_knows_the_names_and_keeps_the_actors(settings: Settings) -> None:
    """Invariant: whichever node is killed, names stay taken and actors that lived elsewhere are not restarted."""
    hub = Hub.local(nodes=3, workers=1, modules=[__name__], settings=settings)
    async with hub:
        for number in range(6):
            await hub.options(name=f"worker-{number}").spawn(Worker)
        before = {info.name: info for info in await until(lambda: _all_running(hub, 6))}
        assert hub._cluster is not None
        for node in ("node-1", "node-2"):
            await hub._cluster.stop_node(node, signal.SIGKILL)
            after = {info.name: info for info in await until(lambda: _all_running(hub, 6))}
            for name, info in after.items():
                if before[name].node == info.node:
                    assert info.restarts == before[name].restarts
            before = after
        found = await hub.find(Worker, "worker-3")
        assert await found.work(3) == 3
        same = await hub.options(name="worker-5", get_if_exists=True).spawn(Worker)
        assert same == await hub.find(Worker, "worker-5")


@actor(durable=True, standby=True)
class Tally:
    def __init__(self) -> None:
        self.count = 0

    async def next(self) -> int:
        self.count += 1
        return self.count


@pytest.mark.parametrize("killed", ["home", "standby"])
async def test_a_standby_goes_on_though_control_never_hears_of_the_killed_node(broker_url: str, killed: str) -> None:
    """Invariant: each call counts once, and none waits for control to take the node for lost, which it never does here."""
    settings = Settings(url=broker_url, secret="s", namespace=new_id(6), node_timeout=600, heartbeat=0.2)  # type: ignore[arg-type]
    async with Hub.local(nodes=3, workers=1, modules=[__name__], settings=settings) as hub:
        tally = await hub.spawn(Tally)
        assert [await tally.next() for _ in range(10)] == list(range(1, 11))
        info = await until(lambda: _backed(hub))
        nodes = {worker.id: node.id for node in await hub.nodes() for worker in node.workers}
        assert nodes[info.worker] != nodes[info.standby]
        assert hub._cluster is not None
        calls = [ask(tally.next) for _ in range(500)]
        await hub._cluster.stop_node(nodes[info.worker if killed == "home" else info.standby], signal.SIGKILL)
        assert sorted(await asyncio.gather(*calls)) == list(range(11, 511))
        assert await tally.next() == 511


async def _backed(hub: Hub) -> Any:
    [info] = await hub.actors()
    return info if info.state == "running" and info.standby is not None else None


async def test_control_s_successor_knows_what_actors_have_been_through(settings: Settings) -> None:
    """Invariant: restarts, and what the dead died of, are known when control has moved."""
    hub = Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings)
    async with hub:
        dead = await hub.spawn(Worker)
        await hub.kill(dead)
        await hub.options(name="tried").spawn(Worker)
        [before] = await until(lambda: _living(hub))
        [worker] = [worker for node in await hub.nodes() for worker in node.workers if worker.id == before.worker]
        os.kill(worker.pid, signal.SIGKILL)
        [before] = await until(lambda: _living(hub, restarts=1))
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        with pytest.raises(ActorDied, match=r"killed by hub\.kill"):
            await dead.work(1)
        [after] = await until(lambda: _living(hub))
        assert after.restarts == (2 if after.node != before.node else 1)
        found = await hub.find(Worker, "tried")
        assert await found.work(2) == 2


async def test_control_knows_everything_though_its_journal_has_been_written_over(
    broker_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Invariant: names, actors and what became of them outlive all that the broker keeps of control's journal, which has room
    for them."""
    room = 4 * 1024 * 1024
    settings = Settings(
        url=broker_url, secret="s", prefix=f"t{new_id(6)}", journal_retention=room, **{**QUICK, "heartbeat": 0.05}
    )  # type: ignore[arg-type]
    hub = Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings)
    async with hub:
        workers = await asyncio.gather(*(hub.options(name=f"w{number}").spawn(Worker) for number in range(40)))
        await asyncio.gather(*(hub.kill(worker) for worker in workers[30:]))
        for _ in range(25):  # each is about 400 KiB of journal: the plans have arguments
            big = await asyncio.gather(*(hub.spawn(Worker, "x" * 10_000) for _ in range(10)))
            await asyncio.gather(*(hub.kill(each) for each in big))
        before = {info.name: info.state for info in await hub.actors() if info.name is not None}
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        after = {info.name: info for info in await until(lambda: _named_and_settled(hub, 30))}
        assert {name: info.state for name, info in after.items()} == before
        with pytest.raises(ActorDied, match=r"killed by hub\.kill"):
            await workers[35].work(1)
        assert await asyncio.gather(*(worker.work(7) for worker in workers[:30])) == [7] * 30
    assert "need more than" not in capfd.readouterr().err


async def _named_and_settled(hub: Hub, running: int) -> list[Any]:
    there = {node.id for node in await hub.nodes()}
    infos = [info for info in await hub.actors() if info.name is not None]
    settled = [info for info in infos if info.state == "running" and info.node in there]
    return infos if len(settled) == running else []


async def _living(hub: Hub, restarts: int = 0) -> list[Any]:
    there = {node.id for node in await hub.nodes()}
    infos = [info for info in await hub.actors() if info.state == "running" and info.node in there]
    return [info for info in infos if info.restarts >= restarts]


async def _all_running(hub: Hub, count: int) -> list[Any]:
    infos = await hub.actors()
    living = {node.id for node in await hub.nodes()}
    running = [info for info in infos if info.state == "running" and info.node in living]
    return running if len(running) == count == len(infos) else []


async def _run_script(code: str, broker_url: str, directory: Path) -> asyncio.subprocess.Process:
    script = directory / "script.py"
    script.write_text(code)
    environment = {**os.environ, "ACTORHUB_URL": broker_url}
    return await asyncio.create_subprocess_exec(sys.executable, str(script), stdout=subprocess.PIPE, env=environment)


async def test_nodes_of_a_local_cluster_end_with_the_process_that_started_them(broker_url: str, tmp_path: Path) -> None:
    process = await _run_script(
        "import asyncio, json\n"
        "from actorhub import Hub\n"
        "async def main():\n"
        "    async with Hub.local(workers=1) as hub:\n"
        "        [node] = await hub.nodes()\n"
        "        print(json.dumps([node.pid, node.workers[0].pid]), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n",
        broker_url,
        tmp_path,
    )
    assert process.stdout is not None
    pids = json.loads(await process.stdout.readline())
    process.kill()
    await process.wait()
    await until(lambda: not any(_exists(pid) for pid in pids))


async def test_a_class_from_a_script_travels_by_value(broker_url: str, tmp_path: Path) -> None:
    process = await _run_script(
        "import asyncio\n"
        "from actorhub import Hub, actor, ask\n"
        "FACTOR = 3\n"
        "def helper(n): return n * FACTOR\n"
        "@actor\n"
        "class Tripler:\n"
        "    async def triple(self, n: int) -> int: return helper(n)\n"
        "    def slowly(self, n: int) -> int: return helper(n)\n"
        "async def main():\n"
        "    async with Hub.local(workers=1) as hub:\n"
        "        t = await hub.spawn(Tripler)\n"
        "        print(await t.triple(4), await ask(t.slowly, 5))\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n",
        broker_url,
        tmp_path,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "12 15\n")


async def test_classes_from_a_script_take_handles_of_each_other(broker_url: str, tmp_path: Path) -> None:
    process = await _run_script(
        "from __future__ import annotations\n"
        "import asyncio\n"
        "from actorhub import Hub, actor, ask, ref\n"
        "@actor\n"
        "class Scale:\n"
        "    async def of(self, n: int) -> int: return n * 3\n"
        "@actor\n"
        "class Pair:\n"
        "    def __init__(self, scale: Scale, number: int) -> None:\n"
        "        self.scale, self.number = scale, number\n"
        "    async def own(self) -> int: return await self.scale.of(self.number)\n"
        "    async def both(self, other: Pair) -> int: return await other.own() + await self.own()\n"
        "async def main():\n"
        "    async with Hub.local(workers=1) as hub:\n"
        "        scale = await hub.spawn(Scale)\n"
        "        one, two = await hub.spawn(Pair, scale, 1), await hub.spawn(Pair, scale, 2)\n"
        "        print(await one.both(two))\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n",
        broker_url,
        tmp_path,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "9\n")
