"""RabbitMQ as a `Broker`: data through links, administration through short-lived connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actorhub.broker import Broker, Delivery, Link, Message
from actorhub.core.futures import resolver_of
from actorhub.errors import ActorNotFound
from actorhub_rabbitmq.connect import unavailable
from actorhub_rabbitmq.link import RabbitLink

PEEK_QUIET_SECONDS = 0.5  # within which a stream's last messages reach a new consumer
PEEK_PREFETCH = 100


class RabbitMQ(Broker):
    """RabbitMQ 3.10 and newer."""

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
                raise ActorNotFound(f"the broker has no queue {queue!r}") from exc
            purged = await found.purge()
            return purged.message_count or 0

    async def peek(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[tuple[int, Message]]:
        return (await self._peek_stream(queue, limit, offset)).found

    async def end_offset(self, queue: str) -> int:
        return (await self._peek_stream(queue, 0, 0)).end

    async def _peek_stream(self, queue: str, limit: int, offset: int) -> _StreamPeek:
        peek = _StreamPeek(limit, offset)
        link = await self.connect(name="actorhub peek", on_lost=lambda error: None, on_blocked=lambda reason: None)
        try:
            await link.consume(queue, peek.on_last, peek.on_end, prefetch=PEEK_PREFETCH, offset="last")
            if limit:
                await link.consume(
                    queue, peek.on_message, peek.on_end, prefetch=PEEK_PREFETCH, offset=offset or "first"
                )
            asyncio.get_running_loop().call_later(PEEK_QUIET_SECONDS, peek.on_quiet)
            await peek.finished
            if link.lost is not None:
                raise link.lost
        except ActorNotFound:
            pass  # as an empty stream
        finally:
            await link.close()
        return peek


class _StreamPeek:
    """Reads a stream's messages from an offset up to the one that was last when the peek began.

    The broker does not tell the offset of the last message, but a consumer that starts at `last` gets the last chunk of
    messages at once: the highest offset within PEEK_QUIET_SECONDS is the end, however fast the stream grows.

    Args:
        limit: most messages; 0 finds the end only.
        offset: the first message's offset.
    """

    def __init__(self, limit: int, offset: int) -> None:
        self.found: list[tuple[int, Message]] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end = 0
        """The offset after the last message."""
        self._limit = limit
        self._first = offset
        self._next = offset
        self._end_is_known = False
        self._resolve = resolver_of(self.finished)

    def on_last(self, delivery: Delivery) -> None:
        if not self._end_is_known:
            self.end = max(self.end, int(delivery.offset or 0) + 1)
        delivery.ack()

    def on_message(self, delivery: Delivery) -> None:
        at = int(delivery.offset or 0)
        if at >= self._first and len(self.found) < self._limit:
            self.found.append((at, delivery.message))
            self._next = at + 1
        delivery.ack()
        self._check()

    def on_end(self, reason: str) -> None:
        """Finish early: the queue was deleted, or the link was lost."""
        self._resolve(None)

    def on_quiet(self) -> None:
        """Take the end as known: the last messages have come."""
        self._end_is_known = True
        self._check()

    def _check(self) -> None:
        if len(self.found) >= self._limit or (self._end_is_known and self._next >= self.end):
            self._resolve(None)
