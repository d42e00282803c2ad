"""Building blocks of contract checks: short-lived links and queues, a recording consumer, waiting for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from actorhub.broker import Broker, Consumer, Delivery, Link, Message, Outcome, Queue

TIMEOUT_SECONDS = 15.0  # of each wait


class Probe:
    """A consumer that records its deliveries in order and leaves acknowledging to the test."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ended: list[str] = []
        """Reasons that `on_end` was called with."""
        self.consumer: Consumer | None = None

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]

    async def consume(self, link: Link, queue: str, *, prefetch: int = 100, offset: int | str | None = None) -> Probe:
        """Begin to consume a queue; returns this probe."""
        self.consumer = await link.consume(
            queue, self.deliveries.append, self.ended.append, prefetch=prefetch, offset=offset
        )
        return self

    async def get(self, count: int) -> list[Delivery]:
        """Wait for `count` deliveries, and return them."""
        await until(lambda: len(self.deliveries) >= count, f"{count} deliveries; bodies: {self.bodies}")
        return self.deliveries[:count]

    async def close(self) -> None:
        assert self.consumer is not None
        await self.consumer.close()


@asynccontextmanager
async def linked(broker: Broker) -> AsyncGenerator[Link]:
    """A link, closed at the end; it must not be lost meanwhile."""
    lost: list[BaseException] = []
    link = await broker.connect(name="contract", on_lost=lost.append, on_blocked=lambda reason: None)
    try:
        yield link
        assert not lost, f"the link was lost: {lost}"
    finally:
        await link.close()


@asynccontextmanager
async def declared(broker: Broker, queue: Queue) -> AsyncGenerator[Link]:
    """A link with a queue, which is deleted at the end."""
    async with linked(broker) as link:
        await link.declare(queue)
        try:
            yield link
        finally:
            if link.lost is None:
                await link.delete(queue.name)


async def publish(link: Link, queue: str, *bodies: bytes) -> list[Outcome]:
    """Publish messages, and wait for their outcomes."""
    return await _send(link.publish, queue, bodies)


async def broadcast(link: Link, exchange: str, *bodies: bytes) -> list[Outcome]:
    """Broadcast messages, and wait for their outcomes."""
    return await _send(link.broadcast, exchange, bodies)


async def _send(
    send: Callable[[str, Message, Callable[[Outcome], None]], None], to: str, bodies: Sequence[bytes]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for body in bodies:
        send(to, Message(body), outcomes.append)
    await until(lambda: len(outcomes) == len(bodies), f"{len(bodies)} outcomes; got {outcomes}")
    return outcomes


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not hold in time; the message says `what` was expected.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + TIMEOUT_SECONDS
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"not within {TIMEOUT_SECONDS:.0f} s: {what}")
        await asyncio.sleep(0.005)


async def until_depth(link: Link, queue: str, messages: int) -> None:
    """Wait until the queue has this many waiting messages.

    Raises:
        AssertionError: it had another number at the end of TIMEOUT_SECONDS.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + TIMEOUT_SECONDS
    while (state := await link.state(queue)) is None or state.messages != messages:
        if loop.time() > end:
            raise AssertionError(
                f"not within {TIMEOUT_SECONDS:.0f} s: {messages} messages in {queue}; its state is {state}"
            )
        await asyncio.sleep(0.01)
