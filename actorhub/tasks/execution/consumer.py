"""A slot's consumer of one task queue. It takes about 20 ms of work ahead, and can pause while a long task runs.

A prefetch changes by a new consumer at the broker, a new generation. The one before ends with what it has in hand, so that all
places of the new one are free.
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
    CONCURRENT_TASKS,
    MIN_PREFETCH,
    MeanDurations,
    adjusted_prefetch,
    prefetch_for,
    widened_prefetch,
)

log = logging.getLogger(__name__)


class ConsumerGeneration:
    """Consumer at the broker, from its first delivery to its last acknowledgement."""

    def __init__(self, prefetch: int) -> None:
        self.consumer: Consumer | None = None
        self.prefetch = prefetch
        self.in_hand = 0
        """Messages that are neither acknowledged nor returned."""
        self.settled = 0
        """Messages that were acknowledged or returned."""
        self.is_lost = False
        """True if the broker has taken back what was in hand."""
        self.on_empty: Callable[[], object] | None = None
        """Called when nothing is in hand any more."""
        self.closing: asyncio.Task[None] | None = None

    def on_settled(self) -> None:
        """Note that a message was acknowledged or returned."""
        self.in_hand -= 1
        self.settled += 1
        if self.in_hand == 0 and self.on_empty is not None:
            self.on_empty()


class TaskConsumer(Recoverable):
    """Consumer of one task queue.

    Args:
        session: whose links it consumes over.
        queue: is declared first.
        on_delivery: gets each delivery with its generation, whose `on_settled` it must call in the end.
        on_lost: called when generations were lost with what they had in hand.
    """

    def __init__(
        self,
        session: Session,
        queue: str,
        on_delivery: Callable[[TaskConsumer, Delivery, ConsumerGeneration], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.concurrent_tasks = 0
        """Tasks in hand that hold up no other: `async def` ones, and blocked ones."""
        self._session = session
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._durations = MeanDurations()
        self._least_prefetch = MIN_PREFETCH
        self._prefetch = prefetch_for(None)
        self._current: ConsumerGeneration | None = None
        # Generations that take nothing more, and have messages in hand.
        self._ending: set[ConsumerGeneration] = set()
        # The generation that was full at the last check, and how many of its messages had been settled then.
        self._full_at_check: tuple[ConsumerGeneration, int] | None = None
        self._is_wanted = True
        # Held while a generation is opened or ended.
        self._changing = asyncio.Lock()
        self._is_closed = False

    async def open(self) -> None:
        await self._session.attachments.add(self)

    async def attach(self, link: Link) -> None:
        async with self._changing:
            await link.declare(task_queue(self.queue))
            if self._current is None and self._is_wanted:
                await self._open_generation(link)

    def detach(self) -> None:
        """Note that the link is lost: the broker delivers unacknowledged messages again, to any slot."""
        self._lose(*self._ending, *([self._current] if self._current is not None else []))
        self._current = None

    def _lose(self, *generations: ConsumerGeneration) -> None:
        for generation in generations:
            generation.is_lost = True
            self._ending.discard(generation)
        self._on_lost()

    async def close(self) -> None:
        """Take nothing more, for good. What is in hand can still be acknowledged until `end`."""
        self._is_closed = True
        self._session.attachments.remove(self)
        self._is_wanted = False
        await self._apply(renew=False)

    async def end(self) -> None:
        """After `close`: return when the broker has every acknowledgement, and has taken back what has none."""
        await asyncio.gather(*(self._close_generation(generation) for generation in list(self._ending)))

    # ---- pausing

    @property
    def may_deliver(self) -> bool:
        """True if the broker may send one more message."""
        return self._current is not None and self._current.in_hand < self._current.prefetch

    def pause(self) -> None:
        """Take nothing more for now."""
        if self._is_wanted:
            self._is_wanted = False
            self._apply_soon()

    def resume(self) -> None:
        if not self._is_wanted and not self._is_closed:
            self._is_wanted = True
            self._apply_soon()

    # ---- the prefetch

    def record_duration(self, seconds: float) -> None:
        """The slot was busy with a message of this queue for so long; the prefetch follows."""
        self._durations.record("", seconds)
        self.adjust_prefetch()

    def expect_coroutines(self) -> None:
        """The queue has `async def` tasks. They may wait for others of their kind, so many of them must find room."""
        if self._least_prefetch < CONCURRENT_TASKS:
            self._least_prefetch = CONCURRENT_TASKS
            self.adjust_prefetch()

    def adjust_prefetch(self) -> None:
        """Follow the tasks' durations, and the number of those that hold up no other."""
        wanted = max(self._least_prefetch, prefetch_for(self._durations.of("")))
        self._set_prefetch(adjusted_prefetch(self._prefetch, wanted, self.concurrent_tasks))

    def check_progress(self) -> None:
        """Make room if all places are taken, and no message was settled since the last check; else adjust the prefetch."""
        current, before = self._current, self._full_at_check
        self._full_at_check = None if current is None or self.may_deliver else (current, current.settled)
        if self._full_at_check is not None and self._full_at_check == before:
            self.make_room()
        else:
            self.adjust_prefetch()

    def make_room(self) -> None:
        """Widen the prefetch if all places are taken: what is in hand may wait for a message that found no room."""
        current = self._current
        # With another prefetch than the wanted one, a new generation is on its way.
        if current is not None and current.in_hand >= current.prefetch == self._prefetch:
            in_hand = current.in_hand + sum(generation.in_hand for generation in self._ending)
            self._set_prefetch(widened_prefetch(self._prefetch, in_hand) or self._prefetch)

    def _set_prefetch(self, prefetch: int) -> None:
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            if self._current is not None:
                self._apply_soon(renew=True)

    # ---- generations

    def _apply_soon(self, *, renew: bool = False) -> None:
        self._session.spawn_task(self._apply(renew), f"actorhub-consumer-{self.queue}")

    async def _apply(self, renew: bool) -> None:
        """End the current generation and open another one, as far as `renew` and `_is_wanted` ask for that."""
        async with self._changing:
            link = self._session.link
            if link is None:
                return
            try:
                if self._current is not None and (renew or not self._is_wanted):
                    await self._end_generation()
                if self._current is None and self._is_wanted and link is self._session.link:
                    await self._open_generation(link)
            except ActorNotFound:
                self._session.attachments.set_up_again(self, link)
            except BrokerUnavailable:
                log.debug("%s is consumed again over the next link", self.queue, exc_info=True)

    async def _open_generation(self, link: Link) -> None:
        generation = self._current = ConsumerGeneration(self._prefetch)

        def deliver(delivery: Delivery) -> None:
            generation.in_hand += 1
            self._on_delivery(self, delivery, generation)

        def on_end(reason: str) -> None:
            self._on_consumer_ended(generation, link, reason)

        try:
            generation.consumer = await link.consume(self.queue, deliver, on_end, prefetch=generation.prefetch)
        except ActorHubError:
            if self._current is generation:
                self._current = None
            raise

    async def _end_generation(self) -> None:
        """Take nothing more. The consumer is closed when the last message in its hand is settled."""
        generation, self._current = self._current, None
        if generation is None or generation.consumer is None:
            return
        self._ending.add(generation)
        await generation.consumer.stop()
        if generation.in_hand == 0:
            await self._close_generation(generation)
        else:
            generation.on_empty = lambda: self._close_generation(generation)

    def _close_generation(self, generation: ConsumerGeneration) -> asyncio.Task[None]:
        if generation.closing is None:
            generation.closing = self._session.spawn_task(self._close_consumer(generation), "actorhub-generation-end")
        return generation.closing

    async def _close_consumer(self, generation: ConsumerGeneration) -> None:
        if generation.consumer is not None:
            await generation.consumer.close()
        self._ending.discard(generation)

    def _on_consumer_ended(self, generation: ConsumerGeneration, link: Link, reason: str) -> None:
        """The broker has ended the consumer, and taken back what was in hand."""
        if generation.is_lost or link.lost is not None or link is not self._session.link:
            return
        self._lose(generation)
        if generation is self._current:
            log.warning("the broker ended the consumer of %s (%s); consuming again", self.queue, reason)
            self._current = None
            self._session.attachments.set_up_again(self, link)
