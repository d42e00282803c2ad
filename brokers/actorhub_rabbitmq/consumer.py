"""Consuming a RabbitMQ queue on a channel of its own, with batched acknowledgements."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

from actorhub.broker import Consumer as PortConsumer
from actorhub.broker import Delivery as PortDelivery
from actorhub.broker import Message
from actorhub.core.futures import resolver_of

log = logging.getLogger(__name__)

Channel = Any

ACK_DELAY_SECONDS = 0.01  # for which acknowledgements gather
# While 32 commands of a channel are on their way to a quorum queue, RabbitMQ keeps further ones, acknowledgements among them,
# and forgets these if the channel closes: `unsent_commands` in its rabbit_fifo_client.erl. So a channel that rejected many
# messages is not closed before the queue has surely taken them.
REJECTS_BEFORE_DELAYED_CLOSE = 16
CLOSE_DELAY_SECONDS = 0.5


class Delivery(PortDelivery):
    """A message from pika, as the port shows it."""

    __slots__ = ("_acks", "_tag")

    def __init__(self, acks: AckBatcher, method: Any, properties: Any, body: bytes) -> None:
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


class AckBatcher:
    """Acknowledgements of one channel, sent in batches: each frame costs a system call here and work at the broker.

    A batch is sent after ACK_DELAY_SECONDS, or when a quarter of the prefetch is acknowledged, as one frame if possible. After
    a crash, messages whose acknowledgements were not sent yet are delivered again.
    """

    def __init__(self, channel: Channel, prefetch: int, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._batch_size = max(1, prefetch // 4)
        self._acknowledged: dict[int, bool] = {}  # by delivery tag, in the order of delivery
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, tag: int) -> None:
        """Note a message that was delivered."""
        self._acknowledged[tag] = False

    def ack(self, tag: int) -> None:
        self._acknowledged[tag] = True
        self._count += 1
        if self._count >= self._batch_size:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(ACK_DELAY_SECONDS, self.flush)

    def reject(self, tag: int, requeue: bool) -> None:
        self._acknowledged.pop(tag, None)
        if self._channel.is_open:
            self._channel.basic_reject(tag, requeue=requeue)

    def flush(self) -> None:
        """Send the acknowledgements so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count = 0
        if not self._channel.is_open:
            return
        first = list(itertools.takewhile(lambda tag: self._acknowledged[tag], self._acknowledged))
        if first:
            self._channel.basic_ack(first[-1], multiple=True)
        rest = [tag for tag, acknowledged in self._acknowledged.items() if acknowledged][len(first) :]
        for tag in rest:
            self._channel.basic_ack(tag)
        for tag in (*first, *rest):
            del self._acknowledged[tag]


class Consumer(PortConsumer):
    """A consumer on a channel of its own.

    Args:
        channel: the pika channel, used for nothing else.
        prefetch: most unacknowledged messages.
        on_delivery: called with each message.
        on_end: called once with the reason, if the consumer ends before `close`.
    """

    def __init__(
        self,
        channel: Channel,
        prefetch: int,
        on_delivery: Callable[[PortDelivery], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._channel = channel
        self._acks = AckBatcher(channel, prefetch, asyncio.get_running_loop())
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._rejects = 0
        self._last_reject = 0.0  # the loop's time
        self._ended = False
        self._basic_reject = channel.basic_reject
        channel.basic_reject = self._reject  # pika calls it too, for messages that come after `stop`

    def on_message(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if self._ended:
            return
        self._acks.add(method.delivery_tag)
        try:
            self._on_delivery(Delivery(self._acks, method, properties, body))
        except Exception:
            log.exception("the callback of a consumer raised; the message stays unacknowledged")

    def on_cancelled(self, frame: Any) -> None:
        """End the consumer: its queue was deleted or moved."""
        self._end("the broker cancelled the consumer: its queue was deleted")
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
        resolve = resolver_of(stopped)
        channel.add_on_close_callback(lambda *_: resolve(None))
        # pika rejects the messages that arrive before the broker has handled the cancel
        channel.basic_cancel(tags[0], callback=lambda _: resolve(None))
        await stopped

    def _reject(self, tag: int = 0, requeue: bool = True) -> None:
        self._rejects += 1
        self._last_reject = asyncio.get_running_loop().time()
        self._basic_reject(tag, requeue)

    async def close(self) -> None:
        self._ended = True
        channel = self._channel
        if not channel.is_open:
            return
        self._acks.flush()
        if self._rejects >= REJECTS_BEFORE_DELAYED_CLOSE:
            await asyncio.sleep(max(0.0, self._last_reject + CLOSE_DELAY_SECONDS - asyncio.get_running_loop().time()))
            if not channel.is_open:
                return
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        resolve = resolver_of(closed)
        channel.add_on_close_callback(lambda *_: resolve(None))
        # pika would cancel the consumers first, and the broker would let the next single active consumer start with later
        # messages while earlier ones are unacknowledged here
        channel._consumers.clear()
        channel.close()
        await closed
