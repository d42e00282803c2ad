"""A slot's consumer of one task queue: it takes about 20 ms of work ahead, and can be closed while a long task runs.

A prefetch changes by a new consumer. The one before ends with what it has in hand, so a new one has all its places free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from actorhub.broker import Consumer, Delivery, Link
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.session import Session
from actorhub.messaging.topology import task_queue
from actorhub.tasks.chunking import (
    CONCURRENT,
    SMALLEST_PREFETCH,
    MeanDurations,
    adjusted_prefetch,
    prefetch,
    widened_prefetch,
)

log = logging.getLogger(__name__)


class ConsumerGeneration:
    """One consumer, from its first delivery to the last acknowledgement."""

    def __init__(self, prefetch: int) -> None:
        self.consumer: Consumer | None = None
        self.prefetch = prefetch
        self.in_hand = 0
        self.ended = 0  # messages
        self.over = False  # nothing more comes
        self.lost = False  # the broker has taken back what was in hand
        self.on_empty: Callable[[], object] | None = None
        self.closing: asyncio.Task[None] | None = None

    def acked(self) -> None:
        self.in_hand -= 1
        self.ended += 1
        if self.in_hand == 0 and self.on_empty is not None:
            self.on_empty()


class TaskConsumer(Recoverable):
    """Attached to a session. `on_delivery` gets each delivery with the shift that it belongs to, which must hear of its end;
    `on_lost` is called when shifts are lost."""

    def __init__(
        self,
        session: Session,
        queue: str,
        on_delivery: Callable[[TaskConsumer, Delivery, ConsumerGeneration], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.waiting = 0  # tasks in hand that hold up nobody: `async def` ones, and those that have lent their turn
        self._session = session
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._means = MeanDurations()
        self._least = SMALLEST_PREFETCH
        self._prefetch = prefetch(None)
        self._shift: ConsumerGeneration | None = None
        self._seen: tuple[ConsumerGeneration, int] | None = None  # full, and how many had ended then
        self._ending: set[ConsumerGeneration] = set()
        self._wanted = True
        self._changing = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        await self._session.attachments.add(self)

    async def attach(self, link: Link) -> None:
        async with self._changing:
            await link.declare(task_queue(self.queue))
            if self._shift is None and self._wanted:
                await self._begin(link)

    def detach(self) -> None:
        """What was in hand is the broker's again."""
        self._lose(*self._ending, *([self._shift] if self._shift is not None else []))
        self._shift = None

    def _lose(self, *shifts: ConsumerGeneration) -> None:
        for shift in shifts:
            shift.over = shift.lost = True
            self._ending.discard(shift)
        self._on_lost()

    async def close(self) -> None:
        """Take nothing more, for good. What is in hand can still be acknowledged until `end`."""
        self._closed = True
        self._session.attachments.remove(self)
        self._wanted = False
        await self._follow(anew=False)

    async def end(self) -> None:
        """After `close`. When it returns the broker has every acknowledgement, and has taken back what has none."""
        await asyncio.gather(*(self._close_shift(shift) for shift in list(self._ending)))

    # ---- opening and closing

    @property
    def may_deliver(self) -> bool:
        """Whether the broker may send one more message."""
        return self._shift is not None and self._shift.in_hand < self._shift.prefetch

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
        self.adapt()

    def widen(self) -> None:
        """There are `async def` tasks in this queue. They may wait for others of their kind, so many of them must find room."""
        if self._least < CONCURRENT:
            self._least = CONCURRENT
            self.adapt()

    def adapt(self) -> None:
        """The prefetch follows what was measured, and what waits."""
        wanted = max(self._least, prefetch(self._means.of("")))
        self._change(adjusted_prefetch(self._prefetch, wanted, self.waiting))

    def look(self) -> None:
        """Make room where no message that has a place has ended since the last look; else adapt."""
        shift, seen = self._shift, self._seen
        self._seen = None if shift is None or self.may_deliver else (shift, shift.ended)
        if self._seen is not None and self._seen == seen:
            self.make_room()
        else:
            self.adapt()

    def make_room(self) -> None:
        """What is in hand may wait for what has found no room."""
        shift = self._shift
        if shift is not None and shift.in_hand >= shift.prefetch == self._prefetch:  # else a new one is on its way
            in_hand = shift.in_hand + sum(each.in_hand for each in self._ending)
            self._change(widened_prefetch(self._prefetch, in_hand) or self._prefetch)

    def _change(self, prefetch: int) -> None:
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            if self._shift is not None:
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
            except ActorNotFound:
                self._session.attachments.again(self, link)
            except BrokerUnavailable:
                log.debug("%s is set up again on the next link", self.queue, exc_info=True)

    async def _begin(self, link: Link) -> None:
        shift = self._shift = ConsumerGeneration(self._prefetch)

        def deliver(delivery: Delivery) -> None:
            shift.in_hand += 1
            self._on_delivery(self, delivery, shift)

        try:
            shift.consumer = await link.consume(
                self.queue, deliver, lambda reason: self._on_end(shift, link, reason), prefetch=shift.prefetch
            )
        except ActorHubError:
            if self._shift is shift:
                self._shift = None
            raise

    async def _end(self) -> None:
        """The consumer goes when the last of what it has in hand is acknowledged."""
        shift, self._shift = self._shift, None
        if shift is None or shift.consumer is None:
            return
        shift.over = True
        self._ending.add(shift)
        await shift.consumer.stop()
        if shift.in_hand == 0:
            await self._close_shift(shift)
        else:
            shift.on_empty = lambda: self._close_shift(shift)

    def _close_shift(self, shift: ConsumerGeneration) -> asyncio.Task[None]:
        if shift.closing is None:
            shift.closing = self._session.spawn_task(self._close_consumer(shift), "actorhub-shift-end")
        return shift.closing

    async def _close_consumer(self, shift: ConsumerGeneration) -> None:
        if shift.consumer is not None:
            await shift.consumer.close()
        self._ending.discard(shift)

    def _on_end(self, shift: ConsumerGeneration, link: Link, reason: str) -> None:
        """The broker ended it, and has taken back what was in hand."""
        if shift.lost or link.lost is not None or link is not self._session.link:
            return
        self._lose(shift)
        if shift is self._shift:
            log.warning("the broker ended the consumer of %s (%s); consuming again", self.queue, reason)
            self._shift = None
            self._session.attachments.again(self, link)
