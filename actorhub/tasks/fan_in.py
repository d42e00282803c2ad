"""Fan-in: many tasks whose results one task collects, gathered in a queue at the broker.

Each task puts its result into that queue and counts the results in it; the task that finds all of them reads them and
gives them to the collecting task. A task whose slot dies in between is delivered again, puts its result a second time and
counts again: so the results are found complete at least once, and a duplicate result counts once. If several tasks count
at the same moment, the queue lets one of them read.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pydantic_core

from actorhub.broker import Delivery, Link, Message, Outcome, publish_confirmed
from actorhub.core.futures import resolver_of
from actorhub.errors import ActorNotFound, BrokerUnavailable, InvalidEnvelope, PlacementInfeasible
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.pending_calls import PendingCall
from actorhub.messaging.request import Reply
from actorhub.messaging.session import Session
from actorhub.messaging.topology import fan_in_queue
from actorhub.objects.reference import placeholders_allowed
from actorhub.wire.envelope import (
    ChainStep,
    Codec,
    EncodedEnvelope,
    Envelope,
    EnvelopeDraft,
    FanInTarget,
    Kind,
    decode,
    encode,
)
from actorhub.wire.signer import Signer

log = logging.getLogger(__name__)

RETRY_INTERVAL_SECONDS = 0.1
"""Pause before an operation that failed at the broker is tried again."""

UNSAFE_QUEUE_SECONDS = 2.0
"""Age up to which a new queue may be lost if the broker is killed."""

LEADER_TIMEOUT_SECONDS = 5.0
"""In which a queue that has a leader takes a consumer."""


class FanInSubmission:
    """Sender of the parts of a fan-in, and the outbox of the call whose reply is the collecting task's result.

    Args:
        session: sends the parts, and receives the reply.
        namespace: of the fan-in queue, in which the results of the parts gather.
        parts_queue: name of the task queue of the parts.
        rows: the packed arguments of each part.
        collect: the task that takes the list of results.
        put: gives a part to the outbox of its task queue.
        cancel_task: tells every slot that a task is cancelled.
    """

    def __init__(
        self,
        session: Session,
        namespace: str,
        parts_queue: str,
        rows: Sequence[tuple[bytes, Codec]],
        collect: ChainStep,
        *,
        put: Callable[[OutgoingMessage], None],
        cancel_task: Callable[[str], None],
    ) -> None:
        self.collect = collect
        self.parts_queue = parts_queue
        self.accepted: asyncio.Future[None] = session.loop.create_future()
        """Done when the broker has stored all parts."""
        self._session = session
        self._namespace = namespace
        self._queue = self._new_queue()
        self._rows = rows
        self._put = put
        self._cancel_task = cancel_task
        self._part_ids = [session.sender.next_id() for _ in rows]
        self._unstored = len(rows)
        # RabbitMQ closes a connection on which it deletes a queue that it still declares
        self._declaring = asyncio.Lock()

    def start(self, pending: PendingCall, part: EnvelopeDraft) -> None:
        """Declare the fan-in queue, then send the parts.

        Args:
            pending: the call that waits for the collecting task.
            part: the envelope of each part, but for its own id, codec and index.
        """
        sending = self._send(pending, part)
        self._session.spawn_task(sending, f"actorhub-fan-in-{self.collect.method}")

    async def _send(self, pending: PendingCall, part: EnvelopeDraft) -> None:
        """Send the parts; and once more, with another queue, if the broker ended and lost the new queue.

        RabbitMQ (3.10 and 4.0) writes a new quorum queue into its directory within a second. If it is killed before, the queue
        comes back empty and without a leader: it confirms nothing, and blocks the channels that publish to it.
        """
        while not pending.result.done():
            async with self._declaring:
                link = await self._declare_queue()
            if pending.result.done():  # cancelled, or past its deadline: `cancel` deletes the queue
                return
            self._put_parts(pending, part)
            await asyncio.sleep(UNSAFE_QUEUE_SECONDS)
            if pending.result.done() or link.lost is None or await self._has_leader():
                return
            log.warning(
                "the broker ended and lost %s, which was new: %s starts again", self._queue, self.collect.method
            )
            await self._delete(self._queue)
            self._cancel_parts()
            self._start_again()

    async def _declare_queue(self) -> Link:
        """Declare the fan-in queue, under a new name at each attempt, and return the link that did."""
        while True:
            try:
                link = await self._session.live_link()
                await link.declare(fan_in_queue(self._queue))
                return link
            except BrokerUnavailable:
                self._session.spawn_task(self._delete(self._queue), "actorhub-fan-in-end")
                self._queue = self._new_queue()
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def _has_leader(self) -> bool:
        """True if the fan-in queue takes a consumer, or is gone, as at the end of the fan-in."""
        while True:
            try:
                link = await self._session.live_link()
                async with asyncio.timeout(LEADER_TIMEOUT_SECONDS):
                    consumer = await link.consume(self._queue, _ignore, _ignore, prefetch=1)
                    await consumer.close()
                return True
            except TimeoutError:
                return False
            except ActorNotFound:
                return True
            except BrokerUnavailable:
                await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    def _start_again(self) -> None:
        self._queue = self._new_queue()
        self._part_ids = [self._session.sender.next_id() for _ in self._rows]
        self._unstored = len(self._rows)

    def _new_queue(self) -> str:
        return self._session.names.fan_in(self._namespace, self._session.sender.next_id())

    def _put_parts(self, pending: PendingCall, part: EnvelopeDraft) -> None:
        settled = functools.partial(self._part_settled, pending, self._queue)
        for index, (part_id, (payload, codec)) in enumerate(zip(self._part_ids, self._rows, strict=True)):
            draft: EnvelopeDraft = {
                **part,
                "id": part_id,
                "sender": self._session.id,
                "kind": Kind.CALL,
                "codec": codec,
                "into": self._target(pending, index),
            }
            self._put(OutgoingMessage(draft, payload, settled))

    def _target(self, pending: PendingCall, index: int) -> FanInTarget:
        return FanInTarget(
            queue=self._queue,
            index=index,
            count=len(self._rows),
            step=self.collect,
            call=pending.id,
            reply_to=self._session.reply_queue,
            sender=self._session.id,
        )

    def _part_settled(self, pending: PendingCall, queue: str, outcome: Outcome) -> None:
        if queue != self._queue:  # of a queue that was lost
            return
        if outcome is not Outcome.STORED:
            self._fail(pending, f"the task queue {self.parts_queue} was deleted: no node can serve it")
            return
        self._unstored -= 1
        if not self._unstored and not self.accepted.done():
            self.accepted.set_result(None)

    def _fail(self, pending: PendingCall, reason: str) -> None:
        if not pending.result.done():
            self._session.sender.fail(pending, PlacementInfeasible(reason))
            self.cancel(pending.id, pending.id)

    async def fail_if_incomplete(self, pending: PendingCall, reason: str) -> None:
        """Fail the call if results are missing, since the task queue of the parts was deleted with those that had not run."""
        incomplete = False

        async def look(link: Link) -> None:
            nonlocal incomplete
            # the part that hands all results to the collecting task deletes the fan-in queue
            incomplete = await link.state(self._queue) is not None

        await _until_done(self._session, look)
        if incomplete:
            self._fail(pending, reason)

    async def _delete_queue(self) -> None:
        """Delete the fan-in queue; results that come later are dropped."""
        async with self._declaring:
            await self._delete(self._queue)

    async def _delete(self, queue: str) -> None:
        await _until_done(self._session, lambda link: link.delete(queue))

    # ---- as the outbox of its call

    def withdraw(self, outgoing: OutgoingMessage) -> bool:
        """False: the parts cannot be withdrawn."""
        return False

    def on_reply(self, outgoing: OutgoingMessage) -> None:
        """Do nothing: no message is kept."""

    def cancel(self, call_id: str, sender: str) -> None:
        """Cancel the parts and the collecting task."""
        self._cancel_parts()
        self._cancel_task(call_id)
        self._session.spawn_task(self._delete_queue(), "actorhub-fan-in-end")

    def _cancel_parts(self) -> None:
        for part_id in self._part_ids:
            self._cancel_task(part_id)


def _ignore(_: object) -> None:
    """Do nothing."""


async def _until_done(session: Session, operate: Callable[[Link], Awaitable[object]]) -> None:
    """Repeat an operation at the broker until a link has lived long enough for it."""
    while True:
        try:
            await operate(await session.live_link())
            return
        except BrokerUnavailable:
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)


class FanInQueue:
    """Fan-in queue, as one of its parts uses it: adds its result, and may read all of them.

    Args:
        session: reaches the broker.
        into: the queue, and the index of the part's result.
    """

    def __init__(self, session: Session, into: FanInTarget) -> None:
        self._session = session
        self._into = into

    async def add(self, reply: Reply) -> list[EncodedEnvelope] | None:
        """Add a result.

        Returns all results in order if this task finds them complete; None if not, or if the fan-in is over.
        """
        draft: EnvelopeDraft = {**reply.draft, "index": self._into.index}
        envelope = Envelope(**draft)
        body, content_type = encode([(envelope, reply.payload)])
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
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def end(self) -> None:
        """Delete the queue, once the collecting task has the results."""
        await _until_done(self._session, lambda link: link.delete(self._into.queue))

    async def _read(self, link: Link, there: int) -> list[EncodedEnvelope] | None:
        """Read all results in order; None if some are missing.

        Raises:
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
                log.warning("a message in %s is not a result and is ignored", self._into.queue)
                continue
            yield from ((parcel[0].index, parcel) for parcel in parcels)


def merge_results(results: list[EncodedEnvelope], signer: Signer) -> tuple[bytes, Codec]:
    """Merge results into one payload, a list, and its codec."""
    if all(envelope.codec is Codec.JSON for envelope, _ in results):
        return b"[%b]" % b",".join(payload for _, payload in results), Codec.JSON
    values = [
        pydantic_core.from_json(payload) if envelope.codec is Codec.JSON else signer.loads(payload)
        for envelope, payload in results
    ]
    stored = any(envelope.codec is Codec.STORED for envelope, _ in results)
    with placeholders_allowed():
        return signer.dumps(values, "a list of results"), Codec.STORED if stored else Codec.PICKLE
