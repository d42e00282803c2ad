"""The command line as a user runs it: processes, their output, their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actorhub import Settings, actor
from actorhub.address import new_id
from actorhub.blocking import Hub
from actorhub.broker import LocalServer
from tests.conftest import QUICK

ACTORHUB = str(Path(sys.executable).parent / "actorhub")


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def fail(self) -> None:
        raise RuntimeError("as [told] [/b]")


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
    assert "tests.test_cli:Counter" in shown
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
        (["visits", "none"], "MethodNotFound: Counter has no public method 'none'; it has: add, fail"),
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
