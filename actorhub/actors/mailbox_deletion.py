"""Termination of a dead actor's mailbox: fails the waiting calls, keeps the tells as dead letters, deletes the queue."""

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
    """Receiver of a dead actor's messages: fails each call with the cause of death.

    Args:
        session: signs the replies.
        error: the cause.
    """

    def __init__(self, session: Session, error: ActorHubError) -> None:
        self.kept = 0  # tells kept as dead letters
        self._session = session
        self._error = error

    def accept(self, request: Request) -> None:
        self.kept += request.envelope.kind is Kind.TELL
        request.finish(Reply.failed(request.envelope.id, self._error, self._session.signer, "actor died"))

    def cancel(self, call_id: str) -> None:
        """Do nothing: every call has its reply as soon as it comes."""


async def drain_and_delete(
    session: Session, queue: str, dead: DeadLetterQueue, error: ActorHubError, *, journal: str | None = None
) -> None:
    """Fail the calls in a dead actor's mailbox, keep its tells as dead letters, and delete the queue and the journal.

    Returns when they are deleted. A later sender finds no queue, and learns the cause from control. Logs once how many tells
    were kept.

    Args:
        session: consumes the queue.
        queue: name of the mailbox.
        dead: queue for dead letters.
        error: the cause of death.
        journal: name of the journal; None if the actor has none.
    """
    receiver = DeadActorReceiver(session, error)
    try:
        await _end_mailbox(session, queue, dead, receiver, journal)
    finally:
        if receiver.kept:
            log.error("%d messages to %s are kept as dead letters: %s", receiver.kept, queue, error)


async def _end_mailbox(
    session: Session, queue: str, dead: DeadLetterQueue, receiver: DeadActorReceiver, journal: str | None
) -> None:
    while True:
        mailbox = Mailbox(session, queue, receiver, dead, on_gone=lambda: None)
        await mailbox.open()
        try:
            while not await _emptied(await session.live_link(), queue, mailbox):
                await asyncio.sleep(0.02)
        finally:
            await mailbox.close()
        try:
            link = await session.live_link()
            # RabbitMQ cannot delete a quorum queue on condition: the sender of a call that comes in between finds out itself
            if await link.delete(queue, only_if_empty=journal is None):
                if journal is not None:
                    await link.delete(journal)
                return
        except BrokerUnavailable:
            log.debug("the connection was lost while %s was deleted", queue, exc_info=True)


async def _emptied(link: Link, queue: str, mailbox: Mailbox) -> bool:
    """True if no message waits and no other consumer is left: the actor's last one may still hold unacknowledged
    messages.
    """
    try:
        state = await link.state(queue)
    except BrokerUnavailable:
        return False
    return state is None or (state.messages == 0 and state.consumers == 1 and mailbox.idle)
