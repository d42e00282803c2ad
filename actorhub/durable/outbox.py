"""The outbox of a durable mailbox: the effects of one commit, and the publisher that brings them to their queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from actorhub.broker import Link, Message, Outcome, Queue, publish_confirmed
from actorhub.core.addressing import ActorAddress, actor_id_of
from actorhub.durable.protocol.records import OutboxEntry
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.dead_letter_queue import store_dead_letter
from actorhub.messaging.delayed_delivery import DelayedPublisher
from actorhub.messaging.session import Session
from actorhub.wire.envelope import EncodedEnvelope, decode, encode
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

REFUSED_PAUSE_SECONDS = 0.02
"""Before a message that a full mailbox refused is published again."""


class CommitOutbox:
    """Effects of the messages of one commit, grouped by the queue that they go to."""

    def __init__(self) -> None:
        self._parcels: dict[str, list[EncodedEnvelope]] = {}
        self._replies: dict[str, list[tuple[str, int]]] = {}
        self._keyed: dict[str, str] = {}
        self._ungrouped: list[OutboxEntry] = []

    def reply(self, queue: str, parcel: EncodedEnvelope, call: tuple[str, int]) -> None:
        """Add a reply. `call`: sender and number of the call."""
        self._parcels.setdefault(queue, []).append(parcel)
        self._replies.setdefault(queue, []).append(call)

    def tell(self, queue: str, keyed: str, parcel: EncodedEnvelope) -> None:
        """Add a tell. `keyed`: class of the receiver, if it is a keyed one."""
        self._parcels.setdefault(queue, []).append(parcel)
        if keyed:
            self._keyed[queue] = keyed

    def add(self, entry: OutboxEntry) -> None:
        """Add an entry that stays a message of its own."""
        self._ungrouped.append(entry)

    def declare(self, queue: Queue) -> None:
        self._ungrouped.append(OutboxEntry(queue=queue.name, body=b"", declares=queue))

    def entries(self) -> list[OutboxEntry]:
        grouped = []
        for queue, parcels in self._parcels.items():
            body, content_type = encode(parcels)
            replies = tuple(self._replies.get(queue, ()))
            grouped.append(
                OutboxEntry(
                    queue=queue,
                    content_type=content_type,
                    body=body,
                    size=len(body),
                    persistent=not replies,
                    keyed=self._keyed.get(queue, ""),
                    replies=replies,
                )
            )
        return [*grouped, *self._ungrouped]


def dead_letter_entry(queue: str, letter: DeadLetter, max_bytes: int) -> OutboxEntry:
    """The entry of a dead letter; without the letter's message if it has more than `max_bytes`."""
    message = letter.message()
    if len(message.body) > max_bytes:
        message = letter.without_body().message()
    return OutboxEntry(
        queue=queue, content_type=message.content_type or "application/json", body=message.body, size=len(message.body)
    )


class OutboxPublisher:
    """Publishes what a durable mailbox sends, over one link, until the broker has confirmed it.

    Args:
        name: the mailbox's.
        dead_letters: queue of dead letters.
    """

    def __init__(self, session: Session, link: Link, name: str, dead_letters: str) -> None:
        self._session = session
        self._link = link
        self._name = name
        self._dead_letters = dead_letters
        self._delays = DelayedPublisher(session.names)
        self._one_dead_letter = asyncio.Lock()

    async def release(self, entries: Sequence[OutboxEntry]) -> None:
        """Publish the outbox of a commit. The queues in it are declared before anything else leaves.

        Raises:
            BrokerUnavailable: the link was lost; the next owner publishes it again.
        """
        queues = [entry.declares for entry in entries if entry.declares is not None]
        await asyncio.gather(*(self._declare(queue) for queue in queues))
        await asyncio.gather(*(self.publish(entry) for entry in entries if entry.declares is None))

    async def _declare(self, queue: Queue) -> None:
        try:
            await self._link.declare(queue)
        except BrokerUnavailable:
            raise
        except (ActorHubError, ValueError) as exc:
            log.warning("%s stays as it is: %s", queue.name, exc)

    async def publish(self, entry: OutboxEntry) -> None:
        """Publish until the broker has the message, or its receiver is gone: then tells to an actor become dead letters.

        Raises:
            BrokerUnavailable: the link was lost; the next owner publishes it again.
        """
        message = Message(
            entry.body, entry.content_type, persistent=entry.persistent, correlation_id=entry.correlation_id
        )
        if entry.queue == self._dead_letters:
            async with self._one_dead_letter:
                await store_dead_letter(self._link, entry.queue, message)
            return
        while (outcome := await self._send(entry, message)) is not Outcome.STORED:
            if outcome is Outcome.LOST:
                raise BrokerUnavailable(
                    f"the connection was lost before {entry.queue} had a message of {self._name}; it is published again"
                )
            if outcome is Outcome.UNROUTABLE and not (entry.keyed and await self._ensure_mailbox(entry)):
                await self._give_up(entry)
                return
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    async def _send(self, entry: OutboxEntry, message: Message) -> Outcome:
        if entry.due is not None:
            return await self._delays.put(self._link, entry.queue, message, entry.due)
        return await publish_confirmed(self._link, entry.queue, message)

    async def publish_dead_letter(self, letter: DeadLetter) -> None:
        """Raises:
        BrokerUnavailable: the link was lost.
        """
        await self.publish(dead_letter_entry(self._dead_letters, letter, self._link.max_message))

    async def _give_up(self, entry: OutboxEntry) -> None:
        """The receiver's queue is gone."""
        if not actor_id_of(entry.queue):
            if not entry.replies:
                log.info("a message of %s to %s is dropped: that queue is gone", self._name, entry.queue)
            return
        error = ActorNotFound(f"a tell of {self._name} to {entry.queue} cannot arrive: that actor is gone")
        log.warning("%s", error)
        failure = Failure.of(error, self._session.signer)
        for envelope, payload in decode(entry.body, entry.content_type):
            await self.publish_dead_letter(DeadLetter.of("actor died", entry.queue, envelope, payload, failure))

    async def _ensure_mailbox(self, entry: OutboxEntry) -> bool:
        """Have the mailbox of a keyed instance created. False if that fails."""
        names = self._session.names
        address = ActorAddress(
            queue=entry.queue,
            actor_id=actor_id_of(entry.queue),
            namespace=names.namespace_of(entry.queue),
            class_name=entry.keyed,
        )
        try:
            await self._session.directory.ensure_mailbox(address)
        except ActorHubError:
            log.exception("the mailbox of an instance of %s cannot be created", entry.keyed)
            return False
        return True
