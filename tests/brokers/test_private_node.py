"""Private RabbitMQ node: independent of others, keeps its messages over restarts, ends with the process that started it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actorhub.broker import Message, Outcome, Queue, open_broker, open_server
from actorhub.errors import BrokerUnavailable
from actorhub_rabbitmq import PrivateNode
from tests.waiting import SETTLED, until


async def test_stored_messages_survive_a_kill_and_a_clean_restart(own_rabbitmq: PrivateNode) -> None:
    outcomes: list[Outcome] = []
    broker = open_broker(own_rabbitmq.url)
    link = await broker.connect(name="test", on_lost=lambda error: None, on_blocked=lambda reason: None)
    await link.declare(Queue("kept"))
    link.publish("kept", Message(b"1"), outcomes.append)
    await until(lambda: outcomes == [Outcome.STORED])
    await asyncio.sleep(SETTLED)
    for kill in (True, False):
        before = own_rabbitmq.pid
        if kill:
            own_rabbitmq.kill()
        own_rabbitmq.restart()
        assert own_rabbitmq.pid != before
        again = await broker.connect(name="test", on_lost=lambda error: None, on_blocked=lambda reason: None)
        state = await again.state("kept")
        assert state is not None
        assert state.messages == 1
        await again.close()


def test_two_nodes_share_nothing_and_a_stopped_one_leaves_nothing(own_rabbitmq: PrivateNode) -> None:
    with PrivateNode() as other:
        assert other.url != own_rabbitmq.url
        directory, pid = other.directory, other.pid
        assert directory is not None
        listening = {
            connection.laddr
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening
        assert {address.ip for address in listening} == {"127.0.0.1"}, "it listens on loopback only"
    assert not directory.exists()
    assert not psutil.pid_exists(pid)


async def test_a_node_ends_with_the_process_that_started_it_even_if_that_is_killed(own_rabbitmq: PrivateNode) -> None:
    script = (
        "import os, signal\n"
        "from actorhub.broker import open_server\n"
        "server = open_server('rabbitmq')\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -9
    pid = int(done.stdout)
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_the_error_without_rabbitmq_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorhub_rabbitmq.private_node._SCRIPTS", ("/nowhere",))
    assert PrivateNode.available() is False
    with pytest.raises(BrokerUnavailable, match="apt-get install rabbitmq-server, or set ACTORHUB_URL"):
        PrivateNode().start()


def test_the_error_for_a_server_that_does_not_start_has_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "rabbitmq-server"
    script.write_text("#!/bin/sh\necho 'no disk left'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("actorhub_rabbitmq.private_node._SCRIPTS", (str(tmp_path),))
    with pytest.raises(BrokerUnavailable, match="no disk left"):
        PrivateNode().start()


def test_the_error_for_an_unknown_server_names_the_known_ones() -> None:
    with pytest.raises(BrokerUnavailable, match="no server is called 'kafka'; there are: embedded, rabbitmq"):
        open_server("kafka")
    assert os.environ.get("RABBITMQ_NODENAME") is None, "the environment of this process is unchanged"
