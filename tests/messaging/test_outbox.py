"""The way to one queue: numbers without gaps, whatever becomes of what is published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from actorhub.broker import Link, Message, Outcome
from actorhub.messaging.outbox import ActorOutbox, OutgoingMessage
from actorhub.wire.envelope import decode


class Wire:
    """A link on which each publish waits for its outcome. `got` holds the numbers that were stored."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self._waiting: list[tuple[list[int], Callable[[Outcome], None]]] = []

    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        numbers = [envelope.seq for envelope, _ in decode(message.body, message.content_type)]
        self._waiting.append((numbers, settled))

    def settle(self, outcome: Outcome) -> None:
        waiting, self._waiting = self._waiting, []
        for numbers, settled in waiting:
            self.got += numbers if outcome is Outcome.STORED else []
            settled(outcome)


@pytest.fixture
async def sent() -> tuple[ActorOutbox, Wire, list[Outcome]]:
    outbox = ActorOutbox("q", asyncio.get_running_loop(), numbered=True, limited=False)
    wire = Wire()
    outbox.attach(cast(Link, wire))
    return outbox, wire, []


async def _put(outbox: ActorOutbox, outcomes: list[Outcome], count: int = 1, **fields: Any) -> None:
    for _ in range(count):
        outbox.put(OutgoingMessage({"method": "m", "sender": "s", **fields}, b"{}", outcomes.append))
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_numbers_that_nobody_got_are_given_again(sent: tuple[ActorOutbox, Wire, list[Outcome]]) -> None:
    """Invariant: a receiver gets 1, 2, 3 and so on, though its queue came to be after many had asked for it."""
    outbox, wire, outcomes = sent
    for count in (1, 5, 300):
        await _put(outbox, outcomes, count, reply_to="r", id="i")
        while outbox.unconfirmed:
            wire.settle(Outcome.UNROUTABLE)
            await asyncio.sleep(0)
    assert outcomes == [Outcome.UNROUTABLE] * 306
    await _put(outbox, outcomes, 3)
    while outbox.unconfirmed:
        wire.settle(Outcome.STORED)
        await asyncio.sleep(0)
    assert wire.got == [1, 2, 3]


async def test_numbers_in_use_are_not_given_again(sent: tuple[ActorOutbox, Wire, list[Outcome]]) -> None:
    """Invariant: no two envelopes have one number, though the link is lost while some wait for the broker."""
    outbox, wire, outcomes = sent
    await _put(outbox, outcomes, 2, reply_to="r", id="i")
    wire.settle(Outcome.STORED)
    await _put(outbox, outcomes, 600, reply_to="r", id="i")
    outbox.detach()
    again = Wire()
    outbox.attach(cast(Link, again))
    again.settle(Outcome.UNROUTABLE)
    await _put(outbox, outcomes, 2)
    for _ in range(10):
        again.settle(Outcome.STORED)
        await asyncio.sleep(0)
    assert len(again.got) == len(set(again.got))
