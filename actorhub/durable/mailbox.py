"""A durable actor's mailbox: consumes its inbox, and has an owner while the broker gives it messages.

The inbox is a queue with a single active consumer, so most of the time only one mailbox has messages; what keeps two of them
apart when both do is the journal. See `ownership.py`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Collection

from actorhub.actors.mailbox import PREFETCH
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Consumer, Delivery, Link, Queue
from actorhub.durable.instance_pool import Load, StateHost
from actorhub.durable.ownership import Ownership
from actorhub.durable.protocol.owner import OwnershipLost
from actorhub.durable.protocol.takeover import OwnershipContested
from actorhub.errors import ActorInitFailed, ActorNotFound, BrokerUnavailable
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

LIMITED_PREFETCH = 16  # where a limit counts what waits at the broker
SOON = 0.2  # seconds before one that was contested asks for messages again
LATER = 5.0  # seconds before one that could not begin tries again


MakeStateHost = Callable[[Link, Load, Callable[[Exception], None], Callable[[], bool]], StateHost]
"""Over this link, around what brings the journal's states, what is called when that cannot be read, and what is asked before
each message is handled."""


class DurableMailbox(Recoverable):
    """`on_born_dead`: the constructor raised; `on_gone`: the inbox does not exist any more. For the rest see `Ownership`."""

    def __init__(
        self,
        session: Session,
        spec: ActorSpec,
        *,
        actor_id: str,
        inbox: str,
        journal: str,
        dead: str,
        make_state_host: MakeStateHost,
        in_parts: bool = False,
        journal_to_make: Queue | None = None,
        limited: bool = False,
        poison: Collection[str] = (),
        on_constructor_failed: Callable[[BaseException], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._session = session
        self._spec = spec
        self._actor_id = actor_id
        self._inbox = inbox
        self._journal = journal
        self._dead = dead
        self._make_state_host = make_state_host
        self._in_parts = in_parts
        self._journal_to_make = journal_to_make
        self._prefetch = LIMITED_PREFETCH if limited else PREFETCH
        self._poison = frozenset(poison)
        self._on_born_dead = on_constructor_failed
        self._on_gone = on_gone
        self._consumer: Consumer | None = None
        self._tenure: Ownership | None = None
        self._changing = asyncio.Lock()
        self._closed = False

    # ---- life

    async def start(self) -> None:
        """Nothing is made before the first message comes."""

    async def open(self) -> None:
        """Raises:
        ActorNotFound: the inbox does not exist.
        """
        await self._session.attachments.add(self)

    async def stop(self, patience: float) -> None:
        """Take nothing more; let what runs end, for `patience` seconds, and commit it."""
        self._closed = True
        self._session.attachments.remove(self)
        async with self._changing:
            tenure, self._tenure = self._tenure, None
            if tenure is not None:
                await tenure.stop(patience)

    async def close(self) -> None:
        """After `stop`. What is not acknowledged goes back to the inbox."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def attach(self, link: Link) -> None:
        async with self._changing:
            if self._closed or link is not self._session.link:
                return
            try:
                self._consumer = await link.consume(
                    self._inbox,
                    lambda delivery: self._on_delivery(link, delivery),
                    lambda reason: self._on_end(link, reason),
                    prefetch=self._prefetch,
                )
            except ActorNotFound:
                self._on_gone()
            except BrokerUnavailable as exc:
                self._session.attachments.retry_later(self, link, self._inbox, exc)

    def detach(self) -> None:
        """What was in hand is the broker's again, and the owner is the owner no longer."""
        self._consumer = None
        self._drop()

    def _drop(self) -> None:
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            tenure.abandon()
            self._session.spawn_task(tenure.leave(), "actorhub-leave")

    # ---- owning

    def _on_delivery(self, link: Link, delivery: Delivery) -> None:
        if self._closed or link is not self._session.link:
            return
        if self._tenure is None:
            self._tenure = self._begin(link)
        self._tenure.on_delivery(delivery)

    def _begin(self, link: Link) -> Ownership:
        return Ownership(
            self._session,
            link,
            self._spec,
            name=self._actor_id,
            inbox=self._inbox,
            journal=self._journal,
            dead=self._dead,
            make_state_host=functools.partial(self._make_state_host, link),
            in_parts=self._in_parts,
            journal_to_make=self._journal_to_make,
            poison=self._poison,
            on_end=lambda error: self._ended(link, error),
        )

    def _ended(self, link: Link, error: Exception) -> None:
        """It gives its messages back, and stands by."""
        tenure = self._tenure
        if tenure is None or self._closed or link is not self._session.link:
            return
        if isinstance(error, ActorInitFailed) and tenure.newborn:
            self._on_born_dead(error)
            return
        if isinstance(error, OwnershipLost | OwnershipContested):
            log.info("%s is handled elsewhere: %s", self._actor_id, error)
            pause = random.uniform(0.0, SOON)
        else:
            log.error("%s stops for %.0f s: %s", self._actor_id, LATER, error, exc_info=error)
            pause = LATER
        self._session.spawn_task(self._stand_by(link, pause), "actorhub-stand-by")

    async def _stand_by(self, link: Link, pause: float) -> None:
        async with self._changing:
            self._drop()
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await consumer.close()
        self._session.attachments.again(self, link, pause)

    def _on_end(self, link: Link, reason: str) -> None:
        self._consumer = None
        self._drop()
        if not self._closed and link.lost is None and link is self._session.link:
            log.warning("the broker ended the consumer of %s (%s); consuming again", self._inbox, reason)
            self._session.attachments.again(self, link)
