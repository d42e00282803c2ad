"""The end of a task queue that nobody can serve any more: each of its tasks fails, and is kept as dead; then it is deleted."""

from __future__ import annotations

import asyncio
import logging

from actorhub.broker import Consumer, Delivery, Link
from actorhub.envelope import decode
from actorhub.errors import ActorHubError, InvalidEnvelope
from actorhub.session import Session
from actorhub.settle import Settling
from actorhub.work import Receipt, task_work

log = logging.getLogger(__name__)

LOOK = 0.05  # seconds between looks whether it is empty


async def empty(session: Session, queue: str, error: ActorHubError) -> None:
    """Returns when the queue is gone. What is sent to it later finds none."""
    while not await _try(session, queue, error):
        await asyncio.sleep(LOOK)


async def _try(session: Session, queue: str, error: ActorHubError) -> bool:
    link, settling, failed = await session.live_link(), Settling(session), 0

    def fail(delivery: Delivery) -> None:
        nonlocal failed
        message = delivery.message
        try:
            parcels = decode(message.body, message.content_type)
        except InvalidEnvelope as exc:
            settling.malformed(queue, message, exc, Receipt(delivery, 1))
            return
        receipt = Receipt(delivery, len(parcels))
        failed += len(parcels)
        for parcel in parcels:
            settling.fail(task_work(parcel, message, receipt, settling.answer, queue), None, error, 0.0)

    consumer: Consumer | None = None
    try:
        consumer = await link.consume(queue, fail, lambda reason: None, prefetch=100)
        while not await _is_empty(link, queue, settling):
            await asyncio.sleep(LOOK)
        await consumer.close()
        return await link.delete(queue)
    except ActorHubError:
        log.debug("%s is emptied over the next link", queue, exc_info=True)
        return link.lost is None and await link.state(queue) is None
    finally:
        if failed:
            log.error("%d tasks in %s are kept as dead letters: %s", failed, queue, error)


async def _is_empty(link: Link, queue: str, settling: Settling) -> bool:
    """Nothing waits, and nobody else consumes: a slot that is being killed may still hold what it has not acknowledged."""
    state = await link.state(queue)
    return state is None or (state.messages == 0 and state.consumers <= 1 and await settling.settled(0.0))
