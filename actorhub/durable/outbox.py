"""What a commit releases: made of what its messages did, and brought to where it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from actorhub.broker import Link, Message, Outcome, Queue, publish_confirmed
from actorhub.core.addressing import ActorAddress, actor_id_of
from actorhub.durable.protocol.records import OutboxEntry
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.delayed_delivery import DelayedPublisher
from actorhub.messaging.session import Session
from actorhub.messaging.topology import dead_letter_stream
from actorhub.wire.envelope import EncodedEnvelope, decode, encode
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

MISSING_PAUSE = 0.1  # seconds before a letter is posted again whose stream was not there
REFUSED_PAUSE = 0.02  # seconds before what a full mailbox refused is posted again


class CommitOutbox:
    """What follows from the messages of one commit, by the queue that it goes to."""

    def __init__(self) -> None:
        self._parcels: dict[str, list[EncodedEnvelope]] = {}
        self._replies: dict[str, list[tuple[str, int]]] = {}
        self._keyed: dict[str, str] = {}
        self._single: list[OutboxEntry] = []

    def reply(self, queue: str, parcel: EncodedEnvelope, call: tuple[str, int]) -> None:
        self._parcels.setdefault(queue, []).append(parcel)
        self._replies.setdefault(queue, []).append(call)

    def tell(self, queue: str, keyed: str, parcel: EncodedEnvelope) -> None:
        self._parcels.setdefault(queue, []).append(parcel)
        if keyed:
            self._keyed[queue] = keyed

    def alone(self, posting: OutboxEntry) -> None:
        self._single.append(posting)

    def declare(self, queue: Queue) -> None:
        self._single.append(OutboxEntry(queue=queue.name, body=b"", declares=queue))

    def postings(self) -> list[OutboxEntry]:
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
        return [*grouped, *self._single]


def dead_letter_entry(queue: str, letter: DeadLetter, limit: int) -> OutboxEntry:
    """Without what the letter is about where that is more than `limit` bytes."""
    message = letter.message()
    if len(message.body) > limit:
        message = letter.without_body().message()
    return OutboxEntry(
        queue=queue, content_type=message.content_type or "application/json", body=message.body, size=len(message.body)
    )


class OutboxPublisher:
    """Of the durable mailbox `name`, over one link. `dead` is the queue of dead letters."""

    def __init__(self, session: Session, link: Link, name: str, dead: str) -> None:
        self._session = session
        self._link = link
        self._name = name
        self._dead = dead
        self._delays = DelayedPublisher(session.names)
        self._one_letter = asyncio.Lock()

    async def release(self, postings: Sequence[OutboxEntry]) -> None:
        """All that one commit releases: its queues are there before anything else leaves.

        Raises:
            BrokerUnavailable: as `post`.
        """
        queues = [posting.declares for posting in postings if posting.declares is not None]
        await asyncio.gather(*(self._declare(queue) for queue in queues))
        await asyncio.gather(*(self.post(posting) for posting in postings if posting.declares is None))

    async def _declare(self, queue: Queue) -> None:
        try:
            await self._link.declare(queue)
        except BrokerUnavailable:
            raise
        except (ActorHubError, ValueError) as exc:
            log.warning("%s stays as it is: %s", queue.name, exc)

    async def post(self, posting: OutboxEntry) -> None:
        """Returns when the broker has it, or nobody can get it any more: then tells to actors are dead letters.

        Raises:
            BrokerUnavailable: the link was lost. Whoever is the owner next posts it again.
        """
        if posting.queue == self._dead:
            await self._post_letter(posting)
            return
        while True:
            outcome = await self._send(posting)
            if outcome is Outcome.STORED:
                return
            if outcome is Outcome.UNROUTABLE and not (posting.keyed and await self._make_mailbox(posting)):
                if actor_id_of(posting.queue):
                    await self._bury(posting)
                elif not posting.replies:
                    log.info("what %s sends to %s cannot arrive: that queue is gone", self._name, posting.queue)
                return
            if outcome is Outcome.LOST:
                raise BrokerUnavailable(
                    f"the connection was lost before {posting.queue} had what {self._name} sends it"
                )
            await asyncio.sleep(REFUSED_PAUSE)

    async def _post_letter(self, posting: OutboxEntry) -> None:
        """Where the stream is missing, somebody purges it and makes it again in this moment; if not, that is done here. One
        letter at a time: RabbitMQ 3.10 closes the connection of who publishes to a stream that is being made."""
        async with self._one_letter:
            missed = 0
            while (outcome := await self._send(posting)) is not Outcome.STORED:
                if outcome is Outcome.LOST:
                    raise BrokerUnavailable(f"the connection was lost before {self._dead} had a letter of {self._name}")
                missed += outcome is Outcome.UNROUTABLE
                if missed > 1:
                    await self._declare(dead_letter_stream(self._dead))
                    missed = 0
                await asyncio.sleep(MISSING_PAUSE)

    async def _send(self, posting: OutboxEntry) -> Outcome:
        message = Message(
            posting.body,
            posting.content_type,
            persistent=posting.persistent,
            correlation_id=posting.correlation_id,
        )
        if posting.due is not None:
            return await self._delays.put(self._link, posting.queue, message, posting.due)
        return await publish_confirmed(self._link, posting.queue, message)

    async def _bury(self, posting: OutboxEntry) -> None:
        error = ActorNotFound(f"what {self._name} tells {posting.queue} cannot arrive: that actor is gone")
        log.warning("%s", error)
        failure = Failure.of(error, self._session.signer)
        for envelope, payload in decode(posting.body, posting.content_type):
            letter = DeadLetter.of("actor died", posting.queue, envelope, payload, failure)
            await self.post(dead_letter_entry(self._dead, letter, self._link.max_message))

    async def _make_mailbox(self, posting: OutboxEntry) -> bool:
        """Of the instance of a keyed class that gets it. False where that cannot be."""
        names = self._session.names
        ticket = ActorAddress(
            queue=posting.queue,
            actor_id=actor_id_of(posting.queue),
            namespace=names.namespace_of(posting.queue),
            class_name=posting.keyed,
        )
        try:
            await self._session.directory.ensure_mailbox(ticket)
        except ActorHubError:
            log.exception("the mailbox of an instance of %s cannot be made", posting.keyed)
            return False
        return True
