"""What the broker contract's checks are made of: links and queues for a moment, consumers, waiting for what was promised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from actorhub.broker import Broker, Consumer, Delivery, Link, Message, Outcome, Queue

PATIENCE = 15.0  # seconds within which what is promised must have happened


class Probe:
    """A consumer that keeps what it gets, in order."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ended: list[str] = []
        self.consumer: Consumer | None = None

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]

    async def consume(self, link: Link, queue: str, *, prefetch: int = 100, offset: int | str | None = None) -> Probe:
        self.consumer = await link.consume(
            queue, self.deliveries.append, self.ended.append, prefetch=prefetch, offset=offset
        )
        return self

    async def get(self, count: int) -> list[Delivery]:
        """The first `count` deliveries, as soon as they are there."""
        await until(lambda: len(self.deliveries) >= count, f"{count} deliveries; there are {self.bodies}")
        return self.deliveries[:count]

    async def close(self) -> None:
        assert self.consumer is not None
        await self.consumer.close()


@asynccontextmanager
async def linked(broker: Broker) -> AsyncGenerator[Link]:
    lost: list[BaseException] = []
    link = await broker.connect(name="contract", on_lost=lost.append, on_blocked=lambda reason: None)
    try:
        yield link
        assert not lost, f"the link was lost: {lost}"
    finally:
        await link.close()


@asynccontextmanager
async def declared(broker: Broker, queue: Queue) -> AsyncGenerator[Link]:
    """A link, and the queue declared over it; both go at the end."""
    async with linked(broker) as link:
        await link.declare(queue)
        try:
            yield link
        finally:
            if link.lost is None:
                await link.delete(queue.name)


async def publish(link: Link, queue: str, *bodies: bytes) -> list[Outcome]:
    return await _send(link.publish, queue, bodies)


async def broadcast(link: Link, exchange: str, *bodies: bytes) -> list[Outcome]:
    return await _send(link.broadcast, exchange, bodies)


async def _send(
    send: Callable[[str, Message, Callable[[Outcome], None]], None], to: str, bodies: Sequence[bytes]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for body in bodies:
        send(to, Message(body), outcomes.append)
    await until(lambda: len(outcomes) == len(bodies), f"{len(bodies)} outcomes; there are {outcomes}")
    return outcomes


async def until(condition: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")
        await asyncio.sleep(0.005)


async def waits(link: Link, queue: str, messages: int) -> None:
    """Until the queue has that many messages ready."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while (state := await link.state(queue)) is None or state.messages != messages:
        if loop.time() > end:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {messages} messages in {queue}; it is {state}")
        await asyncio.sleep(0.01)
