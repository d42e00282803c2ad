"""The results of many tasks, gathered at the broker until the last one is there.

Each task puts its result into one queue, and looks how many are there; whoever finds them all reads them, and gives them to the
next task. A task whose slot dies in between comes again, puts its result a second time, and looks again: so they are found at
least once, and a result that is there twice counts once. Several may look at the same moment: the queue lets one of them read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pydantic_core

from actorhub.broker import Delivery, Link, Message, Outcome, publish_confirmed
from actorhub.core.futures import resolver_of
from actorhub.errors import ActorNotFound, BrokerUnavailable, InvalidEnvelope
from actorhub.messaging.request import Reply
from actorhub.messaging.session import Session
from actorhub.objects.reference import placeholders_allowed
from actorhub.wire.codec import Signer
from actorhub.wire.envelope import Codec, EncodedEnvelope, Envelope, FanInTarget, decode, encode

log = logging.getLogger(__name__)

PAUSE = 0.1  # seconds before what the broker could not do is tried again


class FanInQueue:
    """One task's view of it."""

    def __init__(self, session: Session, into: FanInTarget) -> None:
        self._session = session
        self._into = into

    async def add(self, answer: Reply) -> list[EncodedEnvelope] | None:
        """All results in order, to the one task that finds them complete; None to the others, and when it is over."""
        fields: dict[str, Any] = {**answer.fields, "index": self._into.index}
        envelope = Envelope(**fields)
        body, content_type = encode([(envelope, answer.payload)])
        added = False
        while True:
            try:
                link = await self._session.live_link()
                if not added:
                    outcome = await publish_confirmed(link, self._into.queue, Message(body, content_type))
                    if outcome is Outcome.UNROUTABLE:
                        return None
                    added = outcome is Outcome.STORED
                if added:
                    state = await link.state(self._into.queue)
                    if state is None or state.messages < self._into.count:
                        return None
                    return await self._read(link, state.messages)
            except (BrokerUnavailable, ActorNotFound):
                log.debug("%s waits for the broker", self._into.queue, exc_info=True)
            await asyncio.sleep(PAUSE)

    async def end(self) -> None:
        """The next task has them."""
        while True:
            try:
                await (await self._session.live_link()).delete(self._into.queue)
                return
            except BrokerUnavailable:
                await asyncio.sleep(PAUSE)

    async def _read(self, link: Link, there: int) -> list[EncodedEnvelope] | None:
        """Raises:
        BrokerUnavailable: the link was lost.
        """
        deliveries: list[Delivery] = []
        complete: asyncio.Future[str | None] = self._session.loop.create_future()
        resolve = resolver_of(complete)

        def take(delivery: Delivery) -> None:
            deliveries.append(delivery)
            if len(deliveries) >= there:
                resolve(None)

        consumer = await link.consume(self._into.queue, take, resolve, prefetch=0)
        try:
            await complete
            if link.lost is not None:
                raise BrokerUnavailable(str(link.lost))
            found = dict(self._results(deliveries))
            if len(found) < self._into.count:
                return None
            return [found[index] for index in range(self._into.count)]
        finally:
            await consumer.close()

    def _results(self, deliveries: Iterable[Delivery]) -> Iterable[tuple[int, EncodedEnvelope]]:
        for delivery in deliveries:
            try:
                parcels = decode(delivery.message.body, delivery.message.content_type)
            except InvalidEnvelope:
                log.warning("a message in %s is no result and is passed over", self._into.queue)
                continue
            yield from ((parcel[0].index, parcel) for parcel in parcels)


def merge_results(results: list[EncodedEnvelope], signer: Signer) -> tuple[bytes, Codec]:
    """One payload for all: a list."""
    if all(envelope.codec is Codec.JSON for envelope, _ in results):
        return b"[%b]" % b",".join(payload for _, payload in results), Codec.JSON
    values = [
        pydantic_core.from_json(payload) if envelope.codec is Codec.JSON else signer.loads(payload)
        for envelope, payload in results
    ]
    stored = any(envelope.codec is Codec.STORED for envelope, _ in results)
    with placeholders_allowed():
        return signer.dumps(values, "a list of results"), Codec.STORED if stored else Codec.PICKLE
