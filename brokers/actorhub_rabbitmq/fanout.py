"""Broadcasts of one link: each fanout exchange is declared before its first message is published.

Publishing to a missing exchange would cost the publishing channel, and with it the link; so would declaring on that channel an
exchange that exists with another type. So exchanges are declared on another channel, and messages wait until then, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from actorhub.broker import Message, Outcome
from actorhub.errors import BrokerUnavailable

log = logging.getLogger(__name__)

Settled = Callable[[Outcome], None]


@dataclass(eq=False)
class _Exchange:
    declared: bool = False
    declaring: asyncio.Task[None] | None = None
    waiting: list[tuple[Message, Settled]] = field(default_factory=list)


class FanoutPublisher:
    """Publishes to fanout exchanges, and declares them when they are first used.

    Args:
        declare: declares an exchange of this name; raises BrokerUnavailable or ValueError.
        send: publishes a message to a declared exchange.
    """

    def __init__(
        self, declare: Callable[[str], Awaitable[None]], send: Callable[[str, Message, Settled], None]
    ) -> None:
        self._declare = declare
        self._send = send
        self._exchanges: dict[str, _Exchange] = {}
        self._ended = False

    def put(self, name: str, message: Message, settled: Settled) -> None:
        """Publish a message to the exchange of this name; UNROUTABLE if the exchange cannot be declared."""
        exchange = self._exchanges.setdefault(name, _Exchange())
        if exchange.declared:
            self._send(name, message, settled)
            return
        exchange.waiting.append((message, settled))
        if exchange.declaring is None:
            exchange.declaring = asyncio.get_running_loop().create_task(
                self._declare_and_send(name, exchange), name="actorhub-exchange"
            )

    async def _declare_and_send(self, name: str, exchange: _Exchange) -> None:
        try:
            await self._declare(name)
            exchange.declared = True
        except (BrokerUnavailable, ValueError) as exc:
            level = logging.DEBUG if self._ended else logging.ERROR
            log.log(level, "exchange %s cannot be declared, and its broadcasts are dropped: %s", name, exc)
        exchange.declaring = None
        waiting, exchange.waiting = exchange.waiting, []
        for message, settled in waiting:
            if exchange.declared:
                self._send(name, message, settled)
            else:
                settled(Outcome.UNROUTABLE)

    async def drain(self, timeout: float) -> None:
        """Wait until all messages were published, at most `timeout` seconds."""
        declaring = [exchange.declaring for exchange in self._exchanges.values() if exchange.declaring is not None]
        if declaring:
            await asyncio.wait(declaring, timeout=timeout)

    def end(self) -> None:
        """Settle all waiting messages as LOST: the link ended."""
        self._ended = True
        for exchange in self._exchanges.values():
            waiting, exchange.waiting = exchange.waiting, []
            for _, settled in waiting:
                settled(Outcome.LOST)
