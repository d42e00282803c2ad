"""The end of tasks whose queue nobody can serve any more: each fails, and is kept as dead; then the queue is deleted."""

from __future__ import annotations

import asyncio
import logging
import math

from actorhub.broker import Delivery, Link, Message
from actorhub.errors import ActorHubError, ActorNotFound, InvalidEnvelope
from actorhub.messaging.request import DeliveryAck, task_work
from actorhub.messaging.session import Session
from actorhub.tasks.execution.completion import CompletionHandler
from actorhub.wire.envelope import decode

log = logging.getLogger(__name__)

LOOK = 0.05  # seconds between looks whether it is empty
PREFETCH = 100


async def fail_all_and_delete(session: Session, queue: str, error: ActorHubError) -> None:
    """Returns when the queue is gone. What is sent to it later finds none."""
    drain = _QueueDrain(session, queue, error)
    try:
        while not await drain.try_over(await session.live_link()):
            await asyncio.sleep(LOOK)
    finally:
        if drain.failed:
            log.error("%d tasks in %s are kept as dead letters: %s", drain.failed, queue, error)


async def fail_message(session: Session, queue: str, message: Message, error: ActorHubError) -> None:
    """Fail the tasks of a message that cannot come to its queue. Returns when the broker has what became of them."""
    settling = CompletionHandler(session)
    _fail(settling, queue, message, None, error)
    await settling.settled(math.inf)


class _QueueDrain:
    """`failed` counts tasks."""

    def __init__(self, session: Session, queue: str, error: ActorHubError) -> None:
        self.failed = 0
        self._queue = queue
        self._error = error
        self._settling = CompletionHandler(session)
        self._ended = False

    async def try_over(self, link: Link) -> bool:
        """Whether the queue is gone; else it is to be tried again, over the next link if this one is lost."""
        self._ended = False
        try:
            consumer = await link.consume(self._queue, self._on_delivery, self._on_end, prefetch=PREFETCH)
        except ActorNotFound:
            return True
        except ActorHubError:
            log.debug("%s cannot be emptied yet", self._queue, exc_info=True)
            return False
        try:
            while not await self._is_empty(link):
                if self._ended:
                    return False
                await asyncio.sleep(LOOK)
            await consumer.close()
            return await link.delete(self._queue)
        except ActorHubError:
            log.debug("%s is emptied over the next link", self._queue, exc_info=True)
            return False
        finally:
            await consumer.close()

    async def _is_empty(self, link: Link) -> bool:
        """Nothing waits, and nobody else consumes: a slot that is being killed may still hold what it has not acknowledged."""
        state = await link.state(self._queue)
        return state is None or (state.messages == 0 and state.consumers <= 1 and await self._settling.settled(0.0))

    def _on_end(self, reason: str) -> None:
        self._ended = True

    def _on_delivery(self, delivery: Delivery) -> None:
        self.failed += _fail(self._settling, self._queue, delivery.message, delivery, self._error)


def _fail(
    settling: CompletionHandler, queue: str, message: Message, delivery: Delivery | None, error: ActorHubError
) -> int:
    """Returns how many tasks it had."""
    try:
        parcels = decode(message.body, message.content_type)
    except InvalidEnvelope as exc:
        settling.malformed(queue, message, exc, DeliveryAck(delivery, 1) if delivery is not None else None)
        return 0
    receipt = DeliveryAck(delivery, len(parcels)) if delivery is not None else None
    for parcel in parcels:
        settling.fail(task_work(parcel, message, receipt, settling.answer, queue), None, error, 0.0)
    return len(parcels)
