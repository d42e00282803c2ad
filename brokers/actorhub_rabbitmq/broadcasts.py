"""What one link broadcasts, exchange by exchange.

Publishing to an exchange that is not there costs the publishing channel, and with it the link; and so would declaring one
there that exists as another kind. So an exchange is declared on another channel before the first message goes to it, and
what comes meanwhile waits, in order.
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
    found: bool = False
    finding: asyncio.Task[None] | None = None
    waiting: list[tuple[Message, Settled]] = field(default_factory=list)


class Broadcasts:
    """`declare` makes an exchange or finds it as it is; `send` publishes to one that is there."""

    def __init__(
        self, declare: Callable[[str], Awaitable[None]], send: Callable[[str, Message, Settled], None]
    ) -> None:
        self._declare = declare
        self._send = send
        self._exchanges: dict[str, _Exchange] = {}
        self._ended = False

    def put(self, name: str, message: Message, settled: Settled) -> None:
        exchange = self._exchanges.setdefault(name, _Exchange())
        if exchange.found:
            self._send(name, message, settled)
            return
        exchange.waiting.append((message, settled))
        if exchange.finding is None:
            exchange.finding = asyncio.get_running_loop().create_task(
                self._find(name, exchange), name="actorhub-exchange"
            )

    async def _find(self, name: str, exchange: _Exchange) -> None:
        try:
            await self._declare(name)
            exchange.found = True
        except (BrokerUnavailable, ValueError) as exc:
            level = logging.DEBUG if self._ended else logging.ERROR
            log.log(level, "exchange %s cannot be had, and what was broadcast to it went nowhere: %s", name, exc)
        exchange.finding = None
        waiting, exchange.waiting = exchange.waiting, []
        for message, settled in waiting:
            if exchange.found:
                self._send(name, message, settled)
            else:
                settled(Outcome.UNROUTABLE)

    async def drain(self, timeout: float) -> None:
        """Until all that waits is sent, or `timeout` seconds are over."""
        finding = [exchange.finding for exchange in self._exchanges.values() if exchange.finding is not None]
        if finding:
            await asyncio.wait(finding, timeout=timeout)

    def end(self) -> None:
        """The link is over: what waits is LOST."""
        self._ended = True
        for exchange in self._exchanges.values():
            waiting, exchange.waiting = exchange.waiting, []
            for _, settled in waiting:
                settled(Outcome.LOST)
