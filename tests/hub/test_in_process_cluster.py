"""With nothing installed: a cluster inside the process, `actorhub dev`, local clusters on the embedded broker, the plugin."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from actorhub import BrokerUnavailable, Hub, Settings, actor, ask, task
from actorhub.broker import Link, open_server
from actorhub.cluster import LocalCluster
from actorhub.tasks.execution.consumer import TaskConsumer
from tests.waiting import until

BIN = Path(sys.executable).parent
SCRIPT = """
    import asyncio, sys
    from actorhub import Hub, actor

    @actor
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        async def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    async def main() -> None:
        async with Hub() as hub:
            counter = await hub.spawn(Counter)
            print(await asyncio.gather(*(counter.add(1) for _ in range(5))))

    asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTORHUB_URL", raising=False)


@actor
class Where:
    async def pid(self) -> int:
        return os.getpid()

    def thread(self) -> int:
        return threading.get_ident()

    async def loop(self) -> int:
        return threading.get_ident()


@actor(isolation="process")
class Isolated:
    async def pid(self) -> int:
        return os.getpid()


def _threads() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("actorhub")}


async def test_a_hub_without_a_broker_brings_one_along_and_leaves_no_thread() -> None:
    before = _threads()
    async with Hub() as hub:
        where = await hub.options(name="where").spawn(Where)
        assert await where.pid() == os.getpid()
        assert len({await ask(where.thread), await where.loop(), threading.get_ident()}) == 3
        assert await hub.find(Where, "where") == where
        [node] = await hub.nodes()
        assert {worker.pid for worker in node.workers} == {os.getpid()}
        async with Hub(settings=hub.settings) as second:
            assert await (await second.find(Where, "where")).pid() == os.getpid()
    await until(lambda: _threads() == before)


async def test_two_hubs_without_a_broker_share_nothing() -> None:
    async with Hub() as first, Hub() as second:
        await first.options(name="same").spawn(Where)
        await second.options(name="same").spawn(Where)
        assert first.settings.url != second.settings.url


async def test_an_isolated_actor_inside_runs_here_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Hub() as hub:
        assert await (await hub.spawn(Isolated)).pid() == os.getpid()
        assert "shares this one; use Hub.local() for processes" in caplog.text


async def test_a_killed_worker_of_an_embedded_cluster_loses_nothing() -> None:
    """Invariant: every call is answered, in order, though the worker that had them is gone."""
    async with Hub.local(workers=2, broker="embedded", modules=[__name__]) as hub:
        where = await hub.options(max_restarts=5).spawn(Where)
        pid = await where.pid()
        calls = [where.pid() for _ in range(300)]
        os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        assert set(answers) - {pid}
        assert len(answers) == 300


async def test_auto_takes_rabbitmq_where_it_is_installed_and_else_the_embedded_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actorhub_rabbitmq.private_node.PrivateNode.available", staticmethod(lambda: False))
    cluster = LocalCluster(Settings(url=None), nodes=0, workers=0)
    await cluster.start()
    assert type(cluster._server).__name__ == "EmbeddedServer"
    await cluster.stop()


def test_a_script_runs_with_nothing_but_python(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[1, 2, 3, 4, 5]\n", 0), done.stderr


def test_dev_starts_a_cluster_in_one_command_that_other_processes_can_join() -> None:
    dev = subprocess.Popen(
        [BIN / "actorhub", "dev", __name__], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with dev:
        try:
            assert dev.stdout is not None
            assert dev.stdout.readline() == "ready; in another shell:\n"
            exported = dict(pair.split("=", 1) for pair in dev.stdout.readline().split()[1:])
            env = {**os.environ, **{name: value.strip("'") for name, value in exported.items()}}
            status = subprocess.run([BIN / "actorhub", "status"], env=env, capture_output=True, text=True, check=False)
            assert status.returncode == 0, status.stderr
            assert "node-1" in status.stdout
            assert "ActorHub embedded broker 4.0.0; it keeps everything in memory, and nothing on disk" in status.stdout
        finally:
            dev.send_signal(signal.SIGINT)
    assert dev.returncode == 0


def test_the_pytest_plugin_gives_hubs_and_a_broker(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            from actorhub import actor
            from actorhub.blocking import Hub as BlockingHub

            @actor
            class Mine:
                async def pid(self) -> int:
                    return os.getpid()

            async def test_inside(hub):
                assert await (await hub.options(name="n").spawn(Mine)).pid() == os.getpid()

            async def test_each_has_its_own(hub):
                await hub.options(name="n").spawn(Mine)

            async def test_processes(local_hub):
                mine = await local_hub.spawn(Mine)
                pid = await mine.pid()
                assert pid != os.getpid()
                os.kill(pid, signal.SIGKILL)
                assert await mine.pid() != pid

            def test_url(broker_url):
                import pika
                connection = pika.BlockingConnection(pika.URLParameters(broker_url))
                connection.channel().queue_declare("q")
                connection.close()
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_embedded_server_is_found_by_name() -> None:
    server = open_server("embedded")
    server.start()
    try:
        assert server.url.startswith("amqp://actorhub:")
        assert "@127.0.0.1:" in server.url
    finally:
        server.stop()


@task(queue="first")
def first_of_two(number: int) -> int:
    return number


@task(queue="second")
def second_of_two(number: int) -> int:
    return number


async def test_a_slot_that_could_not_take_up_a_queue_takes_it_up_over_its_next_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attach, failed = TaskConsumer.attach, list[str]()

    async def fails_once(self: TaskConsumer, link: Link) -> None:
        if self.queue not in failed:
            failed.append(self.queue)
            raise BrokerUnavailable("the broker has an internal error")
        await attach(self, link)

    monkeypatch.setattr(TaskConsumer, "attach", fails_once)
    async with Hub() as hub:
        assert await hub.get([hub.submit(first_of_two, 1), hub.submit(second_of_two, 2)]) == [1, 2]
    assert len(failed) >= 2
