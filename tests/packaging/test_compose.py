"""The cluster of compose/ on a Docker engine, and what becomes of the main job when a node is killed."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent.parent / "compose" / "docker-compose.yml"
PROJECT = "actorhub-test"
NODES = 3

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


def say(text: str) -> None:
    print(f"compose-test: {text}", flush=True)


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `docker compose` on a project of our own, whose published ports the engine chooses."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, f"docker compose {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done


def command(*arguments: str) -> list[str]:
    return [
        "docker",
        "compose",
        "--file",
        str(FILE),
        "--project-name",
        PROJECT,
        "--progress",
        "plain",
        *arguments,
    ]


def environment() -> dict[str, str]:
    """Ours, without settings of another cluster."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ACTORHUB_")}
    return ours | {"RABBITMQ_PORT": "0", "RABBITMQ_MANAGEMENT_PORT": "0"}


def containers(*, all: bool = False) -> dict[str, str]:
    """The state of each container of a node, by its name."""
    listed = compose("ps", "--format", "json", *(["--all"] if all else []), "node").stdout
    return {entry["Name"]: entry["State"] for entry in map(json.loads, listed.splitlines())}


@pytest.fixture
def cluster() -> Iterator[list[str]]:
    """The names of the node containers, all healthy."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers; start one, or set DOCKER_HOST")
    try:
        say("building the image")
        compose("build", "node")
        say(f"starting a broker and {NODES} nodes")
        compose("up", "--detach", "--wait", "--scale", f"node={NODES}", "node")
        names = sorted(containers())
        say(f"healthy: {', '.join(names)}")
        yield names
    except AssertionError:
        say(compose("logs", "--tail", "50").stdout)
        raise
    finally:
        compose("--profile", "demo", "down", "--volumes", "--remove-orphans", "--timeout", "30")
        say("all down")


def test_the_main_job_ends_with_the_right_result_though_a_node_container_is_killed_half_way(
    cluster: list[str],
) -> None:
    victim = cluster[0]
    demo = subprocess.Popen(
        command(
            "run", "--rm", "--no-TTY", "--no-deps", "demo", "python", "-m", "examples.index_sources", "--repeat", "8"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    killed_at = ""
    output: list[str] = []
    with demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            output.append(line)
            say(f"demo: {line.rstrip()}")
            done, _, rest = line.partition(" of ")
            if not killed_at and rest.endswith("files\n") and int(done) * 2 >= int(rest.split()[0]):
                subprocess.run(["docker", "kill", "--signal", "KILL", victim], check=True, capture_output=True)
                killed_at = line.strip()
                say(f"killed {victim} at {killed_at}")

    assert demo.returncode == 0, "".join(output)
    assert killed_at, "the demo reported no progress"
    assert "the same as in one process" in "".join(output)
    assert re.search(r"^\d+ actors were restarted meanwhile", "".join(output), re.M), "it was killed too late to matter"
    assert containers(all=True)[victim] == "exited"
    assert [name for name, state in containers().items() if state == "running"] == cluster[1:]
    say(f"the result is right, without {victim}")


def test_a_node_container_that_is_stopped_drains_and_leaves_by_itself(cluster: list[str]) -> None:
    compose("stop", "node")
    codes = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.ExitCode}}", *cluster],
        capture_output=True,
        text=True,
        check=True,
    )
    assert codes.stdout.split() == ["0"] * NODES
