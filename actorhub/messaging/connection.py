"""A link to the broker that is replaced whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from actorhub.broker import Broker, Link
from actorhub.errors import BrokerUnavailable

log = logging.getLogger(__name__)

# seconds between two tries, at most
MAX_PAUSE_SECONDS = 2.0

OnRetry = Callable[[int, BaseException], None]
"""Called before each further try to reach the broker, with its number and the error of the last one."""


class ReconnectingConnection:
    """Connection to the broker that replaces its link whenever that is lost. It holds one link at a time.

    Tries go on for ever with exponential backoff and jitter, unless the broker says that the credentials or the virtual
    host are wrong.

    Args:
        broker: connects to it.
        name: shown in the broker's list of connections.
        on_link: makes a new link usable: declares, consumes, and sends again the messages that were not confirmed. If
            it fails, the link is given up and the next one tried.
        on_lost: called when a link is lost.
        on_given_up: called with the error when no further try is made.
        on_retry: called before each further try.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        on_link: Callable[[Link], Awaitable[None]],
        on_lost: Callable[[], None],
        on_given_up: Callable[[BrokerUnavailable], None],
        on_retry: OnRetry | None = None,
    ) -> None:
        self._broker = broker
        self._name = name
        self._on_link = on_link
        self._on_lost = on_lost
        self._on_given_up = on_given_up
        self._on_retry = on_retry
        self._recovery: asyncio.Task[None] | None = None
        self._closed = False
        self.link: Link | None = None
        self.blocked: str | None = None

    async def open(self, timeout: float) -> None:
        """Connect for the first time.

        Raises:
            BrokerUnavailable: no link within `timeout` seconds, or further tries are useless.
        """
        await self._connect(stop_after_delay(timeout))

    async def close(self) -> None:
        self._closed = True
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        if self.link is not None:
            link, self.link = self.link, None
            await link.close()

    async def renew(self, link: Link, reason: str) -> None:
        """Replace a link that lives but no longer serves, such as one whose reply queue is gone."""
        if link is self.link:
            log.warning("connection to the broker renewed: %s", reason)
            await link.close()
            self._lost(BrokerUnavailable(reason))

    async def _connect(self, stop: stop_base) -> None:
        async for attempt in AsyncRetrying(
            stop=stop,
            wait=wait_random_exponential(multiplier=0.05, max=MAX_PAUSE_SECONDS),
            retry=retry_if_exception(lambda exc: isinstance(exc, BrokerUnavailable) and not exc.permanent),
            before_sleep=self._report,
            reraise=True,
        ):
            with attempt:
                await self._try()

    async def _try(self) -> None:
        self.blocked = None
        link = await self._broker.connect(name=self._name, on_lost=self._lost, on_blocked=self._on_blocked)
        self.link = link
        try:
            await self._on_link(link)
        except BaseException as exc:
            self.link = None
            await link.close()
            if isinstance(exc, asyncio.CancelledError):
                raise
            raise BrokerUnavailable(f"the connection failed while it was set up: {exc}") from exc
        if link.lost is not None:
            raise BrokerUnavailable(f"the connection was lost while it was set up: {link.lost}") from link.lost

    def _report(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            log.info("no connection to the broker yet (try %d): %s", state.attempt_number, error)
            if self._on_retry is not None:
                self._on_retry(state.attempt_number, error)

    def _on_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        if reason is not None:
            log.warning("the broker takes no messages for now (%s); sends wait", reason)
        else:
            log.info("the broker takes messages again")

    def _lost(self, error: BaseException) -> None:
        self.link = None
        if self._closed:
            return
        log.warning("connection to the broker lost: %s", error)
        self._on_lost()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._recover(), name="actorhub-recovery")

    async def _recover(self) -> None:
        try:
            await self._connect(stop_never)
        except BrokerUnavailable as exc:
            log.error("connection to the broker given up: %s", exc)  # noqa: TRY400
            self._on_given_up(exc)
