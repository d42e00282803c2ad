"""Where a dead actor's mailbox ends: every waiting caller is told, every tell kept, then the queue is deleted."""

from __future__ import annotations

import asyncio
import logging

from actorhub.actors.mailbox import Mailbox
from actorhub.broker import Link
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.wire.envelope import Kind

log = logging.getLogger(__name__)


class DeadActorReceiver:
    """Stands behind a dead actor's mailbox, and answers each call with the cause."""

    def __init__(self, session: Session, error: ActorHubError) -> None:
        self.kept = 0  # tells, each a dead letter
        self._session = session
        self._error = error

    def offer(self, work: Request) -> None:
        self.kept += work.envelope.kind is Kind.TELL
        work.finish(Reply.failed(work.envelope.id, self._error, self._session.signer, "actor died"))

    def cancel(self, call_id: str) -> None:
        """Every call is answered as soon as it comes: there is nothing to cancel."""


async def drain_and_delete(
    session: Session, queue: str, dead: DeadLetterQueue, error: ActorHubError, *, journal: str | None = None
) -> None:
    """Returns when the queue is gone, and with it the journal where it had one. Whoever sends later finds no queue, and is
    told by control. Says once how many tells are kept as dead."""
    grave = DeadActorReceiver(session, error)
    try:
        await _end_mailbox(session, queue, dead, grave, journal)
    finally:
        if grave.kept:
            log.error("%d messages to %s are kept as dead letters: %s", grave.kept, queue, error)


async def _end_mailbox(
    session: Session, queue: str, dead: DeadLetterQueue, grave: DeadActorReceiver, journal: str | None
) -> None:
    while True:
        mailbox = Mailbox(session, queue, grave, dead, on_gone=lambda: None)
        await mailbox.open()
        try:
            while not await _emptied(await session.live_link(), queue, mailbox):
                await asyncio.sleep(0.02)
        finally:
            await mailbox.close()
        try:
            link = await session.live_link()
            # the broker deletes no quorum queue on condition: a call that comes in between is told by its session's own look
            if await link.delete(queue, only_if_empty=journal is None):
                if journal is not None:
                    await link.delete(journal)
                return
        except BrokerUnavailable:
            log.debug("the connection was lost while %s was buried", queue, exc_info=True)


async def _emptied(link: Link, queue: str, mailbox: Mailbox) -> bool:
    """Nothing waits, and nobody else consumes: the actor's last consumer may still hold what it has not acknowledged."""
    try:
        state = await link.state(queue)
    except BrokerUnavailable:
        return False
    return state is None or (state.messages == 0 and state.consumers == 1 and mailbox.idle)
