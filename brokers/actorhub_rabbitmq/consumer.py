"""Messages of one queue, on a channel of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

from actorhub.broker import Consumer as PortConsumer
from actorhub.broker import Delivery as PortDelivery
from actorhub.broker import Message
from actorhub.futures import once

log = logging.getLogger(__name__)

Channel = Any


ACK_DELAY = 0.01  # seconds for which acknowledgements gather
MANY = 16  # messages given back, after which a channel is not closed at once
# While many commands of one channel are on their way to a quorum queue (32), RabbitMQ keeps back further ones, acknowledgements
# among them, and forgets these when the channel closes: `unsent_commands` in its rabbit_fifo_client.erl
APPLIED = 0.5  # seconds in which the queue has surely taken them


class Delivery(PortDelivery):
    __slots__ = ("_acks", "_tag")

    def __init__(self, acks: Acknowledgements, method: Any, properties: Any, body: bytes) -> None:
        self._acks = acks
        self._tag = method.delivery_tag
        headers = properties.headers
        self.redelivered = method.redelivered
        self.offset = headers.get("x-stream-offset") if headers else None
        self.message = Message(
            body,
            properties.content_type,
            properties.delivery_mode == 2,
            properties.message_id,
            properties.correlation_id,
            properties.reply_to,
            properties.type,
            properties.priority,
            None if properties.expiration is None else int(properties.expiration) / 1000,
            headers,
        )

    def ack(self) -> None:
        self._acks.ack(self._tag)

    def reject(self, *, requeue: bool) -> None:
        self._acks.reject(self._tag, requeue)


class Acknowledgements:
    """Of one channel. They gather for a few milliseconds, or until a quarter of the prefetch is done, and leave as one frame
    where they can: each frame costs a system call here and work at the broker. A crash meanwhile means that a few messages
    come again, as it does at any other moment."""

    def __init__(self, channel: Channel, prefetch: int, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._enough = max(1, prefetch // 4)
        self._done: dict[int, bool] = {}  # by tag, in the order of delivery
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, tag: int) -> None:
        self._done[tag] = False

    def ack(self, tag: int) -> None:
        self._done[tag] = True
        self._count += 1
        if self._count >= self._enough:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(ACK_DELAY, self.flush)

    def reject(self, tag: int, requeue: bool) -> None:
        self._done.pop(tag, None)
        if self._channel.is_open:
            self._channel.basic_reject(tag, requeue=requeue)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count = 0
        if not self._channel.is_open:
            return
        done = list(itertools.takewhile(lambda tag: self._done[tag], self._done))
        if done:
            self._channel.basic_ack(done[-1], multiple=True)
        late = [tag for tag, is_done in self._done.items() if is_done][len(done) :]
        for tag in late:
            self._channel.basic_ack(tag)
        for tag in (*done, *late):
            del self._done[tag]


class Consumer(PortConsumer):
    """`started` becomes True when the broker has accepted it; before that, errors belong to whoever asked for it."""

    def __init__(
        self,
        channel: Channel,
        prefetch: int,
        on_delivery: Callable[[PortDelivery], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._channel = channel
        self._acks = Acknowledgements(channel, prefetch, asyncio.get_running_loop())
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._given_back = 0
        self._last_given_back = 0.0
        self._ended = False
        self.started = False
        self._reject = channel.basic_reject
        channel.basic_reject = self._give_back  # pika calls it, too

    def on_message(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if self._ended:
            return
        self._acks.expect(method.delivery_tag)
        try:
            self._on_delivery(Delivery(self._acks, method, properties, body))
        except Exception:
            log.exception("a consumer's callback raised; the message stays unacknowledged")

    def on_cancelled(self, frame: Any) -> None:
        """The broker ended it: its queue was deleted or moved."""
        self._end("the broker cancelled the consumer: its queue is gone")
        if self._channel.is_open:
            self._channel.close()

    def on_channel_closed(self, channel: Channel, reason: BaseException) -> None:
        self._end(f"its channel was closed: {reason}")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(reason)

    async def stop(self) -> None:
        channel = self._channel
        tags = list(channel._consumers)
        if not channel.is_open or not tags:
            return
        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        resolve = once(stopped)
        channel.add_on_close_callback(lambda *_: resolve(None))
        # what arrives before the broker has heard of it, pika gives back
        channel.basic_cancel(tags[0], callback=lambda _: resolve(None))
        await stopped

    def _give_back(self, tag: int = 0, requeue: bool = True) -> None:
        self._given_back += 1
        self._last_given_back = asyncio.get_running_loop().time()
        self._reject(tag, requeue)

    async def close(self) -> None:
        self._ended = True
        channel = self._channel
        if not channel.is_open:
            return
        self._acks.flush()
        if self._given_back >= MANY:
            await asyncio.sleep(max(0.0, self._last_given_back + APPLIED - asyncio.get_running_loop().time()))
            if not channel.is_open:
                return
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        resolve = once(closed)
        channel.add_on_close_callback(lambda *_: resolve(None))
        # pika would cancel the consumers first; then the broker would let the next single active consumer start on later
        # messages while earlier ones are still unacknowledged here
        channel._consumers.clear()
        channel.close()
        await closed
