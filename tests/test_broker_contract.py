"""The broker contract on RabbitMQ and on the embedded broker."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pika
import pytest

from actorhub import differences, testing
from actorhub.broker import open_broker
from actorhub.differences import MEBIBYTE, ways
from actorhub.testing import CONTRACT, Check

SOME_MORE = "may take some hundreds more of what is under way"


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_the_broker_keeps_the_contract(check: Check, broker_url: str, prefix: str) -> None:
    await check(open_broker(broker_url), prefix)


def test_every_check_is_in_the_contract() -> None:
    checks = {
        member
        for module in (testing, differences)
        for name, member in inspect.getmembers(module, inspect.iscoroutinefunction)
        if member.__module__ == module.__name__ and not name.startswith("_")
    }
    assert checks == set(CONTRACT)


async def test_the_delivery_limit_where_nothing_is_said_is_the_one_that_is_written_down(
    broker_url: str, prefix: str
) -> None:
    await asyncio.to_thread(check_default_delivery_limit, broker_url, prefix)


def check_default_delivery_limit(url: str, queue: str) -> None:
    """The port always says one, so this asks the server itself."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        properties = connection._impl.server_properties
        limit = ways(f"{properties['product']} {properties['version']}").delivery_limit
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", queue, b"x")
        deliveries = 0
        for method, _, _ in channel.consume(queue, inactivity_timeout=1.0):
            if method is None or deliveries == 30:
                break
            deliveries += 1
            channel.basic_reject(method.delivery_tag, requeue=True)
        channel.cancel()
        channel.queue_delete(queue)
        assert deliveries == (30 if limit is None else limit + 1), f"{deliveries} deliveries, then it was dropped"


def test_a_server_that_nobody_has_described_is_named() -> None:
    with pytest.raises(AssertionError, match=r"how 'LavinMQ 2\.0' differs is not written down"):
        ways("LavinMQ 2.0")


def test_the_document_says_how_servers_differ() -> None:
    text = (Path(__file__).parents[1] / "docs" / "embedded.md").read_text()
    found = [ways(server) for server in ("ActorHub embedded broker 4.0.0", "RabbitMQ 3.10.8", "RabbitMQ 4.0.5")]
    rows = {
        "a quorum queue that is full": ["takes no more" if not way.overshoot else SOME_MORE for way in found],
        "priorities of a quorum queue": ["none" if way.priorities == 1 else str(way.priorities) for way in found],
        "its delivery limit where none is given": [str(way.delivery_limit or "none") for way in found],
        "largest message": [f"{way.largest // MEBIBYTE} MiB" for way in found],
    }
    for what, values in rows.items():
        assert f"| {what} | {' | '.join(values)} |" in text
