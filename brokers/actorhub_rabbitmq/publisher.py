"""Publishing to RabbitMQ on one channel, with a confirm for each message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pika

from actorhub.broker import Message, Outcome

log = logging.getLogger(__name__)

CONFIRM_WARNING_SECONDS = 30.0
"""Time without a confirm of the oldest publish, after which its queue is named in the log."""

Channel = Any
Frame = Any


class ConfirmedPublisher:
    """Publisher on a channel of its own.

    Args:
        channel: an open pika channel on a `TransportConnection`.
        on_blocked: called with the reason while the broker takes no publishes, and with None when it does again.
    """

    def __init__(self, channel: Channel, on_blocked: Callable[[str | None], None]) -> None:
        self.channel = channel
        self._on_blocked = on_blocked
        self._loop = asyncio.get_running_loop()
        self._tag = 0  # of the last publish
        self._unsettled: dict[int, tuple[str, Callable[[Outcome], None]]] = {}
        """Destination and callback of unconfirmed publishes, by tag."""
        self._returned: set[int] = set()  # tags of unroutable publishes that are not confirmed yet
        self._is_blocked = False
        self._confirm_check: asyncio.TimerHandle | None = None
        connection = channel.connection
        connection.add_on_connection_blocked_callback(lambda _, frame: self._report(frame.method.reason or "alarm"))
        connection.add_on_connection_unblocked_callback(lambda _, frame: self._report(None))

    def select_confirms(self, selected: Callable[[Frame], None]) -> None:
        """Ask the broker for confirms; `selected` is called with its consent. Publish after that."""
        self.channel.add_on_return_callback(self._on_return)
        self.channel.confirm_delivery(self._on_confirm, callback=selected)
        self.channel.connection.on_confirm = self._on_confirm

    def end(self) -> None:
        """Settle all publishes as LOST."""
        if self._confirm_check is not None:
            self._confirm_check.cancel()
        unsettled, self._unsettled = self._unsettled, {}
        for _, settled in unsettled.values():
            settled(Outcome.LOST)

    def _report(self, reason: str | None) -> None:
        self._is_blocked = reason is not None
        self._on_blocked(reason)

    # ---- publishing

    def publish(self, exchange: str, key: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Publish to a queue, which has to exist, by the default exchange; or to an exchange, which may have no queues."""
        tag = self._tag + 1
        properties = pika.BasicProperties(
            content_type=message.content_type,
            delivery_mode=2 if message.persistent else 1,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            type=message.type,
            priority=message.priority,
            expiration=None if message.expiration is None else str(max(0, round(message.expiration * 1000))),
            headers=message.headers,
            app_id=str(tag),  # identifies a returned message
        )
        self.channel.basic_publish(exchange, key, message.body, properties, mandatory=not exchange)
        # after publishing: a message that cannot be encoded raises, and the broker does not count it
        self._tag = tag
        self._unsettled[tag] = (key or exchange, settled)

    def _on_return(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        """Note an unroutable message; its confirm follows."""
        self._returned.add(int(properties.app_id))

    def _on_confirm(self, frame: Frame) -> None:
        method = frame.method
        stored = method.NAME == "Basic.Ack"
        if not method.multiple:
            self._settle(method.delivery_tag, stored)
            return
        while self._unsettled and (tag := next(iter(self._unsettled))) <= method.delivery_tag:
            self._settle(tag, stored)

    def _settle(self, tag: int, stored: bool) -> None:
        unsettled = self._unsettled.pop(tag, None)
        if unsettled is None:
            return
        _, settled = unsettled
        if tag in self._returned:
            self._returned.discard(tag)
            settled(Outcome.UNROUTABLE)
        else:
            settled(Outcome.STORED if stored else Outcome.REFUSED)

    # ---- missing confirms

    def watch_confirms(self) -> None:
        """Log from now on a message whose confirm does not come, until `end`."""
        oldest = next(iter(self._unsettled), None)
        self._confirm_check = self._loop.call_later(CONFIRM_WARNING_SECONDS, self._check_confirms, oldest)

    def _check_confirms(self, oldest: int | None) -> None:
        """Warn if the oldest publish of the last check is still not confirmed, and no alarm of the broker explains it."""
        if oldest in self._unsettled and not self._is_blocked:
            destination, _ = self._unsettled[oldest]
            log.warning(
                "the broker has not confirmed a message to %s for %.0f s, and later messages of this process wait behind it; "
                "if RabbitMQ was killed while this queue was declared, delete it: rabbitmqctl delete_queue %s",
                destination,
                CONFIRM_WARNING_SECONDS,
                destination,
            )
        self.watch_confirms()
