"""Outbox of one session for one task queue: sends tasks in chunks, and repeats a publish until the broker confirms it.

Any worker may take a message, so messages are not numbered, and many publishes are under way at once. `chunking.py`
decides how many tasks share a message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from actorhub.broker import Link, Message, Outcome
from actorhub.errors import ActorHubError, BrokerUnavailable, PlacementInfeasible
from actorhub.messaging.delayed_delivery import DelayedPublisher
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.session import Session
from actorhub.messaging.topology import task_queue
from actorhub.tasks.chunking import ChunkLoad, MeanDurations
from actorhub.wire.envelope import EncodedEnvelope, Envelope, encode

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 64
"""Unconfirmed publishes, at most."""
RETRY_SECONDS = 0.1
"""Seconds before a publish that the broker did not take is repeated."""


def task_message(parcels: list[EncodedEnvelope], *, correlation_id: str | None = None) -> Message:
    """Encode tasks of one priority into a message for a task queue."""
    body, content_type = encode(parcels)
    return Message(body, content_type, priority=parcels[0][0].priority or None, correlation_id=correlation_id)


async def publish_task(
    session: Session, delays: DelayedPublisher, queue: str, message: Message, delay: float = 0.0
) -> None:
    """Publish a message to a task queue. Returns when the broker has stored it.

    Args:
        session: reaches the broker.
        delays: holds the message at the broker until its time.
        queue: the task queue; declared if it is missing and needs no dedicated slots.
        message: the tasks, as `task_message` encodes them.
        delay: seconds from now until they may run.

    Raises:
        PlacementInfeasible: the queue has dedicated slots and was deleted, since no node can serve it any more.
    """
    due = time.time() + delay
    while True:
        try:
            link = await session.live_link()
            outcome = await delays.put(link, queue, message, due)
            if outcome is Outcome.STORED:
                return
            if outcome is Outcome.UNROUTABLE and session.names.has_dedicated_slots(queue):
                break
            if outcome is Outcome.UNROUTABLE:
                await link.declare(task_queue(queue))
                continue
        except ActorHubError:
            log.debug("a task for %s waits for the broker", queue, exc_info=True)
        await asyncio.sleep(RETRY_SECONDS)
    raise PlacementInfeasible(f"{queue} is gone: the placement group of its tasks was removed")


class TaskOutbox:
    """Outbox of one task queue.

    Args:
        queue: name of the task queue.
        loop: the session's event loop.
        means: mean durations of tasks, for chunking.
        cancelled: called with the id of a task that was sent and is cancelled.
        on_unroutable: called when the queue is missing, if control declares it; unsent tasks wait until the outbox is
            attached again. None: the outbox declares the queue itself.
    """

    def __init__(
        self,
        queue: str,
        loop: asyncio.AbstractEventLoop,
        means: MeanDurations,
        cancelled: Callable[[str], None],
        *,
        on_unroutable: Callable[[], None] | None = None,
    ) -> None:
        self.queue = queue
        self._loop = loop
        self._means = means
        self._cancelled = cancelled
        self._on_unroutable = on_unroutable
        self._waiting: deque[OutgoingMessage] = deque()
        self._in_flight: dict[int, list[OutgoingMessage]] = {}
        self._link: Link | None = None
        self._flush_asked = False
        self._declaring: asyncio.Task[None] | None = None
        self._is_given_up = False

    @property
    def unconfirmed(self) -> int:
        return len(self._waiting) + sum(len(chunk) for chunk in self._in_flight.values())

    def put(self, outgoing: OutgoingMessage) -> None:
        if self._is_given_up:
            self._loop.call_soon(outgoing.settled, Outcome.UNROUTABLE)
            return
        self._waiting.append(outgoing)
        self._ask_flush()

    def withdraw(self, outgoing: OutgoingMessage) -> bool:
        """Take back a task that is not published yet; False if it is."""
        if outgoing.envelope is not None or outgoing not in self._waiting:
            return False
        self._waiting.remove(outgoing)
        return True

    def cancel(self, call_id: str, sender: str) -> None:
        self._cancelled(call_id)

    def on_reply(self, outgoing: OutgoingMessage) -> None:
        """Do nothing: no message is kept until its reply, since published tasks are persistent."""

    def attach(self, link: Link) -> None:
        """Go on over a new link. Unconfirmed tasks are sent again, and may then run twice."""
        self._link = link
        self._waiting.extendleft(
            outgoing for chunk in reversed(list(self._in_flight.values())) for outgoing in reversed(chunk)
        )
        self._in_flight.clear()
        if self._on_unroutable is None:
            self._declare(link)
        else:
            self._ask_flush()

    def detach(self) -> None:
        self._link = None

    def give_up(self) -> list[OutgoingMessage]:
        """Stop sending: tasks that are put later are UNROUTABLE. Returns the tasks that the broker has not confirmed."""
        self._is_given_up = True
        in_flight = [outgoing for chunk in self._in_flight.values() for outgoing in chunk]
        left = [*in_flight, *self._waiting]
        self._link = None
        self._in_flight.clear()
        self._waiting.clear()
        return left

    def _declare(self, link: Link) -> None:
        """Declare the queue before anything is published."""
        if self._declaring is not None:
            self._declaring.cancel()
        self._declaring = self._loop.create_task(self._declare_and_flush(link), name=f"actorhub-declare-{self.queue}")

    async def _declare_and_flush(self, link: Link) -> None:
        try:
            await link.declare(task_queue(self.queue))
        except BrokerUnavailable:
            return  # `attach` declares it again on the next link
        self._declaring = None
        self._ask_flush()

    def _ask_flush(self) -> None:
        if not self._flush_asked and self._link is not None and self._declaring is None:
            self._flush_asked = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_asked = False
        while (
            self._waiting
            and self._link is not None
            and self._declaring is None
            and len(self._in_flight) < MAX_IN_FLIGHT
        ):
            self._publish(self._take(), self._link)

    def _take(self) -> list[OutgoingMessage]:
        """Take the next chunk: tasks of one priority, and no more work than one worker should take at once."""
        load, priority = ChunkLoad(), _priority(self._waiting[0])
        chunk: list[OutgoingMessage] = []
        while self._waiting and _priority(self._waiting[0]) == priority:
            following = self._waiting[0]
            if not load.takes(self._means.of(following.draft.get("method", "")), len(following.payload)):
                break
            chunk.append(self._waiting.popleft())
        return chunk

    def _publish(self, chunk: list[OutgoingMessage], link: Link) -> None:
        for outgoing in chunk:
            if outgoing.envelope is None:
                outgoing.envelope = Envelope(**outgoing.draft)
        body, content_type = encode([(o.envelope, o.payload) for o in chunk if o.envelope is not None])
        priority = _priority(chunk[0]) or None
        self._in_flight[id(chunk)] = chunk
        link.publish(
            self.queue,
            Message(body, content_type, priority=priority),
            lambda outcome: self._settle(chunk, link, outcome),
        )

    def _settle(self, chunk: list[OutgoingMessage], link: Link, outcome: Outcome) -> None:
        if outcome is Outcome.LOST or link is not self._link:
            return  # `attach` sends it again
        del self._in_flight[id(chunk)]
        if outcome is Outcome.STORED:
            for outgoing in chunk:
                outgoing.settled(outcome)
            self._ask_flush()
            return
        self._waiting.extendleft(reversed(chunk))
        if outcome is Outcome.UNROUTABLE:  # the queue was deleted
            if self._on_unroutable is None:
                self._declare(link)
            else:
                self._on_unroutable()
        else:
            self._loop.call_later(RETRY_SECONDS, self._ask_flush)


def _priority(outgoing: OutgoingMessage) -> int:
    return int(outgoing.draft.get("priority", 0))
