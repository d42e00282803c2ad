"""Link to RabbitMQ: publishing, declaring and consuming on pika's callbacks.

Publishing has a connection of its own, since RabbitMQ's alarms stop all that a connection sends once it has published. When
one connection is lost, the whole link ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pika import exceptions

from actorhub.broker import Consumer as PortConsumer
from actorhub.broker import Delivery as PortDelivery
from actorhub.broker import Link, Message, Outcome, Queue, QueueState
from actorhub.core.futures import resolver_of
from actorhub.errors import ActorNotFound, BrokerUnavailable
from actorhub_rabbitmq.asyncio_connection import TransportConnection
from actorhub_rabbitmq.capabilities import Capabilities
from actorhub_rabbitmq.connect import hide_password, open_connection, open_connections
from actorhub_rabbitmq.consumer import Consumer
from actorhub_rabbitmq.fanout import FanoutPublisher
from actorhub_rabbitmq.publisher import ConfirmedPublisher

log = logging.getLogger(__name__)

CHANNELS_PER_CONNECTION = 2000  # the broker's default limit is 2047
CLOSE_TIMEOUT_SECONDS = 5.0
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406
_NODE_DOWN = "is down or inaccessible"  # in a 404 for a queue that exists on another node of the broker's cluster
Channel = Any
Frame = Any


class RabbitLink(Link):
    """A link to RabbitMQ. Use `open` to get one.

    Args:
        url: the broker's URL.
        name: shown by the broker's tools.
        on_lost: called once with the cause when the link ends before `close`.
    """

    def __init__(self, url: str, name: str, on_lost: Callable[[BaseException], None]) -> None:
        self._url = url
        self._name = name
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._publishing: TransportConnection | None = None
        self._consuming: list[TransportConnection] = []
        self._channel_counts: dict[TransportConnection, int] = {}
        self._connecting = asyncio.Lock()  # held while a consuming connection is added
        self._publisher: ConfirmedPublisher | None = None
        self._fanout = FanoutPublisher(
            self._declare_exchange, lambda exchange, message, settled: self._send(exchange, "", message, settled)
        )
        self._idle_channels: list[Channel] = []  # for declarations
        self._pending: dict[Channel, asyncio.Future[Any]] = {}  # replies that a channel waits for
        self._closing = False
        self._disconnected = asyncio.Event()  # set when all connections have ended
        self._capabilities = Capabilities.of("")
        self.lost: BaseException | None = None

    # ---- life

    @classmethod
    async def open(
        cls, url: str, name: str, on_lost: Callable[[BaseException], None], on_blocked: Callable[[str | None], None]
    ) -> RabbitLink:
        """Open the connections and the publishing channel.

        Args:
            url: the broker's URL.
            name: shown by the broker's tools.
            on_lost: called once with the cause when the link ends before `close`.
            on_blocked: called with the reason while the broker takes no publishes, and with None when it does again.

        Raises:
            BrokerUnavailable: with the cause and what to do.
        """
        link = cls(url, name, on_lost)
        try:
            publishing, consuming = await open_connections(url, f"{name} (publishing)", f"{name} (consuming)")
            link._publishing = publishing
            for connection in (publishing, consuming):
                link._add_connection(connection)
            link._consuming = [consuming]
            properties = consuming.server_properties
            link.server = f"{properties.get('product', 'AMQP broker')} {properties.get('version', '')}"
            link._capabilities = Capabilities.of(str(properties.get("version", "")))
            link.max_message = link._capabilities.max_message
            link.priorities = link._capabilities.priorities
            await link._open_publisher(publishing, on_blocked)
        except BaseException:
            link._closing = True
            for connection in link._connections():
                connection.abort()
            raise
        return link

    def _add_connection(self, connection: TransportConnection) -> None:
        self._channel_counts[connection] = 0
        connection.add_on_close_callback(self._on_connection_closed)

    async def _open_publisher(self, connection: TransportConnection, on_blocked: Callable[[str | None], None]) -> None:
        channel = await self._open_channel(connection)
        publisher = ConfirmedPublisher(channel, on_blocked)
        selected: asyncio.Future[Frame] = self._loop.create_future()
        self._pending[channel] = selected
        publisher.select_confirms(resolver_of(selected))
        await selected
        del self._pending[channel]
        self._publisher = publisher
        publisher.watch_confirms()

    async def close(self) -> None:
        if self.lost is None and not self._closing:
            await self._fanout.drain(CLOSE_TIMEOUT_SECONDS)
        if self.lost is None and not self._closing:
            self._closing = True
            for connection in self._connections():
                if connection.is_open:
                    connection.close()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await self._disconnected.wait()
            except TimeoutError:
                log.debug("link %s did not close in %.0f s and is cut off", self._name, CLOSE_TIMEOUT_SECONDS)
            self._end(BrokerUnavailable("the link was closed"))
        await self._disconnected.wait()

    def _connections(self) -> list[TransportConnection]:
        publishing = [self._publishing] if self._publishing is not None else []
        return [*publishing, *self._consuming]

    def _on_connection_closed(self, connection: TransportConnection, reason: BaseException) -> None:
        if not self._closing:
            self._end(reason)
        if not self._disconnected.is_set() and all(each.is_closed for each in self._connections()):
            self._disconnected.set()
            if not self._closing and self.lost is not None:
                # last: the consumers ended with their channels
                self._loop.call_soon(self._on_lost, self.lost)

    def _end(self, reason: BaseException) -> None:
        """Settle all publishes and pending replies, and cut off the connections, which ends the consumers.

        Connections are cut off since one that closes in order could outlive the event loop.
        """
        if self.lost is not None:
            return
        self.lost = _lost(self._url, reason)
        log.debug("link %s ended: %s", self._name, reason)
        if self._publisher is not None:
            self._publisher.end()
        self._fanout.end()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(self.lost)
        for connection in self._connections():
            connection.abort()

    # ---- publishing

    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        self._send("", queue, message, settled)

    def _send(self, exchange: str, key: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        """Publish to a queue, which has to exist, by the default exchange; or to an exchange, which may have no queues."""
        if self.lost is not None or self._publisher is None or not self._publisher.channel.is_open:
            self._loop.call_soon(settled, Outcome.LOST)
        else:
            self._publisher.publish(exchange, key, message, settled)

    # ---- broadcasting

    def broadcast(self, exchange: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        if self.lost is not None or self._closing:
            self._loop.call_soon(settled, Outcome.LOST)
        else:
            self._fanout.put(exchange, message, settled)

    async def subscribe(self, queue: str, exchange: str) -> None:
        await self._declare_exchange(exchange)
        await self._declare_on_own_channel(lambda channel, done: channel.queue_bind(queue, exchange, callback=done))

    async def _declare_exchange(self, exchange: str) -> None:
        await self._declare_on_own_channel(
            lambda channel, done: channel.exchange_declare(exchange, "fanout", durable=True, callback=done)
        )

    # ---- declaring

    async def declare(self, queue: Queue) -> None:
        arguments = self._capabilities.arguments(queue)
        await self._declare_on_own_channel(
            lambda channel, done: channel.queue_declare(queue.name, durable=True, arguments=arguments, callback=done)
        )

    async def delete(self, queue: str, *, only_if_empty: bool = False) -> bool:
        try:
            await self._declare_on_own_channel(
                lambda channel, done: channel.queue_delete(queue, if_empty=only_if_empty, callback=done)
            )
        except ActorNotFound:
            return True
        except ValueError:
            return False
        return True

    async def state(self, queue: str) -> QueueState | None:
        try:
            frame = await self._declare_on_own_channel(
                lambda channel, done: channel.queue_declare(queue, passive=True, callback=done)
            )
        except ActorNotFound:
            return None
        return QueueState(frame.method.message_count, frame.method.consumer_count)

    async def _declare_on_own_channel(self, act: Callable[[Channel, Callable[[Frame], None]], None]) -> Frame:
        """Run one declaration and return the reply, on a channel used for nothing else meanwhile: a refusal closes it.

        Args:
            act: starts the declaration on a channel, with a callback for the reply.
        """
        channel = self._idle_channels.pop() if self._idle_channels else await self._open_consuming_channel()
        done: asyncio.Future[Frame] = self._loop.create_future()
        self._pending[channel] = done
        try:
            act(channel, resolver_of(done))
            frame = await done
        except exceptions.ChannelClosed as exc:
            raise _refused(exc) from exc
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._pending.pop(channel, None)
        self._idle_channels.append(channel)
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
        channel = await self._open_consuming_channel()
        consumer = Consumer(channel, prefetch, on_delivery, on_end)
        started: asyncio.Future[Frame] = self._loop.create_future()
        self._pending[channel] = started
        arguments = {"x-stream-offset": offset} if offset is not None else None
        try:
            channel.basic_qos(prefetch_count=prefetch)
            channel.add_on_cancel_callback(consumer.on_cancelled)
            channel.basic_consume(queue, consumer.on_message, arguments=arguments, callback=resolver_of(started))
            await started
        except exceptions.ChannelClosed as exc:
            raise _refused(exc) from exc
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._pending.pop(channel, None)
        channel.add_on_close_callback(consumer.on_channel_closed)
        return consumer

    # ---- channels

    async def _connection_with_free_channel(self) -> TransportConnection:
        """A consuming connection with room for another channel; a new one if all are full."""
        async with self._connecting:
            connection = self._consuming[-1]
            if self._channel_counts[connection] >= CHANNELS_PER_CONNECTION:
                connection = await open_connection(self._url, f"{self._name} (consuming {len(self._consuming) + 1})")
                self._add_connection(connection)
                self._consuming.append(connection)
                if self.lost is not None or self._closing:
                    connection.abort()
            return connection

    async def _open_consuming_channel(self) -> Channel:
        return await self._open_channel(await self._connection_with_free_channel())

    async def _open_channel(self, connection: TransportConnection) -> Channel:
        if self.lost is not None:
            raise self.lost
        opened: asyncio.Future[Channel] = self._loop.create_future()
        try:
            channel = connection.channel(on_open_callback=resolver_of(opened))
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        self._channel_counts[connection] += 1
        self._pending[channel] = opened
        channel.add_on_close_callback(self._on_channel_closed)
        try:
            await opened
        except exceptions.AMQPError as exc:
            raise _lost(self._url, exc) from exc
        finally:
            self._pending.pop(channel, None)
        return channel

    def _on_channel_closed(self, channel: Channel, reason: BaseException) -> None:
        self._channel_counts[channel.connection] -= 1
        if channel in self._idle_channels:
            self._idle_channels.remove(channel)
        pending = self._pending.pop(channel, None)
        if pending is not None and not pending.done():
            pending.set_exception(reason)
        if not self._closing and (self._is_publishing_on(channel) or not channel.connection.is_open):
            self._end(reason)

    def _is_publishing_on(self, channel: Channel) -> bool:
        return self._publisher is not None and channel is self._publisher.channel


def _lost(url: str, reason: BaseException) -> BrokerUnavailable:
    """The error for a connection that ended."""
    if isinstance(reason, BrokerUnavailable):
        return reason
    error = BrokerUnavailable(f"the connection to {hide_password(url)} was lost: {reason!r}")
    error.__cause__ = reason
    return error


def _refused(closed: Any) -> Exception:
    """The error for a channel that the broker closed."""
    if closed.reply_code == _NOT_FOUND and _NODE_DOWN in closed.reply_text:
        return BrokerUnavailable(closed.reply_text)
    if closed.reply_code == _NOT_FOUND:
        return ActorNotFound(closed.reply_text)
    if closed.reply_code == _PRECONDITION_FAILED:
        return ValueError(f"{closed.reply_text}; delete the existing one, or use another name")
    return BrokerUnavailable(f"the broker refused: {closed.reply_text} ({closed.reply_code})")
