"""One life of the connection to RabbitMQ: the data plane, on pika's callbacks.

Publishing has a connection of its own, since an alarm of the broker stops everything on a connection that publishes. When
one connection is lost, the whole link ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pika
from pika import exceptions

from actorhub.broker import Consumer as PortConsumer
from actorhub.broker import Delivery as PortDelivery
from actorhub.broker import Link, Message, Outcome, Queue, QueueState
from actorhub.errors import ActorNotFound, BrokerUnavailable
from actorhub.futures import once
from actorhub_rabbitmq.broadcasts import Broadcasts
from actorhub_rabbitmq.capabilities import Capabilities
from actorhub_rabbitmq.connecting import hide_password, open_connection, open_connections
from actorhub_rabbitmq.consumer import Consumer
from actorhub_rabbitmq.stream_connection import StreamConnection

log = logging.getLogger(__name__)

CHANNELS = 2000  # on one connection; the broker's default limit is 2047
CLOSING = 5.0  # seconds that a clean end may take
_NOT_FOUND, _PRECONDITION = 404, 406
_DOWN = "is down or inaccessible"  # the broker's node that holds the queue, which is there for all that
Channel = Any
Frame = Any


class RabbitLink(Link):
    """Made by `open`."""

    def __init__(self, url: str, name: str, on_lost: Callable[[BaseException], None]) -> None:
        self._url = url
        self._name = name
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._publishing: StreamConnection | None = None
        self._consuming: list[StreamConnection] = []
        self._channels: dict[StreamConnection, int] = {}
        self._growing = asyncio.Lock()
        self._publisher: Channel = None
        self._tag = 0
        self._unsettled: dict[int, Callable[[Outcome], None]] = {}
        self._returned: set[int] = set()
        self._broadcasts = Broadcasts(self._declare_exchange, self._send_to_all)
        self._idle: list[Channel] = []  # channels for declarations
        self._waiting: dict[Channel, asyncio.Future[Any]] = {}
        self._closing = False
        self._gone = asyncio.Event()  # every connection's stream has ended
        self._capabilities = Capabilities.of("")
        self.lost: BaseException | None = None

    # ---- life

    @classmethod
    async def open(
        cls, url: str, name: str, on_lost: Callable[[BaseException], None], on_blocked: Callable[[str | None], None]
    ) -> RabbitLink:
        """Raises:
        BrokerUnavailable: with the cause and what to do.
        """
        link = cls(url, name, on_lost)
        try:
            publishing, consuming = await open_connections(url, f"{name} (publishing)", f"{name} (consuming)")
            link._publishing = publishing
            for connection in (publishing, consuming):
                link._adopt(connection)
            link._consuming = [consuming]
            publishing.add_on_connection_blocked_callback(lambda _, frame: on_blocked(frame.method.reason or "alarm"))
            publishing.add_on_connection_unblocked_callback(lambda _, frame: on_blocked(None))
            properties = consuming.server_properties
            link.server = f"{properties.get('product', 'AMQP broker')} {properties.get('version', '')}"
            link._capabilities = Capabilities.of(str(properties.get("version", "")))
            link.max_message = link._capabilities.max_message
            link.priorities = link._capabilities.priorities
            link._publisher = await link._open_channel(publishing)
            await link._confirm_publishes()
        except BaseException:
            link._closing = True
            for connection in link._connections():
                connection.abort()
            raise
        return link

    def _adopt(self, connection: StreamConnection) -> None:
        self._channels[connection] = 0
        connection.add_on_close_callback(self._connection_closed)

    async def _confirm_publishes(self) -> None:
        selected: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting[self._publisher] = selected
        self._publisher.add_on_return_callback(self._on_return)
        self._publisher.confirm_delivery(self._on_confirm, callback=once(selected))
        await selected
        self._publisher.connection.on_confirm = self._on_confirm
        del self._waiting[self._publisher]

    async def close(self) -> None:
        if self.lost is None and not self._closing:
            await self._broadcasts.drain(CLOSING)
        if self.lost is None and not self._closing:
            self._closing = True
            for connection in self._connections():
                if connection.is_open:
                    connection.close()
            try:
                async with asyncio.timeout(CLOSING):
                    await self._gone.wait()
            except TimeoutError:
                log.debug("link %s did not close in %.0f s and is cut off", self._name, CLOSING)
            self._end(BrokerUnavailable("the link was closed"))
        await self._gone.wait()

    def _connections(self) -> list[StreamConnection]:
        publishing = [self._publishing] if self._publishing is not None else []
        return [*publishing, *self._consuming]

    def _connection_closed(self, connection: StreamConnection, reason: BaseException) -> None:
        if not self._closing:
            self._end(reason)
        if not self._gone.is_set() and all(each.is_closed for each in self._connections()):
            self._gone.set()
            if not self._closing and self.lost is not None:
                # consumers have heard of it by their channels' ends; the owner is told last
                self._loop.call_soon(self._on_lost, self.lost)

    def _end(self, reason: BaseException) -> None:
        """The link is over: settle everything, and cut off what is left of it, which ends the consumers. A connection that
        took the time to say good-bye could outlive the event loop."""
        if self.lost is not None:
            return
        self.lost = _lost(self._url, reason)
        log.debug("link %s ended: %s", self._name, reason)
        unsettled, self._unsettled = self._unsettled, {}
        for settled in unsettled.values():
            settled(Outcome.LOST)
        self._broadcasts.end()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self.lost)
        for connection in self._connections():
            connection.abort()

    # ---- publishing

    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        self._send("", queue, message, settled)

    def _send_to_all(self, exchange: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        self._send(exchange, "", message, settled)

    def _send(self, exchange: str, key: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """To a queue, by the default exchange, which has to be there; or to an exchange, behind which there may be none."""
        if self.lost is not None or not self._publisher.is_open:
            self._loop.call_soon(settled, Outcome.LOST)
            return
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
            app_id=str(tag),  # by which a returned message is told
        )
        self._publisher.basic_publish(exchange, key, message.body, properties, mandatory=not exchange)
        # only now: a message that cannot be encoded raises, and the broker counts what it was sent
        self._tag = tag
        self._unsettled[tag] = settled

    def _on_return(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        """Comes before the message's confirm."""
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
        settled = self._unsettled.pop(tag, None)
        if settled is None:
            return
        if tag in self._returned:
            self._returned.discard(tag)
            settled(Outcome.UNROUTABLE)
        else:
            settled(Outcome.STORED if stored else Outcome.REFUSED)

    # ---- broadcasting

    def broadcast(self, exchange: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        if self.lost is not None or self._closing:
            self._loop.call_soon(settled, Outcome.LOST)
        else:
            self._broadcasts.put(exchange, message, settled)

    async def subscribe(self, queue: str, exchange: str) -> None:
        await self._declare_exchange(exchange)
        await self._operate(lambda channel, done: channel.queue_bind(queue, exchange, callback=done))

    async def _declare_exchange(self, exchange: str) -> None:
        await self._operate(
            lambda channel, done: channel.exchange_declare(exchange, "fanout", durable=True, callback=done)
        )

    # ---- declaring

    async def declare(self, queue: Queue) -> None:
        arguments = self._capabilities.arguments(queue)
        await self._operate(
            lambda channel, done: channel.queue_declare(queue.name, durable=True, arguments=arguments, callback=done)
        )

    async def delete(self, queue: str, *, only_if_empty: bool = False) -> bool:
        try:
            await self._operate(
                lambda channel, done: channel.queue_delete(queue, if_empty=only_if_empty, callback=done)
            )
        except ActorNotFound:
            return True
        except ValueError:
            return False
        return True

    async def state(self, queue: str) -> QueueState | None:
        try:
            frame = await self._operate(lambda channel, done: channel.queue_declare(queue, passive=True, callback=done))
        except ActorNotFound:
            return None
        return QueueState(frame.method.message_count, frame.method.consumer_count)

    async def _operate(self, act: Callable[[Channel, Callable[[Frame], None]], None]) -> Frame:
        """One declaration on a channel that does nothing else meanwhile: one that fails takes its channel with it."""
        channel = self._idle.pop() if self._idle else await self._open_channel(await self._roomy())
        done: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting[channel] = done
        try:
            act(channel, once(done))
            frame = await done
        except exceptions.ChannelClosed as exc:
            raise _refused(exc) from exc
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._waiting.pop(channel, None)
        self._idle.append(channel)
        return frame

    # ---- consuming

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[PortDelivery], None],
        on_end: Callable[[str], None],
        *,
        prefetch: int,
        offset: int | str | None = None,
    ) -> PortConsumer:
        channel = await self._open_channel(await self._roomy())
        consumer = Consumer(channel, prefetch, on_delivery, on_end)
        started: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting[channel] = started
        arguments = {"x-stream-offset": offset} if offset is not None else None
        try:
            channel.basic_qos(prefetch_count=prefetch)
            channel.add_on_cancel_callback(consumer.on_cancelled)
            channel.basic_consume(
                queue,
                consumer.on_message,
                arguments=arguments,
                callback=once(started),
            )
            await started
        except exceptions.ChannelClosed as exc:
            raise _refused(exc) from exc
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._waiting.pop(channel, None)
        consumer.started = True
        channel.add_on_close_callback(consumer.on_channel_closed)
        return consumer

    # ---- channels

    async def _roomy(self) -> StreamConnection:
        """A consuming connection with room for one more channel; opened where there is none."""
        async with self._growing:
            connection = self._consuming[-1]
            if self._channels[connection] >= CHANNELS:
                connection = await open_connection(self._url, f"{self._name} (consuming {len(self._consuming) + 1})")
                self._adopt(connection)
                self._consuming.append(connection)
                if self.lost is not None or self._closing:
                    connection.abort()
            return connection

    async def _open_channel(self, connection: StreamConnection) -> Channel:
        if self.lost is not None:
            raise self.lost
        opened: asyncio.Future[Channel] = self._loop.create_future()
        try:
            channel = connection.channel(on_open_callback=once(opened))
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        self._channels[connection] += 1
        self._waiting[channel] = opened
        channel.add_on_close_callback(self._channel_closed)
        try:
            await opened
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._waiting.pop(channel, None)
        return channel

    def _channel_closed(self, channel: Channel, reason: BaseException) -> None:
        self._channels[channel.connection] -= 1
        if channel in self._idle:
            self._idle.remove(channel)
        waiting = self._waiting.pop(channel, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(reason)
        if not self._closing and (channel is self._publisher or not channel.connection.is_open):
            self._end(reason)


def _lost(url: str, reason: BaseException) -> BrokerUnavailable:
    if isinstance(reason, BrokerUnavailable):
        return reason
    error = BrokerUnavailable(f"the connection to {hide_password(url)} was lost: {reason!r}")
    error.__cause__ = reason
    return error


def _refused(closed: Any) -> Exception:
    """What the broker meant by closing the channel."""
    if closed.reply_code == _NOT_FOUND and _DOWN in closed.reply_text:
        return BrokerUnavailable(closed.reply_text)
    if closed.reply_code == _NOT_FOUND:
        return ActorNotFound(closed.reply_text)
    if closed.reply_code == _PRECONDITION:
        return ValueError(f"{closed.reply_text}; delete what is there, or take another name")
    return BrokerUnavailable(f"the broker refused: {closed.reply_text} ({closed.reply_code})")
