"""Real parts for the tests: a private RabbitMQ, and clusters of real processes on it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import hypothesis
import pytest

from actorhub import Hub, Settings
from actorhub.broker import LocalServer
from actorhub.core.addressing import new_id
from actorhub_embedded import EmbeddedServer
from actorhub_rabbitmq import PrivateNode
from tests.waiting import until

hypothesis.settings.register_profile(  # a busy machine makes no test fail
    "actorhub", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("actorhub")


def _start_rabbitmq() -> PrivateNode:
    if not PrivateNode.available():
        reason = "RabbitMQ is not installed; apt-get install rabbitmq-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    node = PrivateNode()
    node.start()
    return node


LONG = {"test_groups", "test_metrics", "test_rolling", "test_slots"}
"""Modules of which `make test` runs what is on RabbitMQ, and `make test-all` also what is on the embedded broker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("broker") == "embedded" and item.path.stem in LONG:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[PrivateNode]:
    """A RabbitMQ that all tests share; nobody kills it. Tests keep apart by the prefixes of their clusters."""
    node = _start_rabbitmq()
    yield node
    node.stop()


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[PrivateNode]:
    """A RabbitMQ for the tests of one module, which kill and restart it."""
    node = _start_rabbitmq()
    yield node
    node.stop()


@pytest.fixture(scope="session", params=["rabbitmq", "embedded"])
def broker(request: pytest.FixtureRequest) -> Iterator[PrivateNode | EmbeddedServer]:
    """Each broker in turn: whatever asks for this, or for a cluster, runs on RabbitMQ and on the embedded broker."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq")
        return
    server = EmbeddedServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker_url(broker: LocalServer) -> str:
    return broker.url


@pytest.fixture
def prefix() -> str:
    """For the queues of one test."""
    return f"t{new_id(8)}"


QUICK = {"heartbeat": 0.3, "node_timeout": 5.0, "session_timeout": 3.0, "drain_timeout": 5.0}


@pytest.fixture(scope="module")
def cluster_settings(broker: LocalServer) -> Settings:
    return Settings(url=broker.url, secret="a secret of the tests", prefix=f"t{new_id(6)}", **QUICK)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
async def cluster(cluster_settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Hub]:
    """One node with two workers, for the tests of one module, which may run that module's actors."""
    async with Hub.local(workers=2, modules=[request.module.__name__], settings=cluster_settings) as hub:
        yield hub


@pytest.fixture
async def hub(cluster: Hub) -> AsyncIterator[Hub]:
    """A hub of its own for one test, in a namespace of its own."""
    settings = cluster.settings.model_copy(update={"namespace": new_id(8)})
    async with Hub(settings=settings) as hub:
        yield hub


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    return until
