"""Messages of one queue, on a channel of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from actorhub.broker import Consumer as PortConsumer
from actorhub.broker import Delivery as PortDelivery
from actorhub.broker import Message
from actorhub.futures import once

log = logging.getLogger(__name__)

Channel = Any


class Delivery(PortDelivery):
    __slots__ = ("_channel", "_tag")

    def __init__(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        self._channel = channel
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
        if self._channel.is_open:
            self._channel.basic_ack(self._tag)

    def reject(self, *, requeue: bool) -> None:
        if self._channel.is_open:
            self._channel.basic_reject(self._tag, requeue=requeue)


class Consumer(PortConsumer):
    """`started` becomes True when the broker has accepted it; before that, errors belong to whoever asked for it."""

    def __init__(
        self, channel: Channel, on_delivery: Callable[[PortDelivery], None], on_end: Callable[[str], None]
    ) -> None:
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._ended = False
        self.started = False

    def on_message(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if self._ended:
            return
        try:
            self._on_delivery(Delivery(channel, method, properties, body))
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

    async def close(self) -> None:
        self._ended = True
        channel = self._channel
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
