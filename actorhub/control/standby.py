"""A node's readiness to run control. Whose consumer of control's inbox is the active one runs it: the broker decides, and what
keeps two of them apart is the journal, as with every durable actor."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from actorhub.broker import Link, Queue, QueueKind
from actorhub.control.actor import Control
from actorhub.control.seat import Seat
from actorhub.durable import DurableMailbox
from actorhub.residents import Load
from actorhub.session import Session
from actorhub.spec import spec_of

log = logging.getLogger(__name__)

HANDING_OVER = 1.0  # seconds that what runs may take to end


class Standby:
    """Attached to a session, it takes its turn at control on every link that the session has."""

    def __init__(self, session: Session, *, name: str) -> None:
        names = session.names
        self._session = session
        self._name = name
        self._mailbox = DurableMailbox(
            session,
            spec_of(Control),
            actor_id="control",
            inbox=names.control,
            journal=names.control_journal,
            dead=names.dead("system"),
            make_household=self._sit_down,
            in_parts=True,
            journal_to_make=Queue(
                names.control_journal, QueueKind.STREAM, retention=session.settings.journal_retention
            ),
            on_born_dead=self._failed,
            on_gone=functools.partial(self._failed, RuntimeError(f"{names.control} was deleted")),
        )

    async def open(self) -> None:
        await self._session.attachments.add(self)
        await self._mailbox.open()

    async def close(self) -> None:
        """What control has not committed is the next one's."""
        self._session.attachments.remove(self)
        await self._mailbox.stop(HANDING_OVER)
        await self._mailbox.close()

    async def attach(self, link: Link) -> None:
        """Before the mailbox is attached to it."""
        await link.declare(Queue(self._session.names.control, QueueKind.QUORUM, single_active=True))

    def detach(self) -> None:
        """The inbox is the broker's."""

    def _sit_down(
        self, link: Link, load: Load, on_broken: Callable[[Exception], None], may_begin: Callable[[], bool]
    ) -> Seat:
        """All parts are read when it begins: nothing can break later."""
        log.info("%s runs control", self._name)
        return Seat(self._session, link, load, may_begin)

    def _failed(self, error: BaseException) -> None:
        link = self._session.link
        if link is not None:
            self._session.renew(link, f"control cannot run here: {error}")
