"""The broker contract on RabbitMQ and on the embedded broker."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pika
import pytest

from actorhub.broker import open_broker
from actorhub.testing import CONTRACT, Check, consuming, publishing, queues, server_profiles
from actorhub.testing.server_profiles import MEBIBYTE, profile_of

OVERSHOOT = "may accept some hundred more of the messages on their way"


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_the_broker_keeps_the_contract(check: Check, broker_url: str, prefix: str) -> None:
    await check(open_broker(broker_url), prefix)


def test_every_check_is_in_the_contract() -> None:
    checks = {
        member
        for module in (publishing, consuming, queues, server_profiles)
        for name, member in inspect.getmembers(module, inspect.iscoroutinefunction)
        if member.__module__ == module.__name__ and not name.startswith("_")
    }
    assert checks == set(CONTRACT)


async def test_the_default_delivery_limit_is_the_one_in_the_server_s_profile(broker_url: str, prefix: str) -> None:
    await asyncio.to_thread(check_default_delivery_limit, broker_url, prefix)


def check_default_delivery_limit(url: str, queue: str) -> None:
    """Declares the queue without the adapter, which always sets a delivery limit."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        properties = connection._impl.server_properties
        limit = profile_of(f"{properties['product']} {properties['version']}").delivery_limit
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


def test_a_server_without_a_profile_is_named() -> None:
    with pytest.raises(AssertionError, match=r"no profile of 'LavinMQ 2\.0'"):
        profile_of("LavinMQ 2.0")


def test_the_document_has_the_profiles_of_the_servers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "embedded.md").read_text()
    profiles = [
        profile_of(server) for server in ("ActorHub embedded broker 4.0.0", "RabbitMQ 3.10.8", "RabbitMQ 4.0.5")
    ]
    rows = {
        "a full quorum queue": [
            "accepts no more" if not profile.limit_overshoot else OVERSHOOT for profile in profiles
        ],
        "priorities of a quorum queue": [
            "none" if profile.priorities == 1 else str(profile.priorities) for profile in profiles
        ],
        "default delivery limit of a quorum queue": [str(profile.delivery_limit or "none") for profile in profiles],
        "largest message": [f"{profile.max_message // MEBIBYTE} MiB" for profile in profiles],
    }
    for property, values in rows.items():
        assert f"| {property} | {' | '.join(values)} |" in text
