"""Third-party AMQP clients on RabbitMQ and on the embedded broker: pika, kombu, amqpstorm and aio-pika."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import aio_pika
import amqpstorm
import kombu
import pika
import pytest
from pika import exceptions

from actorhub import Hub, actor
from actorhub.actors.handle import address_of
from actorhub.broker import LocalServer
from actorhub.core.addressing import new_id


@actor
class Counter:
    def __init__(self) -> None:
        self.value = 0

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value


CALL = json.dumps({"method": "add", "payload": {"amount": 5}})


def by_pika(url: str, queue: str) -> bytes:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        properties = pika.BasicProperties(reply_to=reply_to, correlation_id="1", delivery_mode=2)
        channel.basic_publish("", queue, CALL.encode(), properties, mandatory=True)
        for _, _, body in channel.consume(reply_to, auto_ack=True):
            return bytes(body)
    raise AssertionError("no reply")


def by_kombu(url: str, queue: str) -> bytes:
    replies: list[bytes] = []
    with kombu.Connection(url) as connection:
        reply = kombu.Queue(f"kombu-{new_id(6)}", exclusive=True, auto_delete=True, channel=connection.default_channel)
        reply.declare()
        producer = kombu.Producer(connection.default_channel)
        producer.publish(
            json.loads(CALL),
            routing_key=queue,
            serializer="json",
            reply_to=reply.name,
            correlation_id="1",
            delivery_mode=2,
        )
        with kombu.Consumer(
            connection, [reply], callbacks=[lambda body, message: replies.append(message.body)], no_ack=True
        ):
            connection.drain_events(timeout=20)
    return replies[0] if isinstance(replies[0], bytes) else str(replies[0]).encode()


def by_amqpstorm(url: str, queue: str) -> bytes:
    replies: list[bytes] = []
    with amqpstorm.UriConnection(url) as connection, connection.channel() as channel:
        channel.confirm_deliveries()
        reply_to = channel.queue.declare(exclusive=True)["queue"]
        properties = {"reply_to": reply_to, "correlation_id": "1", "delivery_mode": 2}
        channel.basic.publish(CALL, queue, properties=properties, mandatory=True)

        def take(message: amqpstorm.Message) -> None:
            replies.append(message.body.encode())
            message.ack()
            channel.stop_consuming()

        channel.basic.consume(take, reply_to)
        channel.start_consuming()
    return replies[0]


def by_aio_pika(url: str, queue: str) -> bytes:
    async def call() -> bytes:
        async with await aio_pika.connect_robust(url) as connection:
            channel = await connection.channel()
            reply = await channel.declare_queue(exclusive=True)
            message = aio_pika.Message(CALL.encode(), reply_to=reply.name, correlation_id="1")
            await channel.default_exchange.publish(message, queue)
            async with reply.iterator(timeout=20) as messages:
                async for message in messages:
                    async with message.process():
                        return bytes(message.body)
        raise AssertionError("no reply")

    return asyncio.run(call())


@pytest.mark.parametrize("call", [by_pika, by_kombu, by_amqpstorm, by_aio_pika])
async def test_a_client_library_calls_an_actor(
    hub: Hub, broker: LocalServer, call: Callable[[str, str], bytes]
) -> None:
    counter = await hub.spawn(Counter)
    queue = address_of(counter).queue
    reply = json.loads(await asyncio.to_thread(call, broker.url, queue))
    assert (reply["kind"], reply["payload"], reply["call"]) == ("reply", 5, "1")


def test_pika_uses_topics_get_nack_purge_and_passive_declare(broker_url: str, prefix: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(prefix, "topic", auto_delete=True)
        channel.queue_declare(prefix, durable=True, arguments={"x-expires": 60_000})
        channel.queue_bind(prefix, prefix, "orders.*.created")
        for key in ("orders.1.created", "orders.2.deleted", "orders.3.created"):
            channel.basic_publish(prefix, key, key.encode())
        method, _, body = channel.basic_get(prefix)
        assert (body, method.message_count) == (b"orders.1.created", 1)
        channel.basic_nack(method.delivery_tag, requeue=True)
        method, _, body = channel.basic_get(prefix, auto_ack=True)
        assert (body, method.redelivered) == (b"orders.1.created", True)
        assert channel.queue_purge(prefix).method.message_count == 1
        assert channel.basic_get(prefix) == (None, None, None)
        channel.queue_delete(prefix)
        with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
            channel.queue_declare(prefix, passive=True)
        assert closed.value.reply_code == 404
        assert connection.channel().is_open


def test_pika_gets_unroutable_messages_back_and_is_refused_by_a_full_queue(broker_url: str, prefix: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(exceptions.UnroutableError):
            channel.basic_publish("", f"{prefix}.none", b"x", mandatory=True)
        channel.queue_declare(prefix, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.basic_publish("", prefix, b"1", mandatory=True)
        refused = 0
        for _ in range(10):  # RabbitMQ stores a few more than the limit
            try:
                channel.basic_publish("", prefix, b"2", mandatory=True)
            except exceptions.NackError:
                refused += 1
        assert refused
        channel.queue_delete(prefix)


def test_a_message_of_many_frames_arrives_whole(broker_url: str, prefix: str) -> None:
    body = bytes(range(256)) * 4096 * 3
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.queue_declare(prefix, exclusive=True)
        channel.basic_publish("", prefix, body)
        _, _, got = next(channel.consume(prefix, auto_ack=True, inactivity_timeout=20))
        assert got == body
