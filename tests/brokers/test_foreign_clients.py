"""Calls of actors by plain AMQP clients: amqplib on Node.js, and pika."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pika
import pytest

from actorhub import Hub, actor, tell
from actorhub.actors.handle import address_of

NODE = Path(__file__).parent.parent / "nodejs"


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def count_to(self, last: int) -> AsyncIterator[int]:
        for number in range(last):
            yield number


def _queue(handle: object) -> str:
    return address_of(handle).queue


@pytest.fixture(scope="module")
def amqplib() -> None:
    if not shutil.which("node") or not (NODE / "node_modules" / "amqplib").exists():
        reason = "node or its package amqplib is missing; npm install --prefix tests/nodejs"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


async def _node(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "node", str(NODE / "call.js"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.usefixtures("amqplib")
async def test_a_node_js_client_calls_an_actor_and_reads_the_reply(hub: Hub, broker_url: str) -> None:
    counter = await hub.spawn(Counter, 10)
    code, out, err = await _node(broker_url, _queue(counter), "add", '{"amount": 5}')
    assert (code, err) == (0, "")
    reply = json.loads(out)
    assert (reply["kind"], reply["payload"]) == ("reply", 15)
    assert await counter.add(0) == 15


@pytest.mark.usefixtures("amqplib")
async def test_a_node_js_client_gets_the_failure_of_its_call(hub: Hub, broker_url: str) -> None:
    counter = await hub.spawn(Counter, 10)
    _, out, _ = await _node(broker_url, _queue(counter), "add", '{"amount": "many"}')
    reply = json.loads(out)
    assert reply["kind"] == "failure"
    assert reply["payload"]["type"] == "actorhub.errors:InvalidArguments"
    assert "amount" in reply["payload"]["message"]
    code, _, err = await _node(broker_url, _queue(counter) + "x", "add", '{"amount": 1}')
    assert code == 1
    assert "there is no actor" in err


async def test_replies_to_plain_clients_are_never_batched(hub: Hub, broker_url: str) -> None:
    """Also while a session keeps the actor busy, whose replies travel in batches."""
    counter = await hub.spawn(Counter)
    busy = asyncio.gather(*(counter.add(0) for _ in range(2000)))
    bodies = await asyncio.to_thread(_call_by_pika, broker_url, _queue(counter), 50)
    await busy
    assert sorted(json.loads(body)["payload"] for body in bodies) == list(range(1, 51))


def _call_by_pika(url: str, queue: str, count: int) -> list[bytes]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        for number in range(count):
            properties = pika.BasicProperties(reply_to=reply_to, correlation_id=str(number), delivery_mode=2)
            channel.basic_publish("", queue, b'{"method": "add", "payload": {"amount": 1}}', properties)
        bodies: list[bytes] = []
        for _, properties, body in channel.consume(reply_to, auto_ack=True):
            assert json.loads(body)["call"] == properties.correlation_id
            bodies.append(body)
            if len(bodies) == count:
                return bodies
    raise AssertionError("unreachable")


async def test_a_plain_message_without_reply_to_is_a_tell(hub: Hub, broker_url: str) -> None:
    counter = await hub.spawn(Counter)
    await asyncio.to_thread(_tell_by_pika, broker_url, _queue(counter))
    await tell(counter.add, 1)
    assert await counter.add(0) == 8


def _tell_by_pika(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b'{"method": "add", "payload": {"amount": 7}}', mandatory=True)
