"""The command queue of a process, and the actor that stands at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorhub.actor import spec_of
from actorhub.broker import Queue
from actorhub.cell import Cell
from actorhub.control.desks import system_ticket
from actorhub.dead import DeadLetters
from actorhub.handle import Handle
from actorhub.mailbox import Mailbox
from actorhub.session import Session

CLOSING = 1.0  # seconds that running commands may take to end


class Desk:
    """`cls` is the actor's class, `make` makes it; `exchange`: whose broadcasts it hears, too."""

    def __init__(
        self, session: Session, queue: str, cls: type, make: Callable[[], Any], *, exchange: str | None = None
    ) -> None:
        self._session = session
        self._queue = queue
        self._exchange = exchange
        self._cell = Cell(session, Handle(session, system_ticket(queue, cls), spec_of(cls)), spec_of(cls), make)
        self._mailbox = Mailbox(session, queue, self._cell, DeadLetters(session, "system"))

    async def open(self) -> None:
        """Raises:
        BrokerUnavailable: the connection was lost.
        """
        link = await self._session.live_link()
        await link.declare(Queue(self._queue, single_active=True, expires=self._session.settings.reply_expiry))
        if self._exchange is not None:
            await link.subscribe(self._queue, self._exchange)
        await self._cell.start()
        await self._mailbox.open()

    async def close(self) -> None:
        await self._cell.stop(CLOSING)
        await self._mailbox.close()
