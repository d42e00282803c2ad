"""Session: the identity of a hub, a node or a worker on the wire, its connection, and the messages it receives.

After a lost connection the session sends again, in order and under the same numbers, all messages that the broker had
not confirmed and all calls that have no reply yet. Receivers do not handle a second copy; they reply to it again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from actorhub.broker import Broker, Delivery, Link, open_broker
from actorhub.core.addressing import QueueNames, new_id
from actorhub.errors import (
    ActorHubError,
    BrokerUnavailable,
    HubClosed,
    InvalidEnvelope,
)
from actorhub.messaging.connection import OnRetry, ReconnectingConnection
from actorhub.messaging.directory import Directory, NoDirectory
from actorhub.messaging.recovery import RecoveryRegistry
from actorhub.messaging.sender import MessageSender
from actorhub.messaging.topology import reply_queue
from actorhub.settings import Settings
from actorhub.wire.envelope import Envelope, Kind, decode
from actorhub.wire.signer import Signer

log = logging.getLogger(__name__)

REPLY_PREFETCH = 200


class Session:
    """Session of one process with the broker. Not thread-safe: everything happens on the event loop that opened it.

    Args:
        settings: of the cluster.
        name: shown in the broker's list of connections.
        on_retry: called before each further try to reach the broker.
    """

    def __init__(self, settings: Settings, *, name: str = "hub", on_retry: OnRetry | None = None) -> None:
        if settings.url is None:
            raise BrokerUnavailable(
                "no broker is configured; set ACTORHUB_URL, or give a URL such as amqp://guest:guest@localhost/",
                permanent=True,
            )
        broker: Broker = open_broker(settings.url)
        self.settings = settings
        self.broker = broker
        self.id = new_id()
        self.names = QueueNames(settings.prefix)
        self.signer = Signer(settings.secret.get_secret_value() if settings.secret else None)
        self.reply_queue = self.names.reply(self.id)
        self.credit_handlers: dict[str, Callable[[int], None]] = {}
        """Receivers of the credit of readers, for each stream that this process sends, by the id of its call."""
        self.owns_actors = False
        """True once it has spawned an actor that ends with it."""
        self.directory: Directory = NoDirectory()
        """Set before `open`, by the owner."""
        self._connection = ReconnectingConnection(
            broker,
            f"actorhub {name} {self.id}",
            on_link=self._on_link,
            on_lost=self._on_lost,
            on_given_up=self._on_given_up,
            on_retry=on_retry,
        )
        self.attachments = RecoveryRegistry(
            lambda: self._connection.link, self.spawn_task, self.renew, lambda: self.is_closed
        )
        self.sender = MessageSender(settings, self.id, self.reply_queue, self.signer, self._connection, self.spawn_task)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop: asyncio.AbstractEventLoop
        self.thread_id = 0

    # ---- life

    async def open(self) -> None:
        """Connect to the broker.

        Raises:
            BrokerUnavailable: within `connect_timeout` no broker was reached, or it refused.
        """
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.sender.open(self.loop, self.directory)
        await self._connection.open(self.settings.connect_timeout)
        self.spawn_task(self.sender.watch_for_deleted_queues(), "actorhub-vanished")

    async def close(self) -> None:
        """Fail pending calls with HubClosed, wait up to a second for the confirms of published messages, and
        disconnect."""
        if self.is_closed:
            return
        self.sender.close(HubClosed("the hub was closed"))
        await self.flush(timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
        link = self._connection.link
        if link is not None:
            try:
                await link.delete(self.reply_queue)
            except (ActorHubError, OSError):
                log.debug("the reply queue stays until it expires", exc_info=True)
        await self._connection.close()

    async def flush(self, timeout: float) -> bool:
        """Wait until the broker has confirmed all that was sent. Returns False if it has not in `timeout` seconds."""
        until = self.loop.time() + timeout
        while self.sender.unconfirmed or self.attachments.unconfirmed:
            if self.loop.time() >= until:
                return False
            await asyncio.sleep(0.005)
        return True

    @property
    def is_closed(self) -> bool:
        """True from the beginning of `close` on, or after the broker was given up: nothing more can be sent."""
        return self.sender.closed is not None

    @property
    def link(self) -> Link | None:
        return self._connection.link

    @property
    def blocked(self) -> str | None:
        """Reason for which the broker takes no messages for now; None while it does."""
        return self._connection.blocked

    async def live_link(self) -> Link:
        """Wait for a link, and return it.

        Raises:
            HubClosed, BrokerUnavailable: the session is closed.
        """
        while self._connection.link is None:
            if self.sender.closed is not None:
                raise self.sender.closed
            await asyncio.sleep(0.02)
        return self._connection.link

    def spawn_task(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a task that the end of the session cancels. Its exceptions are logged."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.DEBUG if self.is_closed else logging.ERROR
            log.log(level, "%s failed: %s", task.get_name(), error, exc_info=error)

    async def _on_link(self, link: Link) -> None:
        await link.declare(reply_queue(self.reply_queue, self.settings.reply_expiry))
        await link.consume(
            self.reply_queue,
            self._on_delivery,
            lambda reason: self._on_reply_end(link, reason),
            prefetch=REPLY_PREFETCH,
        )
        await self.attachments.attach(link)
        self.sender.attach(link)

    def _on_reply_end(self, link: Link, reason: str) -> None:
        if link.lost is None:
            self.renew(link, f"the reply queue ended: {reason}")

    def renew(self, link: Link, reason: str) -> None:
        """Give the link up, if it is still the session's, and go on with a new one."""
        if not self.is_closed:
            self.spawn_task(self._connection.renew(link, reason), "actorhub-renew")

    def _on_lost(self) -> None:
        self.attachments.detach()
        self.sender.detach()

    def _on_given_up(self, error: BrokerUnavailable) -> None:
        self.sender.close(error)

    # ---- receiving

    def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        token = current_session.set(self)
        try:
            for envelope, payload in decode(message.body, message.content_type):
                self._receive(envelope, payload)
        except InvalidEnvelope as exc:
            log.warning("a message in %s is not an envelope and was dropped: %s", self.reply_queue, exc)
        finally:
            current_session.reset(token)
            delivery.ack()

    def _receive(self, envelope: Envelope, payload: bytes) -> None:
        if envelope.kind is not Kind.CREDIT:
            self.sender.pending_calls.receive(envelope, payload)
        elif (grant := self.credit_handlers.get(envelope.call)) is not None:
            grant(envelope.index)


current_session: ContextVar[Session | None] = ContextVar("actorhub_session", default=None)
"""Session of the handles that are read from messages, pickles and results: set by hubs and around user code."""
