"""The examples, on both brokers and on none."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actorhub import Hub, Settings

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ACTORHUB_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
async def env(cluster_settings: Settings) -> AsyncIterator[dict[str, str]]:
    """The environment of a cluster whose node serves the main job's actors."""
    async with Hub.local(workers=2, modules=["examples.indexer"], settings=cluster_settings) as hub:
        yield hub.settings.to_environment()


async def test_the_first_actor_runs_on_a_cluster(env: dict[str, str]) -> None:
    done = await asyncio.to_thread(run, "-m", "examples.counter", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("15\nthe value is 16\n[17, 18, 19,")


def test_the_first_actor_runs_with_nothing_but_python() -> None:
    done = run("examples/counter.py", env={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("15\nthe value is 16\n[17, 18, 19,")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_main_job_is_right_on_a_cluster(env: dict[str, str]) -> None:
    done = await asyncio.to_thread(run, "-m", "examples.index_sources", env=env)
    assert done.returncode == 0, done.stderr
    assert "the same as in one process" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_the_main_job_is_right_though_a_worker_is_killed(broker: str) -> None:
    done = run("-m", "examples.index_sources", "--kill", "--broker", broker, env={})
    assert done.returncode == 0, done.stderr
    assert "4 actors were restarted meanwhile" in done.stdout
    assert "the same as in one process" in done.stdout


def test_the_example_project_s_own_tests_pass_by_the_plugin() -> None:
    options = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error"]
    done = run("-m", "pytest", "-q", "--noconftest", "-c", os.devnull, *options, "--rootdir=.", "examples/shop", env={})
    assert "4 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_the_search_of_the_language_reference_is_that_of_one_process(broker: str) -> None:
    done = run("-m", "examples.search_topics", "how do I catch an exception", "--broker", broker, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "raise" in done.stdout
    assert "the same as in one process" in done.stdout


@pytest.mark.parametrize("broker", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def test_linear_regression_learns_what_least_squares_finds(broker: str) -> None:
    done = run("-m", "examples.linear_regression", "--broker", broker, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the largest difference to the exact solution" in done.stdout


@pytest.mark.parametrize("broker", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def test_a_parameter_server_learns_though_the_node_of_a_trainer_is_killed(broker: str) -> None:
    done = run("-m", "examples.parameter_server", "--kill", "--broker", broker, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "and its workers" in done.stdout
    assert "the largest difference to the exact solution" in done.stdout


@pytest.mark.parametrize("broker", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def test_stages_of_a_pipeline_run_where_what_they_ask_for_is_though_a_gpu_node_is_killed(broker: str) -> None:
    done = run("-m", "examples.embeddings", "--kill", "--broker", broker, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL of gpu-2" in done.stdout
    assert re.search(r"\d+ passages, the largest difference to one process: \d", done.stdout)


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_the_bank_s_total_is_right_though_workers_are_killed(broker: str) -> None:
    done = run("-m", "examples.bank", "--broker", broker, env={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed worker process") == 4
    assert "the total is right: 8000" in done.stdout
