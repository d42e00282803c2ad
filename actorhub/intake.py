"""A slot's consumer of one task queue: it takes about 20 ms of work ahead, and can be closed while a long task runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from actorhub.broker import Consumer, Delivery, Link
from actorhub.chunks import CONCURRENT, SMALLEST_PREFETCH, Means, is_far, prefetch
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable
from actorhub.session import Session
from actorhub.taskbox import task_queue

log = logging.getLogger(__name__)


class Shift:
    """One consumer, from its first delivery to the last acknowledgement."""

    def __init__(self) -> None:
        self.consumer: Consumer | None = None
        self.in_hand = 0
        self.over = False  # nothing more comes
        self.lost = False  # the broker has taken back what was in hand
        self.on_empty: Callable[[], None] | None = None

    def acked(self) -> None:
        self.in_hand -= 1
        if self.in_hand == 0 and self.on_empty is not None:
            self.on_empty()


class Intake:
    """Attached to a session. `on_delivery` gets each delivery with the shift that it belongs to, which must hear of its end."""

    def __init__(self, session: Session, queue: str, on_delivery: Callable[[Intake, Delivery, Shift], None]) -> None:
        self.queue = queue
        self._session = session
        self._on_delivery = on_delivery
        self._means = Means()
        self._least = SMALLEST_PREFETCH
        self._prefetch = prefetch(None)
        self._shift: Shift | None = None
        self._wanted = True
        self._changing = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        await self._session.add(self)

    async def attach(self, link: Link) -> None:
        await link.declare(task_queue(self.queue))
        self._shift = None
        if self._wanted:
            await self._begin(link)

    def detach(self) -> None:
        """What was in hand is the broker's again."""
        if self._shift is not None:
            self._shift.over = self._shift.lost = True
        self._shift = None

    async def close(self) -> None:
        """For good. What is in hand can still be acknowledged until the session ends."""
        self._closed = True
        self._session.remove(self)
        self._wanted = False
        await self._follow(anew=False)

    # ---- opening and closing

    @property
    def may_deliver(self) -> bool:
        """Whether the broker may send one more message."""
        return self._shift is not None and self._shift.in_hand < self._prefetch

    def pause(self) -> None:
        """Take nothing more for now."""
        if self._wanted:
            self._wanted = False
            self._adjust()

    def resume(self) -> None:
        if not self._wanted and not self._closed:
            self._wanted = True
            self._adjust()

    def measured(self, seconds: float) -> None:
        """The slot was busy with a message of this queue for so long; the prefetch follows."""
        self._means.record("", seconds)
        self._want(prefetch(self._means.of("")))

    def widen(self) -> None:
        """There are `async def` tasks in this queue. They may wait for others of their kind, so many of them must find room."""
        if self._least < CONCURRENT:
            self._least = CONCURRENT
            self._want(CONCURRENT)

    def _want(self, wanted: int) -> None:
        wanted = max(self._least, wanted)
        if is_far(self._prefetch, wanted) and self._shift is not None:
            self._prefetch = wanted
            self._adjust(anew=True)

    def _adjust(self, *, anew: bool = False) -> None:
        self._session.spawn_task(self._follow(anew), f"actorhub-intake-{self.queue}")

    async def _follow(self, anew: bool) -> None:
        async with self._changing:
            link = self._session.link
            if link is None:
                return
            try:
                if self._shift is not None and (anew or not self._wanted):
                    await self._end()
                if self._shift is None and self._wanted and link is self._session.link:
                    await self._begin(link)
            except (BrokerUnavailable, ActorNotFound):
                log.debug("%s is set up again on the next link", self.queue, exc_info=True)

    async def _begin(self, link: Link) -> None:
        shift = self._shift = Shift()

        def deliver(delivery: Delivery) -> None:
            shift.in_hand += 1
            self._on_delivery(self, delivery, shift)

        shift.consumer = await link.consume(
            self.queue, deliver, lambda reason: self._on_end(shift, link, reason), prefetch=self._prefetch
        )

    async def _end(self) -> None:
        """The consumer goes when the last of what it has in hand is acknowledged."""
        shift, self._shift = self._shift, None
        if shift is None or shift.consumer is None:
            return
        shift.over = True
        await shift.consumer.stop()
        if shift.in_hand == 0:
            await shift.consumer.close()
        else:
            shift.on_empty = lambda: self._close_consumer(shift)

    def _close_consumer(self, shift: Shift) -> None:
        if shift.consumer is not None:
            self._session.spawn_task(shift.consumer.close(), "actorhub-shift-end")

    def _on_end(self, shift: Shift, link: Link, reason: str) -> None:
        """The broker ended it."""
        if shift.over or self._closed or link.lost is not None or link is not self._session.link:
            return
        log.warning("the broker ended the consumer of %s (%s); consuming again", self.queue, reason)
        self._shift = None
        self._session.spawn_task(self._attach_again(link), "actorhub-intake")

    async def _attach_again(self, link: Link) -> None:
        try:
            await self.attach(link)
        except ActorHubError:
            log.debug("%s is not consumed again over this link", self.queue, exc_info=True)
