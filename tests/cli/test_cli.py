"""The command line as a user runs it: processes, their output, their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actorhub import Settings, actor
from actorhub.actors.handle import address_of
from actorhub.actors.service import service_address
from actorhub.blocking import Hub
from actorhub.broker import LocalServer
from actorhub.control_api.services import NodeService
from actorhub.core.addressing import SYSTEM, new_id
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.session import Session
from actorhub.wire.method_signature import Untyped
from tests.conftest import QUICK
from tests.waiting import until

ACTORHUB = str(Path(sys.executable).parent / "actorhub")


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start
        self.is_open = False

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def fail(self) -> None:
        raise RuntimeError("as [told] [/b]")

    async def add_if_open(self, amount: int) -> None:
        if not self.is_open:
            raise RuntimeError("closed")
        self.value += amount

    async def open(self) -> None:
        self.is_open = True


@actor
class Stillborn:
    def __init__(self) -> None:
        raise RuntimeError("no way [/b]")

    async def ping(self) -> None: ...


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ACTORHUB, *arguments],
        env={**os.environ, "COLUMNS": "300", **(env or {})},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def env(broker: LocalServer) -> Iterator[dict[str, str]]:
    """The environment of a cluster of one node, which `actorhub node` serves."""
    settings = Settings(url=broker.url, secret="s", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]
    env = {**settings.to_environment(), "ACTORHUB_LOG_FORMAT": "json"}
    command = [ACTORHUB, "node", __name__, "--workers", "1", "--id", "n1", "--label", "zone=a", "--resource", "gpu=2"]
    node = subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
    assert node.stderr is not None
    rows: list[dict[str, Any]] = []
    while not rows or "is ready" not in rows[-1]["message"]:
        rows.append(json.loads(node.stderr.readline()))
    assert rows[-1].keys() >= {"time", "level", "logger", "message", "node"}
    assert rows[-1]["node"] == "n1"
    yield env
    node.terminate()
    _, said = node.communicate(timeout=20)
    assert node.returncode == 0, said
    assert all(json.loads(line)["node"] == "n1" for line in said.splitlines()), "JSON to the last line"


@pytest.fixture(scope="module")
def visits(env: dict[str, str]) -> Iterator[Hub]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        with Hub() as hub:
            hub.options(name="visits").spawn(Counter, 10)
            hub.options(name="stillborn").spawn(Stillborn)
            yield hub
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_status_shows_nodes_and_workers(env: dict[str, str]) -> None:
    shown = run("status", env=env)
    assert shown.returncode == 0
    for word in ("n1", "zone=a", "gpu=2.0", "pid", "broker: "):
        assert word in shown.stdout
    [node] = json.loads(run("status", "--json", env=env).stdout)
    hosting = [worker for worker in node["workers"] if worker["kind"] == "shared"]
    assert (node["id"], node["labels"], len(hosting)) == ("n1", {"zone": "a"}, 1)


@pytest.mark.usefixtures("visits")
def test_actors_shows_what_lives_and_what_died_of_what(env: dict[str, str]) -> None:
    shown = run("actors", env=env).stdout
    assert "visits" in shown
    assert "tests.cli.test_cli:Counter" in shown
    assert "RuntimeError: no way [/b]" in shown
    rows = {row["name"]: row for row in json.loads(run("actors", "--json", env=env).stdout)}
    assert (rows["visits"]["state"], rows["stillborn"]["state"]) == ("running", "dead")
    assert run("actors", "--json", "--namespace", "empty", env=env).stdout.strip() == "[]"
    assert "visits" in run("actors", "--all", "--namespace", "empty", env=env).stdout


@pytest.mark.usefixtures("visits")
def test_call_prints_the_answer_as_json(env: dict[str, str]) -> None:
    assert run("call", "visits", "add", '{"amount": 5}', env=env).stdout == "15\n"


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["visits", "add", "{amount"], "the arguments '{amount' are not JSON"),
        (["visits", "add", "5"], "are not a JSON object; write them as '{\"amount\": 5}'"),
        (["visits", "add", '{"amount": "x"}'], "InvalidArguments: Counter.add: amount:"),
        (
            ["visits", "none"],
            "MethodNotFound: Counter has no public method 'none'; it has: add, add_if_open, fail, open",
        ),
        (["visits", "fail"], "RuntimeError: as [told] [/b]\nremote traceback:"),
        (["nobody", "add"], "ActorNotFound"),
    ],
)
def test_a_call_that_fails_says_why_and_ends_with_code_1(
    env: dict[str, str], arguments: list[str], message: str
) -> None:
    done = run("call", *arguments, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr.split("remote traceback")[0]


async def _letters(hub: Hub, count: int) -> list[DeadLetter]:
    letters = hub.dead()
    return letters if len(letters) == count else []


@pytest.fixture
def dead(visits: Hub) -> Iterator[tuple[Counter, Hub]]:
    """A counter that failed twice, and the hub of its namespace, which is this test's own."""
    hub = visits.options(namespace=new_id(8))
    counter = hub.spawn(Counter, 10)
    hub.tell(counter.fail)
    hub.tell(counter.add_if_open, 5)
    asyncio.run(until(lambda: _letters(hub, 2)))
    yield counter, hub
    hub.kill(counter)


def _in(hub: Hub) -> list[str]:
    return ["--namespace", hub._views["namespace"]]


def test_dead_list_shows_what_failed(env: dict[str, str], dead: tuple[Counter, Hub]) -> None:
    counter, hub = dead
    shown = run("dead", "list", *_in(hub), env=env)
    assert shown.returncode == 0, shown.stderr
    for word in ("id", "attempts", "replayed", "exception", "add_if_open", address_of(counter).actor_id):
        assert word in shown.stdout
    assert "RuntimeError: as [told] [/b]" in shown.stdout
    rows = json.loads(run("dead", "list", "--json", *_in(hub), env=env).stdout)
    assert [(row["id"], row["method"], row["replayed"]) for row in rows] == [
        (0, "fail", None),
        (1, "add_if_open", None),
    ]
    assert rows[1]["arguments"] == {"amount": 5}
    limited = json.loads(run("dead", "list", "--json", "--limit", "1", "--after", "0", *_in(hub), env=env).stdout)
    assert [row["id"] for row in limited] == [1]
    assert json.loads(run("dead", "list", "--json", "--namespace", "empty", env=env).stdout) == []


async def _tell_the_node_what_it_does_not_know(env: dict[str, str]) -> None:
    session = Session(Settings(url=env["ACTORHUB_URL"], prefix=env["ACTORHUB_PREFIX"]))
    await session.open()
    await session.sender.tell(
        service_address(session.names.node("n1"), NodeService), Untyped("n1.dance"), "dance", (), {}
    )
    await session.close()


def test_dead_letters_of_services_are_in_no_namespace_that_a_user_can_take(env: dict[str, str]) -> None:
    def listed(namespace: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(run("dead", "list", "--json", "--namespace", namespace, env=env).stdout)
        return rows

    asyncio.run(_tell_the_node_what_it_does_not_know(env))
    [letter] = asyncio.run(until(lambda: listed(SYSTEM)))
    assert (letter["method"], letter["reason"]) == ("dance", "invalid")
    assert listed("system") == []
    assert "dance" in run("dead", "show", str(letter["id"]), "--namespace", SYSTEM, env=env).stdout
    dropped = run("dead", "purge", "--yes", "--namespace", SYSTEM, env=env).stdout
    assert dropped == f"1 dead letters of namespace '{SYSTEM}' were deleted\n"


def test_dead_show_has_the_arguments_and_the_traceback(env: dict[str, str], dead: tuple[Counter, Hub]) -> None:
    _, hub = dead
    shown = run("dead", "show", "1", *_in(hub), env=env).stdout
    for line in ("reason     exception", "method     add_if_open", 'arguments  {\n  "amount": 5\n}', "attempts   1"):
        assert line in shown
    assert "error      RuntimeError: closed" in shown
    assert 'raise RuntimeError("closed")' in shown
    letter = json.loads(run("dead", "show", "1", "--json", *_in(hub), env=env).stdout)
    assert letter["exception"] == "builtins:RuntimeError"
    missing = run("dead", "show", "7", *_in(hub), env=env)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "LetterNotFound: there is no dead letter 7 in namespace" in missing.stderr


def test_dead_replay_sends_again_and_says_what_it_could_not_send(
    env: dict[str, str], dead: tuple[Counter, Hub]
) -> None:
    counter, hub = dead
    hub.ask(counter.open)
    done = run("dead", "replay", "7", "1", *_in(hub), env=env)
    assert done.returncode == 1
    assert "1: add_if_open was sent again to " in done.stdout
    assert "LetterNotFound: there is no dead letter 7" in done.stderr
    assert hub.ask(counter.add, 0) == 15
    first, second = json.loads(run("dead", "list", "--json", *_in(hub), env=env).stdout)
    assert (first["replayed"], second["replayed"]) == (None, hub.dead_letter(1).replayed)
    assert f"replayed   {time.strftime('%Y-')}" in run("dead", "show", "1", *_in(hub), env=env).stdout
    assert run("dead", "replay", "1", *_in(hub), env=env).returncode == 0
    assert hub.ask(counter.add, 0) == 20


def test_dead_purge_asks_first_and_counts(env: dict[str, str], dead: tuple[Counter, Hub]) -> None:
    _, hub = dead
    refused = run("dead", "purge", *_in(hub), env=env)
    assert refused.returncode == 1
    assert "Delete all dead letters of namespace" in refused.stdout
    assert len(hub.dead()) == 2
    purged = run("dead", "purge", "--yes", *_in(hub), env=env)
    assert purged.returncode == 0, purged.stderr
    assert purged.stdout.startswith("2 dead letters of namespace ")
    assert hub.dead() == []


def test_bench_measures_this_cluster(env: dict[str, str]) -> None:
    done = run("bench", "--seconds", "0.2", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ask") == 4
    assert done.stdout.count("tell") == 2


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["status"], {"ACTORHUB_URL": ""}, "no broker is configured; set ACTORHUB_URL"),
        (["status"], {"ACTORHUB_URL": "ftp://x/"}, "ftp"),
        (
            ["status"],
            {"ACTORHUB_URL": "amqp://me:hidden@localhost:1/", "ACTORHUB_CONNECT_TIMEOUT": "0.2"},
            "localhost:1",
        ),
        (["status"], {"ACTORHUB_NAMESPACE": "a b"}, "namespace"),
        (["node", "nosuchmodule"], {}, "No module named 'nosuchmodule'"),
        (["node", "--resource", "gpu"], {}, "--resource 'gpu' is not NAME=VALUE"),
        (["node", "--resource", "gpu=many"], {}, "--resource takes NAME=AMOUNT with a number"),
        (
            ["node", "--resource", "gpu=1.5"],
            {},
            "resource 'gpu' cannot be 1.5; give a fraction below 1, or a whole number",
        ),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_code_1(
    broker_url: str, arguments: list[str], env: dict[str, str], message: str
) -> None:
    done = run(*arguments, env={"ACTORHUB_URL": broker_url, **env})
    assert done.returncode == 1, done
    assert message in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_without_nodes_is_told_from_one_that_works(broker_url: str, prefix: str) -> None:
    env = {"ACTORHUB_URL": broker_url, "ACTORHUB_PREFIX": prefix}
    done = run("call", "visits", "add", "--timeout", "1", env=env)
    assert done.returncode == 1
    assert "no node has run yet in the cluster" in done.stderr
    assert "start one with `actorhub node MODULE`" in done.stderr
