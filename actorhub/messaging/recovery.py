"""Registry of a session's setup on each of its links: mailboxes, services, and outboxes of task queues."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from actorhub.broker import Link
from actorhub.errors import ActorHubError, BrokerUnavailable

log = logging.getLogger(__name__)

# seconds before a failed setup is tried again on the same link
RETRY_SECONDS = 1.0


class Recoverable(ABC):
    """Something that uses the session's link and must be set up again on a new one."""

    @abstractmethod
    async def attach(self, link: Link) -> None:
        """Set up on this link.

        Raises:
            BrokerUnavailable: the link is to be given up.
        """

    @abstractmethod
    def detach(self) -> None:
        """Note that the link is lost."""

    @property
    def unconfirmed(self) -> int:
        """Number of messages that it has published, or still has to publish, and that the broker has not confirmed."""
        return 0


class RecoveryRegistry:
    """Consumers and declarations to set up again on every new broker link.

    Args:
        link: returns the present link; None without one.
        renew: gives the link up, for a new one.
        is_closed: True once the session has ended.
    """

    def __init__(
        self,
        link: Callable[[], Link | None],
        spawn_task: Callable[[Any, str], object],
        renew: Callable[[Link, str], None],
        is_closed: Callable[[], bool],
    ) -> None:
        self._link = link
        self._spawn_task = spawn_task
        self._renew = renew
        self._is_closed = is_closed
        self._all: list[Recoverable] = []
        # the last link on which all of them were set up
        self._ready: Link | None = None

    async def attach(self, link: Link) -> None:
        """Set up all of them on a new link."""
        for attachment in list(self._all):
            await attachment.attach(link)
        self._ready = link

    @property
    def unconfirmed(self) -> int:
        """Number of messages of all of them that the broker has not confirmed."""
        return sum(attachment.unconfirmed for attachment in self._all)

    def detach(self) -> None:
        """Note that the link is lost."""
        for attachment in self._all:
            attachment.detach()

    async def add(self, attachment: Recoverable) -> None:
        """Set it up now, and again on every new link. If this link fails, it is set up on the next one when this
        returns."""
        self._all.append(attachment)
        link = self._link()
        if link is None:
            return
        try:
            await attachment.attach(link)
        except BrokerUnavailable as exc:
            self._renew(link, f"something could not be set up: {exc}")
            while not self._is_closed() and self._ready in (None, link):
                await asyncio.sleep(0.02)

    def add_later(self, attachment: Recoverable) -> None:
        """Set it up on every new link; on this one it sets up itself."""
        self._all.append(attachment)

    def remove(self, attachment: Recoverable) -> None:
        if attachment in self._all:
            self._all.remove(attachment)

    def set_up_again(self, attachment: Recoverable, link: Link, pause: float = 0.0) -> None:
        """Set it up again on this link, where the broker has ended it; retried until it succeeds."""
        self._spawn_task(self._try_again(attachment, link, pause), "actorhub-attach")

    def retry_later(self, attachment: Recoverable, link: Link, queue: str, error: BrokerUnavailable) -> None:
        """Retry on this link the consumer of `queue`, which failed while all others go on; retried until it succeeds.

        Raises:
            BrokerUnavailable: the error, if the link is lost.
        """
        if link.lost is not None:
            raise error
        log.warning("%s cannot be consumed yet; trying again: %s", queue, error)
        self.set_up_again(attachment, link, RETRY_SECONDS)

    async def _try_again(self, attachment: Recoverable, link: Link, pause: float) -> None:
        await asyncio.sleep(pause)
        while link is self._link() and link.lost is None and attachment in self._all:
            try:
                await attachment.attach(link)
                return
            except (ActorHubError, OSError):
                log.debug("a consumer is not set up again yet", exc_info=True)
            await asyncio.sleep(RETRY_SECONDS)
