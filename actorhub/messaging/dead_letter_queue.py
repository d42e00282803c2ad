"""Dead letters of a namespace: kept with their reason in a stream, and read without being removed.

A dead letter holds the whole message, so that it can be replayed. A replay leaves it where it is: a mark, which follows
it in the stream, tells the time of the replay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from actorhub.broker import Link, Message, Outcome, publish_confirmed
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable, LetterNotFound, MailboxFull
from actorhub.messaging.dead_letter import DeadLetter, ReplayMark
from actorhub.messaging.session import Session
from actorhub.messaging.topology import dead_letter_stream

log = logging.getLogger(__name__)

# messages of the stream that are read at once
PAGE_LETTERS = 1000
# seconds before a message that the broker refused is published again
RETRY_SECONDS = 0.1


async def store_dead_letter(link: Link, stream: str, message: Message) -> None:
    """Publish a message until the stream of dead letters takes it.

    A missing stream is being purged by another process, which declares it again; if that does not happen, it is
    declared here. Call this for one message at a time: RabbitMQ 3.10 closes the connection of a client that publishes
    to a stream that is being declared.

    Raises:
        BrokerUnavailable: the link was lost.
    """
    missed = 0
    while (outcome := await publish_confirmed(link, stream, message)) is not Outcome.STORED:
        if outcome is Outcome.LOST:
            raise BrokerUnavailable(f"the connection was lost before {stream} had a dead letter")
        missed += outcome is Outcome.UNROUTABLE
        if missed > 1:
            await _declare(link, stream)
            missed = 0
        await asyncio.sleep(RETRY_SECONDS)


async def _declare(link: Link, stream: str) -> None:
    try:
        await link.declare(dead_letter_stream(stream))
    except BrokerUnavailable:
        raise
    except (ActorHubError, ValueError) as exc:
        log.warning("%s cannot be declared: %s", stream, exc)


class DeadLetterQueue:
    """Dead letters of one namespace."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._namespace = namespace
        self._looking = asyncio.Lock()
        # False once the broker has reported the stream as missing
        self._is_there = True
        self.queue = session.names.dead(namespace)

    async def declare(self) -> None:
        """Declare the stream.

        Raises:
            BrokerUnavailable: the connection was lost.
        """
        link = await self._session.live_link()
        await link.declare(dead_letter_stream(self.queue))

    # ---- writing

    async def store(self, letter: DeadLetter) -> None:
        """Store a dead letter; return when the broker has it, however long that takes. A dead letter that the broker
        would refuse for its size is kept without its body."""
        message = letter.message()
        if len(message.body) > (await self._session.live_link()).max_message:
            letter = letter.without_body()
            log.error("%s of %s is kept without its arguments: %s", letter.method, letter.queue, letter.error)
            message = letter.message()
        await self._store(message)

    async def _store(self, message: Message) -> None:
        """Publish to the stream. While the stream seems to be missing, store one dead letter at a time; see
        `store_dead_letter`."""
        while True:
            try:
                if self._is_there:
                    outcome = await self._publish(self.queue, message)
                    self._is_there = outcome is not Outcome.UNROUTABLE
                    if outcome is Outcome.STORED:
                        return
                else:
                    async with self._looking:
                        if not self._is_there:
                            await store_dead_letter(await self._session.live_link(), self.queue, message)
                            self._is_there = True
                            return
                        continue
            except BrokerUnavailable:
                log.debug("a dead letter waits for the broker", exc_info=True)
            await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self, queue: str, message: Message) -> Outcome:
        return await publish_confirmed(await self._session.live_link(), queue, message)

    # ---- reading

    async def read(self, limit: int = 100, after: int | None = None) -> list[DeadLetter]:
        """Read the oldest dead letters, or the oldest of those after the id `after`; they stay in the stream. Dead
        letters stored during the read are left out. One that was stored twice, by a durable actor that was taken
        over, is returned once."""
        letters: dict[int, DeadLetter] = {}
        seen: set[bytes] = set()
        async for offset, message in self._messages(0 if after is None else max(0, after + 1)):
            mark = ReplayMark.found(message)
            if mark is None:
                if len(letters) < limit and (message.headers or message.body not in seen):
                    seen.add(message.body)
                    letters[offset] = DeadLetter.found(offset, message)
            elif (marked := letters.get(mark.letter)) is not None and marked.time == mark.kept:
                letters[mark.letter] = marked.model_copy(update={"replayed": mark.time})
        return list(letters.values())

    async def get(self, id: int) -> DeadLetter:
        """Read one dead letter.

        Raises:
            LetterNotFound: no dead letter has this id.
        """
        letters = await self.read(1, after=id - 1)
        if not letters or letters[0].id != id:
            raise self._not_found(id)
        return letters[0]

    async def _at(self, id: int) -> DeadLetter:
        """Read one dead letter without looking for its marks, and so without reading further."""
        for offset, message in await self._session.broker.peek(self.queue, limit=1, offset=max(0, id)):
            if offset == id and ReplayMark.found(message) is None:
                return DeadLetter.found(offset, message)
        raise self._not_found(id)

    def _not_found(self, id: int) -> LetterNotFound:
        return LetterNotFound(
            f"there is no dead letter {id} in namespace {self._namespace!r}; see `actorhub dead list` for those that there are"
        )

    async def _messages(self, offset: int) -> AsyncIterator[tuple[int, Message]]:
        """Messages from this offset to the present end of the stream, marks among them. Reading ends however fast new
        ones come."""
        end = await self._session.broker.end_offset(self.queue)
        while offset < end:
            page = await self._session.broker.peek(self.queue, limit=min(PAGE_LETTERS, end - offset), offset=offset)
            for at, message in page:
                if at < end:
                    yield at, message
            if not page:
                return
            offset = page[-1][0] + 1

    # ---- replaying, purging

    async def replay(self, letter: DeadLetter | int) -> DeadLetter:
        """Replay a dead letter, given itself or by id: send its message to its queue again, as a new one, handled after
        the messages that wait there. The dead letter stays, marked as replayed; returns it so.

        Raises:
            LetterNotFound: no dead letter has this id.
            ActorNotFound: its queue does not exist any more.
            MailboxFull: its actor's mailbox is at its limit.
            BrokerUnavailable: the connection was lost before the broker confirmed: it may or may not be sent.
        """
        if isinstance(letter, int):
            letter = await self._at(letter)
        which = f"dead letter {letter.id} ({letter.method or letter.reason})"
        if not letter.queue:
            raise ActorHubError(f"{which} does not say which queue it was in; publish its body by hand")
        outcome = await self._publish(letter.queue, letter.to_message())
        if outcome is Outcome.UNROUTABLE:
            whose = f"its actor {letter.actor} is dead" if letter.actor else "nobody serves it"
            raise ActorNotFound(
                f"{which} cannot be sent again: its queue {letter.queue} is gone, {whose}; "
                "call a living actor with the letter's arguments instead"
            )
        if outcome is Outcome.REFUSED:
            raise MailboxFull(
                f"{which} was not sent again: {letter.queue} is at its limit; try again when it is less busy"
            )
        if outcome is Outcome.LOST:
            raise BrokerUnavailable(
                f"the connection was lost before the broker confirmed {which}; look whether it took effect, then try again"
            )
        if letter.id is None:
            return letter
        mark = ReplayMark(letter=letter.id, kept=letter.time)
        await self._store(mark.message())
        return letter.model_copy(update={"replayed": mark.time})

    async def purge(self) -> int:
        """Drop all dead letters; return their number at the start. A dead letter stored meanwhile is not lost
        unnoticed: it is either dropped with the others, and not counted, or kept in the new stream.

        Raises:
            BrokerUnavailable: the connection was lost; read the stream to see which are left.
        """
        link = await self._session.live_link()
        if await link.state(self.queue) is None:
            return 0
        count = 0
        async for _, message in self._messages(0):
            count += ReplayMark.found(message) is None
        await link.delete(self.queue)
        await self.declare()
        return count
