"""A durable actor's mailbox: consumes its inbox, and owns its journal while the broker delivers messages to it.

The inbox has a single active consumer, so most of the time only one mailbox gets messages. If two do, the journal decides which
of them is the owner. See `ownership.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from actorhub.actors.mailbox import PREFETCH
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Consumer, Delivery, Link
from actorhub.durable.interface import MailboxConfig, MakeStateHost
from actorhub.durable.ownership import Ownership
from actorhub.durable.protocol.owner import OwnershipLost
from actorhub.durable.protocol.takeover import OwnershipContested
from actorhub.errors import ActorInitFailed, ActorNotFound, BrokerUnavailable
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

LIMITED_PREFETCH = 16
"""Messages taken ahead from an inbox with a limit."""

CONTESTED_PAUSE_SECONDS = 0.2
"""Longest pause of a mailbox before it consumes again, after another owner has taken over."""

FAILURE_PAUSE_SECONDS = 5.0
"""Before a mailbox whose ownership failed tries again."""


class DurableMailbox(Recoverable):
    """Consumes one inbox for as long as the session lives, across lost links, and takes over the journal whenever messages
    come.

    Args:
        make_state_host: makes what runs the messages, for each ownership.
        on_constructor_failed: called if the actor's constructor raised, and the journal has no commit yet.
        on_gone: called if the inbox does not exist any more.
    """

    def __init__(
        self,
        session: Session,
        spec: ActorSpec,
        config: MailboxConfig,
        make_state_host: MakeStateHost,
        *,
        on_constructor_failed: Callable[[BaseException], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._session = session
        self._spec = spec
        self._config = config
        self._make_state_host = make_state_host
        self._on_constructor_failed = on_constructor_failed
        self._on_gone = on_gone
        self._consumer: Consumer | None = None
        self._ownership: Ownership | None = None
        self._changing = asyncio.Lock()
        self._closed = False

    # ---- life

    async def start(self) -> None:
        """Nothing is created before the first message comes."""

    async def open(self) -> None:
        """Raises:
        ActorNotFound: the inbox does not exist.
        """
        await self._session.attachments.add(self)

    async def stop(self, timeout: float) -> None:
        """Take nothing more; let what runs end, for `timeout` seconds, and commit it."""
        self._closed = True
        self._session.attachments.remove(self)
        async with self._changing:
            ownership, self._ownership = self._ownership, None
            if ownership is not None:
                await ownership.stop(timeout)

    async def close(self) -> None:
        """After `stop`: give back to the inbox what is not acknowledged."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    # ---- consuming

    async def attach(self, link: Link) -> None:
        async with self._changing:
            if self._closed or link is not self._session.link:
                return
            try:
                self._consumer = await link.consume(
                    self._config.inbox,
                    lambda delivery: self._on_delivery(link, delivery),
                    lambda reason: self._on_consumer_ended(link, reason),
                    prefetch=LIMITED_PREFETCH if self._config.limited else PREFETCH,
                )
            except ActorNotFound:
                self._on_gone()
            except BrokerUnavailable as exc:
                self._session.attachments.retry_later(self, link, self._config.inbox, exc)

    def detach(self) -> None:
        """The broker has the messages again, so the ownership ends."""
        self._consumer = None
        self._abandon_ownership()

    def _on_consumer_ended(self, link: Link, reason: str) -> None:
        self._consumer = None
        self._abandon_ownership()
        if not self._closed and link.lost is None and link is self._session.link:
            log.warning("the broker ended the consumer of %s (%s); consuming again", self._config.inbox, reason)
            self._session.attachments.set_up_again(self, link)

    # ---- owning

    def _on_delivery(self, link: Link, delivery: Delivery) -> None:
        if self._closed or link is not self._session.link:
            return
        if self._ownership is None:
            self._ownership = Ownership(
                self._session,
                link,
                self._spec,
                self._config,
                self._make_state_host,
                on_end=lambda error: self._on_ownership_ended(link, error),
            )
            self._ownership.start()
        self._ownership.on_delivery(delivery)

    def _abandon_ownership(self) -> None:
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.abandon()
            self._session.spawn_task(ownership.close(), "actorhub-ownership-close")

    def _on_ownership_ended(self, link: Link, error: Exception) -> None:
        ownership = self._ownership
        if ownership is None or self._closed or link is not self._session.link:
            return
        if isinstance(error, ActorInitFailed) and ownership.is_first:
            self._on_constructor_failed(error)
            return
        if isinstance(error, OwnershipLost | OwnershipContested):
            log.info("another owner handles %s: %s", self._config.name, error)
            pause = random.uniform(0.0, CONTESTED_PAUSE_SECONDS)
        else:
            log.error("%s stops for %.0f s: %s", self._config.name, FAILURE_PAUSE_SECONDS, error, exc_info=error)
            pause = FAILURE_PAUSE_SECONDS
        self._session.spawn_task(self._stand_by(link, pause), "actorhub-stand-by")

    async def _stand_by(self, link: Link, pause: float) -> None:
        """Give the messages back, and consume again after `pause` seconds."""
        async with self._changing:
            self._abandon_ownership()
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await consumer.close()
        self._session.attachments.set_up_again(self, link, pause)
