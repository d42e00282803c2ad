"""A node's readiness to run control. Whose consumer of control's queue is the active one runs it; the broker decides.

One control lives as long as one link at most. When the link is lost the broker makes another standby active, so what this
node's control knows is out of date from that moment on: it ends, and whoever is next begins from the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from actorhub.actor import spec_of
from actorhub.broker import Link, Queue
from actorhub.cell import Cell
from actorhub.control.actor import Control
from actorhub.control.desks import system_ticket
from actorhub.dead import DeadLetters
from actorhub.errors import ActorInitFailed
from actorhub.handle import Handle
from actorhub.mailbox import Mailbox
from actorhub.session import Session

log = logging.getLogger(__name__)


class _Life:
    """One control on one link: waits for its turn, then runs."""

    def __init__(self, session: Session, link: Link, dead: DeadLetters, on_turn: Callable[[], None]) -> None:
        self._session = session
        self._link = link
        self._on_turn = on_turn
        self._starting: asyncio.Task[None] | None = None
        queue = session.names.control
        handle = Handle(session, system_ticket(queue, Control), spec_of(Control))
        self._cell = Cell(session, handle, spec_of(Control), lambda: Control(session.settings, link))
        self.mailbox = Mailbox(
            session,
            queue,
            self._cell,
            dead,
            on_first=self._start,
            on_ended=lambda reason: session.renew(link, f"control's queue is no longer consumed: {reason}"),
        )

    def _start(self) -> None:
        self._on_turn()
        self._starting = self._session.spawn_task(self._run(), "actorhub-control")

    async def _run(self) -> None:
        try:
            await self._cell.start()
        except ActorInitFailed as exc:
            self._session.renew(self._link, str(exc))

    async def end(self, timeout: float) -> None:
        """`timeout`: seconds that what it has begun may take to end."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._cell.stop(timeout)
        await self.mailbox.close()


class Standby:
    """Attached to a session, it takes its turn at control on every link that the session has."""

    def __init__(self, session: Session, dead: DeadLetters, *, name: str) -> None:
        self._session = session
        self._dead = dead
        self._name = name
        self._life: _Life | None = None

    async def open(self) -> None:
        await self._session.add(self)

    async def close(self) -> None:
        """What control had not acknowledged goes to the next one."""
        self._session.remove(self)
        life, self._life = self._life, None
        if life is not None:
            await life.end(1.0)

    async def attach(self, link: Link) -> None:
        await link.declare(Queue(self._session.names.control, single_active=True))
        life = self._life = _Life(self._session, link, self._dead, self._on_turn)
        await life.mailbox.attach(link)

    def detach(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            self._session.spawn_task(life.end(0.0), "actorhub-control-end")

    def _on_turn(self) -> None:
        log.info("%s runs control", self._name)
