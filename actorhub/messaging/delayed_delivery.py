"""Delayed delivery by a ladder of queues. No worker holds a waiting message, and no plugin is needed.

Rung k is a quorum queue whose messages live for 2**k seconds, from 1/16 s up to 388 days; then the broker moves them,
at least once, to one queue of all messages that may be due. There the forwarder sends each to its target if its time
has come, else to the longest rung that is not longer than the remaining time. So any delay ends after at most one hop
for each rung, and one more for every 388 days. The remaining time is computed on each hop, so the next hop makes up for
one that took too long.

All messages of a rung live equally long, so its first message is always the first to expire: RabbitMQ looks at no
other. A priority would break that order, and an expiration would end a message before its time. Both therefore travel
as headers, like target and time.

The clocks are those of the sender and of the active forwarder: a message comes early or late by their difference.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from actorhub.broker import Consumer, Delivery, Link, Message, Outcome, Queue, publish_confirmed
from actorhub.core.addressing import QueueNames
from actorhub.errors import ActorNotFound, BrokerUnavailable
from actorhub.messaging.recovery import Recoverable, RecoveryRegistry
from actorhub.messaging.topology import delay_rung, due_queue

log = logging.getLogger(__name__)

# lowest and highest rung
LOWEST, HIGHEST = -4, 25
# seconds that a message may be early, and that the ladder itself makes it late
TOLERANCE_SECONDS = 2.0**LOWEST / 2
# rung of messages that cannot be sent to their target for now
RETRY_RUNG = 0
PREFETCH = 256
# seconds
CLOSE_TIMEOUT_SECONDS = 2.0
# seconds before the broker is tried again, at first and at most
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 5.0

_TARGET, _DUE, _PRIORITY, _EXPIRATION = "x-target", "x-due", "x-priority", "x-expiration"
# headers that brokers add on the way
_DEATH = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")

OnUnroutable = Callable[[str | None, Message], Awaitable[None]]
"""Called with a target that does not exist (any more) and the message for it; with None if the message names no target.
When it returns, the message is removed from the ladder; if it raises, the message comes again."""


def next_rung(remaining: float) -> int | None:
    """Return the rung for a message that is due in `remaining` seconds; None if it goes to its target now."""
    if remaining <= TOLERANCE_SECONDS:
        return None
    return min(max(math.frexp(remaining)[1] - 1, LOWEST), HIGHEST)


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message as its target receives it, with its target and the Unix time in seconds at which it is due."""

    message: Message
    target: str
    due: float

    @classmethod
    def of(cls, message: Message) -> DelayedMessage:
        """Read a message of the ladder.

        Raises:
            ValueError: it does not name its target and time.
        """
        headers = _living(message)
        target, due = headers.pop(_TARGET, None), headers.pop(_DUE, None)
        at = _number(due)
        if not isinstance(target, str) or at is None:
            raise ValueError(f"{_TARGET} is {target!r} and {_DUE} is {due!r}: a queue and a Unix time were expected")
        priority, expiration = headers.pop(_PRIORITY, None), _number(headers.pop(_EXPIRATION, None))
        plain = replace(
            message,
            priority=priority if isinstance(priority, int) else None,
            expiration=expiration,
            headers=headers or None,
        )
        return cls(plain, target, at)

    def on_the_ladder(self) -> Message:
        message = self.message
        headers = {**_living(message), _TARGET: self.target, _DUE: repr(float(self.due))}
        if message.priority is not None:
            headers[_PRIORITY] = message.priority
        if message.expiration is not None:
            headers[_EXPIRATION] = repr(float(message.expiration))
        return replace(message, priority=None, expiration=None, headers=headers)


def _living(message: Message) -> dict[str, Any]:
    """Headers of a message without those that brokers wrote about its deaths: the next death would look like a
    cycle."""
    return {name: value for name, value in (message.headers or {}).items() if not name.startswith(_DEATH)}


def _number(value: Any) -> float | None:
    """Finite number in a header, as text or as a number; None if it holds none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


class DelayedPublisher:
    """Publisher to the ladder of one cluster. It declares a queue on first use, when the broker reports it as
    missing."""

    def __init__(self, names: QueueNames) -> None:
        self.names = names
        self._making: dict[tuple[Link, int], asyncio.Future[bool]] = {}

    async def put(self, link: Link, target: str, message: Message, due: float) -> Outcome:
        """Send a message to the queue `target` at the Unix time `due`; at once if that has passed. Returns the broker's
        outcome: STORED means that it will come, at least once. The message's `expiration` counts from its arrival
        there.

        Raises:
            ValueError: `due` is not a finite number.
        """
        if not math.isfinite(due):
            raise ValueError(f"a message cannot be due at {due!r}; give a Unix time in seconds")
        return await self.send(link, DelayedMessage(message, target, due))

    async def send(self, link: Link, delayed: DelayedMessage) -> Outcome:
        """Send a message to its next rung, or to its target, which alone can be UNROUTABLE or REFUSED."""
        rung = next_rung(delayed.due - time.time())
        if rung is None:
            return await publish_confirmed(link, delayed.target, delayed.message)
        return await self.put_on_rung(link, rung, delayed.on_the_ladder())

    async def put_on_rung(self, link: Link, rung: int, message: Message) -> Outcome:
        """Publish to a rung, which is declared if missing. Returns STORED or LOST."""
        pause = MIN_PAUSE_SECONDS
        while (outcome := await publish_confirmed(link, self.names.delay(rung), message)) not in (
            Outcome.STORED,
            Outcome.LOST,
        ):
            if outcome is Outcome.UNROUTABLE and await self._make(link, rung):
                continue
            # a rung has no limit: it was declared a moment ago and has no leader yet, or the broker is in trouble
            log.debug("rung %d takes nothing for now (%s); trying again in %.1f s", rung, outcome.value, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        return outcome

    async def declare_due(self, link: Link) -> None:
        """Declare the queue of all messages that may be due.

        Raises:
            BrokerUnavailable: the link was lost.
        """
        await _declare(link, due_queue(self.names))

    async def _make(self, link: Link, rung: int) -> bool:
        """Declare a rung; return True if that succeeded. Callers that miss it at the same moment share one
        declaration."""
        making = self._making.get((link, rung))
        if making is None:
            making = self._making[link, rung] = asyncio.ensure_future(self._declare_rung(link, rung))
            making.add_done_callback(lambda _: self._making.pop((link, rung)))
        return await asyncio.shield(making)

    async def _declare_rung(self, link: Link, rung: int) -> bool:
        try:
            # first: a message that expires before this queue exists waits for minutes
            await self.declare_due(link)
            await _declare(link, delay_rung(self.names, rung))
        except BrokerUnavailable as exc:
            log.debug("rung %d was not declared: %s", rung, exc)
            return False
        return True


async def _declare(link: Link, queue: Queue) -> None:
    try:
        await link.declare(queue)
    # it exists, which is enough: it was declared with other arguments for an earlier version of the broker
    except ValueError as exc:
        log.debug("%s keeps its old arguments: %s", queue.name, exc)


class Owner(Protocol):
    """Session that a forwarder uses."""

    @property
    def link(self) -> Link | None: ...
    @property
    def attachments(self) -> RecoveryRegistry: ...
    def spawn_task(self, coroutine: Any, name: str) -> asyncio.Task[Any]: ...


class DelayForwarder(Recoverable):
    """Forwarder of due messages to their targets, for the lifetime of its session, across lost links. A cluster may
    have any number: the broker lets one be active. A message is acknowledged when the broker has stored it
    elsewhere."""

    def __init__(self, session: Owner, delays: DelayedPublisher, on_unroutable: OnUnroutable) -> None:
        self._session = session
        self._delays = delays
        self._on_unroutable = on_unroutable
        self._consumer: Consumer | None = None
        self._forwarding: set[asyncio.Task[None]] = set()
        self._closed = False

    # ---- life

    async def open(self) -> None:
        await self._session.attachments.add(self)

    async def close(self) -> None:
        """Stop. Messages in flight have CLOSE_TIMEOUT_SECONDS to finish; the rest return to the queue."""
        self._closed = True
        self._session.attachments.remove(self)
        if self._forwarding:
            await asyncio.wait(self._forwarding, timeout=CLOSE_TIMEOUT_SECONDS)
        if self._consumer is not None:
            await self._consumer.close()

    async def attach(self, link: Link) -> None:
        while (consumer := await self._consume(link)) is None:
            await asyncio.sleep(MIN_PAUSE_SECONDS)
        self._consumer = consumer
        if self._closed:
            await consumer.close()

    async def _consume(self, link: Link) -> Consumer | None:
        """Consume the queue of due messages; None if it was deleted after it had been declared."""
        await self._delays.declare_due(link)
        try:
            return await link.consume(
                self._delays.names.due,
                lambda delivery: self._on_delivery(link, delivery),
                lambda reason: self._on_end(link, reason),
                prefetch=PREFETCH,
            )
        except ActorNotFound:
            return None

    def detach(self) -> None:
        self._consumer = None

    def _on_end(self, link: Link, reason: str) -> None:
        self._consumer = None
        if self._closed or link.lost is not None or link is not self._session.link:
            return
        log.warning("the broker ended the consumer of %s (%s); consuming again", self._delays.names.due, reason)
        self._session.attachments.set_up_again(self, link)

    # ---- forwarding

    def _on_delivery(self, link: Link, delivery: Delivery) -> None:
        if not self._closed:
            task = self._session.spawn_task(self._forward(link, delivery), "actorhub-forward")
            self._forwarding.add(task)
            task.add_done_callback(self._forwarding.discard)

    async def _forward(self, link: Link, delivery: Delivery) -> None:
        try:
            delayed = DelayedMessage.of(delivery.message)
        except ValueError as exc:
            log.warning("a message in %s cannot be delivered: %s", self._delays.names.due, exc)
            await self._give_up(link, delivery, None, delivery.message)
            return
        outcome = await self._delays.send(link, delayed)
        if outcome is Outcome.STORED:
            delivery.ack()
        elif outcome is Outcome.UNROUTABLE:
            await self._give_up(link, delivery, delayed.target, delayed.message)
        elif outcome is Outcome.REFUSED:
            log.info("%s takes no message for now; trying again in %.0f s", delayed.target, 2.0**RETRY_RUNG)
            await self._try_later(link, delivery)

    async def _give_up(self, link: Link, delivery: Delivery, target: str | None, message: Message) -> None:
        try:
            await self._on_unroutable(target, message)
        except Exception:
            log.exception(
                "a message for %s, which does not exist, could not be kept as a dead letter; trying again", target
            )
            await self._try_later(link, delivery)
            return
        delivery.ack()

    async def _try_later(self, link: Link, delivery: Delivery) -> None:
        """Put a message back on the ladder, so that others go on."""
        message = replace(delivery.message, headers=_living(delivery.message))
        if await self._delays.put_on_rung(link, RETRY_RUNG, message) is Outcome.STORED:
            delivery.ack()
