"""RabbitMQ by URL: data through a Link, administration through short-lived connections of aio-pika."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actorhub.broker import Broker, Link, Message
from actorhub.errors import ActorNotFound
from actorhub_rabbitmq.connecting import unavailable
from actorhub_rabbitmq.link import RabbitLink

QUIET = 0.5  # seconds without a message after which a stream is read to its end


class RabbitMQ(Broker):
    """Versions 3.10 and newer."""

    async def connect(
        self,
        *,
        name: str,
        on_lost: Callable[[BaseException], None],
        on_blocked: Callable[[str | None], None],
    ) -> Link:
        return await RabbitLink.open(self.url, name, on_lost, on_blocked)

    async def purge(self, queue: str) -> int:
        import aio_pika

        try:
            connection = await aio_pika.connect(self.url)
        except (OSError, aio_pika.exceptions.AMQPError) as exc:
            raise unavailable(self.url, exc) from exc
        async with connection:
            channel = await connection.channel()
            try:
                found = await channel.declare_queue(queue, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity as exc:
                raise ActorNotFound(f"no queue {queue!r} at the broker") from exc
            purged = await found.purge()
            return purged.message_count or 0

    async def peek(self, queue: str, *, limit: int = 100) -> list[Message]:
        import aio_pika

        try:
            connection = await aio_pika.connect(self.url)
        except (OSError, aio_pika.exceptions.AMQPError) as exc:
            raise unavailable(self.url, exc) from exc
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=min(limit, 100))
            try:
                found = await channel.declare_queue(queue, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return []
            messages: list[Message] = []
            arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
            await found.consume(arrived.put, arguments={"x-stream-offset": "first"})
            while len(messages) < limit:
                try:
                    async with asyncio.timeout(QUIET):
                        message = await arrived.get()
                except TimeoutError:
                    break
                messages.append(Message(message.body, message.content_type, type=message.type))
                await message.ack()
            return messages
