"""Delayed delivery by a ladder of queues. No worker holds a message that waits, and no plugin is needed.

Rung k is a quorum queue whose messages live for 2**k seconds, from 1/16 s up to 388 days; then the broker moves them, at least
once, to one queue for all that may be due. There the forwarder brings each to its target if its time has come, and else to the
longest rung that is not longer than what remains. So any delay ends after one hop for each rung at most, and one more for every
388 days; it is looked at again on each hop, so what a hop took too long is made up for by the next.

All messages of a rung live equally long, so its first is always the first to die: RabbitMQ looks at no other. A priority would
upset that, and an expiration end a message before its time. Both therefore travel as headers, as target and time do.

The clocks are those of the sender and of the active forwarder: by as much as they differ, a message comes early or late.
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

LOWEST, HIGHEST = -4, 25  # rungs
TOLERANCE = 2.0**LOWEST / 2  # seconds that a message may be early, and that the ladder itself makes it late
AGAIN = 0  # the rung of what could not be brought to its target for now
PREFETCH = 256
CLOSING = 2.0  # seconds
PAUSE, SLOWEST = 0.1, 5.0  # seconds until what the broker is not ready for is tried again, at first and at most

_TARGET, _DUE, _PRIORITY, _EXPIRATION = "x-target", "x-due", "x-priority", "x-expiration"
_DEATH = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")  # headers that brokers add on the way

OnUnroutable = Callable[[str | None, Message], Awaitable[None]]
"""Called with the target that does not exist (any more) and the message that was for it; None where the message does not say.
When it returns, the message is gone from the ladder; when it raises, the message comes again."""


def next_rung(remaining: float) -> int | None:
    """Where a message goes that is due in `remaining` seconds. None: to its target, now."""
    if remaining <= TOLERANCE:
        return None
    return min(max(math.frexp(remaining)[1] - 1, LOWEST), HIGHEST)


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message as its target shall get it, and when: Unix time in seconds."""

    message: Message
    target: str
    due: float

    @classmethod
    def of(cls, message: Message) -> DelayedMessage:
        """From a message on the ladder.

        Raises:
            ValueError: it does not say where it goes and when.
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
    """Its headers, without what brokers wrote there about its deaths: they would take the next for a circle."""
    return {name: value for name, value in (message.headers or {}).items() if not name.startswith(_DEATH)}


def _number(value: Any) -> float | None:
    """A finite number that stands in a header, as text or as itself."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


class DelayedPublisher:
    """The ladder of one cluster. Its queues are made when somebody first needs them: the broker says which are missing."""

    def __init__(self, names: QueueNames) -> None:
        self.names = names
        self._making: dict[tuple[Link, int], asyncio.Future[bool]] = {}

    async def put(self, link: Link, target: str, message: Message, due: float) -> Outcome:
        """Bring the message to the queue `target` at the Unix time `due`; at once if that is over. Returns what the broker
        says: STORED means that it will come, once at least. The message's `expiration` counts from when it comes there.

        Raises:
            ValueError: `due` is not a finite number.
        """
        if not math.isfinite(due):
            raise ValueError(f"a message cannot be due at {due!r}; give a Unix time in seconds")
        return await self.send(link, DelayedMessage(message, target, due))

    async def send(self, link: Link, delayed: DelayedMessage) -> Outcome:
        """To the next rung, or to the target, which alone can be UNROUTABLE or REFUSED."""
        rung = next_rung(delayed.due - time.time())
        if rung is None:
            return await publish_confirmed(link, delayed.target, delayed.message)
        return await self.put_on_rung(link, rung, delayed.on_the_ladder())

    async def put_on_rung(self, link: Link, rung: int, message: Message) -> Outcome:
        """To this rung, which is made where it is missing. STORED or LOST."""
        pause = PAUSE
        while (outcome := await publish_confirmed(link, self.names.delay(rung), message)) not in (
            Outcome.STORED,
            Outcome.LOST,
        ):
            if outcome is Outcome.UNROUTABLE and await self._make(link, rung):
                continue
            # it has no limit: it was made a moment ago and has no leader yet, or the broker is unwell
            log.debug("rung %d takes nothing for now (%s); trying again in %.1f s", rung, outcome.value, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, SLOWEST)
        return outcome

    async def declare_due(self, link: Link) -> None:
        """The queue of all that may be due.

        Raises:
            BrokerUnavailable: the link was lost.
        """
        await _declare(link, due_queue(self.names))

    async def _make(self, link: Link, rung: int) -> bool:
        """Whether it could be made. Those who miss it at the same moment share one declaration."""
        making = self._making.get((link, rung))
        if making is None:
            making = self._making[link, rung] = asyncio.ensure_future(self._declare_rung(link, rung))
            making.add_done_callback(lambda _: self._making.pop((link, rung)))
        return await asyncio.shield(making)

    async def _declare_rung(self, link: Link, rung: int) -> bool:
        try:
            await self.declare_due(link)  # first: what dies before it is there waits for minutes
            await _declare(link, delay_rung(self.names, rung))
        except BrokerUnavailable as exc:
            log.debug("rung %d was not declared: %s", rung, exc)
            return False
        return True


async def _declare(link: Link, queue: Queue) -> None:
    try:
        await link.declare(queue)
    except ValueError as exc:  # it is there, which is enough: an earlier version of the broker was told other arguments
        log.debug("%s is used as it is: %s", queue.name, exc)


class Owner(Protocol):
    """What a forwarder needs of a session."""

    @property
    def link(self) -> Link | None: ...
    @property
    def attachments(self) -> RecoveryRegistry: ...
    def spawn_task(self, coroutine: Any, name: str) -> asyncio.Task[Any]: ...


class DelayForwarder(Recoverable):
    """Brings what is due to its target, for as long as its session lives, across lost links. There may be any number in a
    cluster: the broker lets one be active. A message is acknowledged when the broker has it somewhere else."""

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
        """What is on its way ends, for CLOSING seconds; what is not acknowledged then goes back, for the next forwarder."""
        self._closed = True
        self._session.attachments.remove(self)
        if self._forwarding:
            await asyncio.wait(self._forwarding, timeout=CLOSING)
        if self._consumer is not None:
            await self._consumer.close()

    async def attach(self, link: Link) -> None:
        while (consumer := await self._consume(link)) is None:
            await asyncio.sleep(PAUSE)
        self._consumer = consumer
        if self._closed:
            await consumer.close()

    async def _consume(self, link: Link) -> Consumer | None:
        """None where the queue was found and is gone: somebody is deleting it."""
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
        self._session.attachments.again(self, link)

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
            log.warning("a message in %s cannot be brought anywhere: %s", self._delays.names.due, exc)
            await self._give_up(link, delivery, None, delivery.message)
            return
        outcome = await self._delays.send(link, delayed)
        if outcome is Outcome.STORED:
            delivery.ack()
        elif outcome is Outcome.UNROUTABLE:
            await self._give_up(link, delivery, delayed.target, delayed.message)
        elif outcome is Outcome.REFUSED:
            log.info("%s takes no message for now; trying again in %.0f s", delayed.target, 2.0**AGAIN)
            await self._try_later(link, delivery)

    async def _give_up(self, link: Link, delivery: Delivery, target: str | None, message: Message) -> None:
        try:
            await self._on_unroutable(target, message)
        except Exception:
            log.exception("a message for %s, which is not there, could not be given up; trying again", target)
            await self._try_later(link, delivery)
            return
        delivery.ack()

    async def _try_later(self, link: Link, delivery: Delivery) -> None:
        """It waits on the ladder, so that others go on."""
        message = replace(delivery.message, headers=_living(delivery.message))
        if await self._delays.put_on_rung(link, AGAIN, message) is Outcome.STORED:
            delivery.ack()
