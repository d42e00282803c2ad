"""`actorhub metrics` and `actorhub demand`: processes of the command, scraped over HTTP as Prometheus does it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actorhub import Hub, Settings, actor, task
from actorhub.cli.prometheus import of_demand, of_queues
from actorhub.cluster import LocalCluster
from actorhub.control_api.info import Demand, QueueInfo
from actorhub.control_api.requirements import Requirements
from actorhub.core.addressing import new_id
from actorhub_rabbitmq import PrivateNode
from tests.conftest import QUICK
from tests.waiting import until

ACTORHUB = str(Path(sys.executable).parent / "actorhub")
NAMES = {
    "actorhub_up",
    "actorhub_waiting",
    "actorhub_waiting_resources",
    "actorhub_task_messages",
    "actorhub_task_slots",
    "actorhub_nodes",
    "actorhub_node_resources",
    "actorhub_node_resources_free",
}


@task(queue="renders", resources={"gpu": 1})
def hold(path: str) -> None:
    """Has what it asked for until there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.02)


@actor(resources={"gpu": 2})
class Trainer:
    async def ping(self) -> str:
        return "pong"


Labels = frozenset[tuple[str, str]]


@dataclass
class Scraped:
    types: dict[str, str]
    samples: dict[str, dict[Labels, float]]

    def get(self, name: str, **labels: str) -> float | None:
        """Of the sample that has exactly these labels."""
        return self.samples.get(name, {}).get(frozenset(labels.items()))


class Exporter:
    """A process of `actorhub metrics`."""

    def __init__(self, settings: Settings) -> None:
        command = [ACTORHUB, "metrics", "--port", "0"]
        environment = {**os.environ, **settings.to_environment()}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("metrics at http://127.0.0.1:"), said
        self.url = said.removeprefix("metrics at ").strip()

    async def scrape(self) -> Scraped:
        text = await asyncio.to_thread(self._read)
        types, samples = dict[str, str](), dict[str, dict[Labels, float]]()
        for family in text_string_to_metric_families(text):
            assert family.documentation
            types[family.name] = family.type
            samples[family.name] = {frozenset(sample.labels.items()): sample.value for sample in family.samples}
            assert len(samples[family.name]) == len(family.samples), "no labels twice"
        return Scraped(types, samples)

    def _read(self) -> str:
        with closing(urllib.request.urlopen(self.url, timeout=30)) as answer:
            return cast(str, answer.read().decode())

    def connections(self) -> set[int]:
        """Its own ports, of all that it has opened to anybody."""
        return {
            connection.laddr.port
            for connection in psutil.Process(self.process.pid).net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
            and connection.laddr.port != int(self.url.split(":")[2][:-8])
        }

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def exporter(settings: Settings) -> Generator[Exporter]:
    running = Exporter(settings)
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.stop()


def settings_of(url: str) -> Settings:
    return Settings(url=url, secret="s", prefix=f"t{new_id(6)}", slot_idle=1.0, **QUICK)  # type: ignore[arg-type]


@pytest.fixture
async def hub(broker_url: str) -> AsyncIterator[Hub]:
    """Two nodes, one of them with two gpus."""
    nodes = {"one": {"cpu": 2.0}, "two": {"cpu": 4.0, "gpu": 2.0}}
    async with Hub.local(nodes=nodes, workers=1, slots=1, modules=[__name__], settings=settings_of(broker_url)) as hub:
        yield hub


async def test_all_metrics_are_gauges_with_the_figures_of_the_cluster(hub: Hub) -> None:
    with exporter(hub.settings) as running:
        found = await running.scrape()
        assert found.types == dict.fromkeys(NAMES, "gauge")
        assert (found.get("actorhub_up"), found.get("actorhub_nodes")) == (1, 2)
        assert found.get("actorhub_node_resources", node="two", resource="gpu") == 2
        assert found.get("actorhub_node_resources_free", node="two", resource="gpu") == 2
        assert not found.samples["actorhub_waiting"]
        assert found.get("actorhub_waiting_resources", resource="gpu") == 0, "it is there, though nobody waits for it"


async def test_what_waits_is_shown_with_its_shape_and_is_gone_after(hub: Hub, tmp_path: Path) -> None:
    path = str(tmp_path / "go")
    queue = {"namespace": "default", "queue": "renders", "asks_for": "cpu 0.5, gpu 2 on node two"}
    shape = {"kind": "task", "resources": "cpu=0.5,gpu=2", "labels": "", "node": "two"}
    actors = {"kind": "actor", "resources": "gpu=2", "labels": "", "node": ""}
    holding = hub.submit(hold, path)
    with exporter(hub.settings) as running:
        await until(lambda: _is(running, 1, "actorhub_node_resources_free", node="two", resource="gpu"))
        waits = hub.options(resources={"cpu": 0.5, "gpu": 2}, node="two").submit(hold, path)
        trainers = [await hub.spawn(Trainer) for _ in range(2)]
        await until(lambda: _is(running, 1, "actorhub_waiting", **shape))
        await until(lambda: _is(running, 2, "actorhub_waiting", **actors))
        found = await running.scrape()
        assert found.get("actorhub_waiting_resources", resource="gpu") == 6
        assert found.get("actorhub_waiting_resources", resource="cpu") == 0.5
        assert found.get("actorhub_task_messages", **queue) == 1
        assert found.get("actorhub_task_slots", **queue) == 0
        shown = _run(hub.settings, "demand")
        assert "cpu=0.5 gpu=2.0" in shown
        rows = {row["kind"]: row for row in json.loads(_run(hub.settings, "demand", "--json"))}
        assert rows["task"] == {
            "kind": "task",
            "resources": {"cpu": 0.5, "gpu": 2.0},
            "labels": {},
            "node": "two",
            "count": 1,
        }
        assert rows["actor"]["count"] == 2
        await asyncio.to_thread(Path(path).touch)
        await holding
        for trainer in trainers:
            await hub.kill(trainer)
        await waits
        await until(lambda: _nothing_waits(running))
        assert await until(lambda: _is(running, 2, "actorhub_node_resources_free", node="two", resource="gpu"))


async def _is(running: Exporter, value: float, name: str, **labels: str) -> bool:
    return (await running.scrape()).get(name, **labels) == value


async def _nothing_waits(running: Exporter) -> bool:
    found = await running.scrape()
    return not found.samples["actorhub_waiting"] and found.get("actorhub_waiting_resources", resource="gpu") == 0


def _run(settings: Settings, *arguments: str) -> str:
    environment = {**os.environ, **settings.to_environment(), "COLUMNS": "200"}
    done = subprocess.run([ACTORHUB, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


async def test_scrapes_share_one_connection_to_the_broker(hub: Hub) -> None:
    with exporter(hub.settings) as running:
        await running.scrape()
        before = running.connections()
        assert before
        found = await asyncio.gather(*(running.scrape() for _ in range(8)))
        assert all(each.get("actorhub_up") == 1 for each in found)
        assert before <= running.connections()
        assert await until(lambda: running.connections() == before)


async def test_without_nodes_a_scrape_says_so_and_what_the_broker_counts(hub: Hub, tmp_path: Path) -> None:
    """Invariant: a scrape is answered though no node runs, and has no figure that is not true any more."""
    cluster = cast(LocalCluster, hub._cluster)
    queue = {"namespace": "default", "queue": "renders", "asks_for": "gpu 1"}
    await hub.submit(hold, str(tmp_path))
    with exporter(hub.settings) as running:
        await until(lambda: _is(running, 0, "actorhub_task_messages", **queue))
        for node in list(cluster.processes):
            await cluster.stop_node(node)
        await until(lambda: _is(running, 0, "actorhub_up"))
        waits = hub.submit(hold, str(tmp_path))
        await waits.accepted()
        await until(lambda: _is(running, 1, "actorhub_task_messages", **queue))
        found = await running.scrape()
        assert set(found.types) == {"actorhub_up", "actorhub_task_messages", "actorhub_task_slots"}
        cluster.start_node("three", resources={"gpu": 1})
        await waits
        await until(lambda: _is(running, 1, "actorhub_up"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_where_no_node_has_run_yet_it_answers_until_a_signal_ends_it(broker_url: str, number: int) -> None:
    with exporter(settings_of(broker_url)) as running:
        found = await running.scrape()
        assert (found.get("actorhub_up"), found.samples["actorhub_task_messages"]) == (0, {})
        assert await asyncio.to_thread(running.stop, number) == 0


async def test_it_answers_while_the_broker_is_away_and_again_with_all_figures_after(own_rabbitmq: PrivateNode) -> None:
    """Invariant: each scrape is answered, whatever becomes of the broker; the command connects again by itself."""
    settings = settings_of(own_rabbitmq.url)
    async with Hub.local(nodes=1, workers=1, slots=0, modules=[__name__], settings=settings) as hub:
        with exporter(hub.settings) as running:
            await until(lambda: _is(running, 1, "actorhub_up"))
            await asyncio.to_thread(own_rabbitmq.kill)
            assert await _is(running, 0, "actorhub_up")
            await asyncio.to_thread(own_rabbitmq.restart)
            await until(lambda: _is(running, 1, "actorhub_nodes"))


def test_a_port_that_is_taken_is_one_line_and_code_1(broker_url: str) -> None:
    settings = settings_of(broker_url)
    with exporter(settings) as running:
        port = running.url.split(":")[2].removesuffix("/metrics")
        environment = {**os.environ, **settings.to_environment()}
        command = [ACTORHUB, "metrics", "--port", port]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"cannot listen at 127.0.0.1, port {port}" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    missing = 'raise ModuleNotFoundError("No module named \'prometheus_client\'", name="prometheus_client")'
    (tmp_path / "prometheus_client.py").write_text(missing)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "ACTORHUB_URL": "amqp://localhost:1/"}
    done = subprocess.run([ACTORHUB, "metrics"], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No module named 'prometheus_client'; pip install 'actorhub-mq[metrics]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documents_name_all_metrics_and_no_others() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(actorhub_\w+)`", text, re.MULTILINE)) == NAMES
    assert set(re.findall(r"actorhub_\w+(?=\{)", text)) <= NAMES, "what queries name"


def test_values_whose_labels_read_the_same_are_added() -> None:
    """Prometheus refuses a scrape that has the same labels twice."""
    queues = [
        QueueInfo(queue="q", namespace="n", waiting=2, slots=1, needs=Requirements(resources={"gpu": 1}, prefer=prefer))
        for prefer in ({"zone": "a"}, {"zone": "b"})
    ]
    messages, slots = of_queues(queues)
    assert [sample.value for sample in messages.samples] == [4]
    assert [sample.value for sample in slots.samples] == [2]


def test_amounts_are_written_exactly() -> None:
    resources = {"memory": 17179869184.0, "cpu": 0.1, "bytes": 1e15}
    [sample] = of_demand([Demand(kind="actor", resources=resources, labels={"b": "2", "a": "1"}, count=3)], [])[
        0
    ].samples
    assert sample.labels == {
        "kind": "actor",
        "resources": "bytes=1000000000000000,cpu=0.1,memory=17179869184",
        "labels": "a=1,b=2",
        "node": "",
    }
