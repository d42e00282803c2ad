"""The command queue of a process, and the actor that stands at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorhub.broker import Link, Queue
from actorhub.cell import Cell
from actorhub.control.desks import system_ticket
from actorhub.dead import DeadLetters
from actorhub.handle import Handle
from actorhub.mailbox import Mailbox
from actorhub.session import Session
from actorhub.spec import spec_of

CLOSING = 1.0  # seconds that running commands may take to end


class Desk:
    """`cls` is the actor's class, `make` makes it; `exchange`: whose broadcasts it hears, too. `expires`: the seconds after
    which the queue of a process that is gone is gone too; by default `reply_expiry`."""

    def __init__(
        self,
        session: Session,
        queue: str,
        cls: type,
        make: Callable[[], Any],
        *,
        exchange: str | None = None,
        expires: float | None = None,
    ) -> None:
        self._session = session
        self._queue = Queue(queue, single_active=True, expires=expires or session.settings.reply_expiry)
        self._exchange = exchange
        self._cell = Cell(session, Handle(session, system_ticket(queue, cls), spec_of(cls)), spec_of(cls), make)
        self._mailbox = Mailbox(session, queue, self._cell, DeadLetters(session, "system"))

    async def open(self) -> None:
        await self._session.live_link()
        await self._session.attachments.add(self)
        await self._cell.start()
        await self._mailbox.open()

    async def attach(self, link: Link) -> None:
        """The queue may have expired while the broker could not be reached."""
        await link.declare(self._queue)
        if self._exchange is not None:
            await link.subscribe(self._queue.name, self._exchange)

    def detach(self) -> None:
        """The queue is the broker's."""

    async def close(self) -> None:
        self._session.attachments.remove(self)
        await self._cell.stop(CLOSING)
        await self._mailbox.close()
