"""What could not be processed, kept with the reason in a stream that is read without destroying it.

A letter holds the whole message, so that it can be sent again. That leaves the letter where it is: a mark, which follows it in
the stream, says when it was done.
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

PAGE = 1000  # messages of the stream that are read at once
PAUSE = 0.1  # seconds before what the broker did not take is tried again


async def store_dead_letter(link: Link, stream: str, message: Message) -> None:
    """Publish until the stream of dead letters takes the message.

    A stream that is missing is being purged by another process, which declares it again; if it does not, it is declared here.
    To be called for one message at a time: RabbitMQ 3.10 closes the connection of a client that publishes to a stream that is
    being declared.

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
        await asyncio.sleep(PAUSE)


async def _declare(link: Link, stream: str) -> None:
    try:
        await link.declare(dead_letter_stream(stream))
    except BrokerUnavailable:
        raise
    except (ActorHubError, ValueError) as exc:
        log.warning("%s cannot be declared: %s", stream, exc)


class DeadLetterQueue:
    """One namespace's dead letters. `keep` returns when the broker has the letter; it waits as long as that takes."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._namespace = namespace
        self._looking = asyncio.Lock()
        self._is_there = True  # the stream, as far as anybody knows
        self.queue = session.names.dead(namespace)

    async def declare(self) -> None:
        """Make the stream.

        Raises:
            BrokerUnavailable: the connection was lost.
        """
        link = await self._session.live_link()
        await link.declare(dead_letter_stream(self.queue))

    # ---- writing

    async def keep(self, letter: DeadLetter) -> None:
        """A letter that the broker would refuse for its size is kept without its body."""
        message = letter.message()
        if len(message.body) > (await self._session.live_link()).max_message:
            letter = letter.without_body()
            log.error("%s of %s is kept without its arguments: %s", letter.method, letter.queue, letter.error)
            message = letter.message()
        await self._store(message)

    async def _store(self, message: Message) -> None:
        """While the stream seems to be missing, one letter at a time is stored; see `store_dead_letter`."""
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
            await asyncio.sleep(PAUSE)

    async def _publish(self, queue: str, message: Message) -> Outcome:
        return await publish_confirmed(await self._session.live_link(), queue, message)

    # ---- reading

    async def read(self, limit: int = 100, after: int | None = None) -> list[DeadLetter]:
        """The oldest letters, or the oldest of those behind the one with the id `after`. They stay where they are. What is kept
        while one reads is not among them. One that was kept twice, by a durable actor that went on elsewhere, is there once."""
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
        """Raises:
        LetterNotFound: there is none of that id.
        """
        letters = await self.read(1, after=id - 1)
        if not letters or letters[0].id != id:
            raise self._not_found(id)
        return letters[0]

    async def _at(self, id: int) -> DeadLetter:
        """As `get`, without looking for marks: so nothing else is read."""
        for offset, message in await self._session.broker.peek(self.queue, limit=1, offset=max(0, id)):
            if offset == id and ReplayMark.found(message) is None:
                return DeadLetter.found(offset, message)
        raise self._not_found(id)

    def _not_found(self, id: int) -> LetterNotFound:
        return LetterNotFound(
            f"there is no dead letter {id} in namespace {self._namespace!r}; see `actorhub dead list` for those that there are"
        )

    async def _messages(self, offset: int) -> AsyncIterator[tuple[int, Message]]:
        """From this offset to the end that the stream has now, marks among them: however fast letters come, reading ends."""
        end = await self._session.broker.end_offset(self.queue)
        while offset < end:
            page = await self._session.broker.peek(self.queue, limit=min(PAGE, end - offset), offset=offset)
            for at, message in page:
                if at < end:
                    yield at, message
            if not page:
                return
            offset = page[-1][0] + 1

    # ---- sending again, dropping

    async def replay(self, letter: DeadLetter | int) -> DeadLetter:
        """Send the message of a letter, or of the one with this id, to its queue again, as a new one; it is handled after what
        waits there. The letter stays, marked as replayed. Returns it so.

        Raises:
            LetterNotFound: there is none of that id.
            ActorNotFound: its queue is gone.
            MailboxFull: its actor's mailbox is at its limit.
            BrokerUnavailable: the connection was lost before the broker confirmed: it may or may not be sent.
        """
        if isinstance(letter, int):
            letter = await self._at(letter)
        which = f"dead letter {letter.id} ({letter.method or letter.reason})"
        if not letter.queue:
            raise ActorHubError(f"{which} does not say which queue it was in; publish its body by hand")
        outcome = await self._publish(letter.queue, letter.again())
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
        """Drop all letters; returns how many there were when it began. None that is being kept meanwhile is lost: it is either
        dropped with the others, and not counted, or in the new stream.

        Raises:
            BrokerUnavailable: the connection was lost; look what is left.
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
