"""End of a task queue that no slot can serve any more: its tasks fail and are kept as dead letters, then it is deleted."""

from __future__ import annotations

import asyncio
import logging
import math

from actorhub.broker import Delivery, Link, Message
from actorhub.errors import ActorHubError, ActorNotFound, InvalidEnvelope
from actorhub.messaging.request import DeliveryAck, task_request
from actorhub.messaging.session import Session
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.wire.envelope import decode

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""Time between two looks whether the queue is empty."""
PREFETCH = 100


async def fail_all_and_delete(session: Session, queue: str, error: ActorHubError) -> None:
    """Fail all tasks of a queue with this error, and delete it. Returns when it is gone."""
    drain = _QueueDrain(session, queue, error)
    try:
        while not await drain.try_over(await session.live_link()):
            await asyncio.sleep(POLL_SECONDS)
    finally:
        if drain.failed:
            log.error("%d tasks in %s are kept as dead letters: %s", drain.failed, queue, error)


async def fail_message(session: Session, queue: str, message: Message, error: ActorHubError) -> None:
    """Fail the tasks of a message that cannot come to its queue. Returns when the broker has their dead letters and replies."""
    completion = CompletionHandler(session)
    _fail(completion, queue, message, None, error)
    await completion.all_confirmed(math.inf)


class _QueueDrain:
    """Consumer that fails what it gets."""

    def __init__(self, session: Session, queue: str, error: ActorHubError) -> None:
        self.failed = 0
        """Tasks."""
        self._queue = queue
        self._error = error
        self._completion = CompletionHandler(session)
        self._has_ended = False

    async def try_over(self, link: Link) -> bool:
        """Drain and delete the queue over this link. False if that did not succeed, and must be repeated over the link that
        the session has then."""
        self._has_ended = False
        try:
            consumer = await link.consume(self._queue, self._on_delivery, self._on_end, prefetch=PREFETCH)
        except ActorNotFound:
            return True
        except ActorHubError:
            log.debug("%s cannot be drained yet", self._queue, exc_info=True)
            return False
        try:
            while not await self._is_empty(link):
                if self._has_ended:
                    return False
                await asyncio.sleep(POLL_SECONDS)
            await consumer.close()
            return await link.delete(self._queue)
        except ActorHubError:
            log.debug("%s is drained over the next link", self._queue, exc_info=True)
            return False
        finally:
            await consumer.close()

    async def _is_empty(self, link: Link) -> bool:
        """True if nothing waits, and there is no other consumer: a slot that is being killed may hold unacknowledged tasks."""
        state = await link.state(self._queue)
        return state is None or (
            state.messages == 0 and state.consumers <= 1 and await self._completion.all_confirmed(0.0)
        )

    def _on_end(self, reason: str) -> None:
        self._has_ended = True

    def _on_delivery(self, delivery: Delivery) -> None:
        self.failed += _fail(self._completion, self._queue, delivery.message, delivery, self._error)


def _fail(
    completion: CompletionHandler, queue: str, message: Message, delivery: Delivery | None, error: ActorHubError
) -> int:
    """Returns how many tasks the message had. `delivery`: acknowledged when all of them are done."""
    try:
        parcels = decode(message.body, message.content_type)
    except InvalidEnvelope as exc:
        ack = DeliveryAck(delivery, 1) if delivery is not None else None
        completion.dead_letter_malformed(queue, message, exc, ack)
        return 0
    ack = DeliveryAck(delivery, len(parcels)) if delivery is not None else None
    for parcel in parcels:
        completion.fail(task_request(parcel, message, ack, completion.reply, queue), error, 0.0)
    return len(parcels)
