"""RabbitMQ by URL: data through a Link, administration through short-lived connections of aio-pika."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actorhub.broker import Broker, Delivery, Link, Message
from actorhub.errors import ActorNotFound
from actorhub.futures import once
from actorhub_rabbitmq.connecting import unavailable
from actorhub_rabbitmq.link import RabbitLink

QUIET = 0.5  # seconds within which the last messages of a stream come to a reader that asks for them
PREFETCH = 100


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

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[tuple[int, Message]]:
        return (await self._look(queue, limit, offset)).found

    async def end_offset(self, queue: str) -> int:
        return (await self._look(queue, 0, 0)).end

    async def _look(self, queue: str, limit: int, offset: int) -> _Look:
        look = _Look(limit, offset)
        link = await self.connect(name="actorhub peek", on_lost=lambda error: None, on_blocked=lambda reason: None)
        try:
            await link.consume(queue, look.at_the_end, look.cut_off, prefetch=PREFETCH, offset="last")
            if limit:
                await link.consume(queue, look.take, look.cut_off, prefetch=PREFETCH, offset=offset or "first")
            asyncio.get_running_loop().call_later(QUIET, look.end_is_known)
            await look.finished
            if link.lost is not None:
                raise link.lost
        except ActorNotFound:
            pass  # nothing is found, and its end is its beginning
        finally:
            await link.close()
        return look


class _Look:
    """One look into a stream, up to the message that is the last one at its beginning. One of limit 0 looks for the end alone.

    Nothing tells the offset of that message, but a reader that starts at `last` gets the last chunk of messages at once: the
    highest offset within QUIET seconds is the end, however fast the stream grows.
    """

    def __init__(self, limit: int, offset: int) -> None:
        self.found: list[tuple[int, Message]] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end = 0  # behind the last message that has been seen
        self._limit = limit
        self._first = offset
        self._next = offset
        self._end_is_known = False
        self._resolve = once(self.finished)

    def at_the_end(self, delivery: Delivery) -> None:
        if not self._end_is_known:
            self.end = max(self.end, int(delivery.offset or 0) + 1)
        delivery.ack()

    def take(self, delivery: Delivery) -> None:
        at = int(delivery.offset or 0)
        if at >= self._first and len(self.found) < self._limit:
            self.found.append((at, delivery.message))
            self._next = at + 1
        delivery.ack()
        self._check()

    def cut_off(self, reason: str) -> None:
        """The queue was deleted, or the link is lost."""
        self._resolve(None)

    def end_is_known(self) -> None:
        self._end_is_known = True
        self._check()

    def _check(self) -> None:
        if len(self.found) >= self._limit or (self._end_is_known and self._next >= self.end):
            self._resolve(None)
