"""A journal's I/O for one life of an owner: reads it to its end, writes the epoch, then appends, and reads on."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import Protocol

from actorhub.broker import Consumer, Delivery, Link, Message, Outcome
from actorhub.core.futures import resolver_of
from actorhub.durable.protocol import records
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.records import RECORD_SHARE, Commit, InvalidRecord, Record
from actorhub.durable.protocol.takeover import Append, JournalLost, ReadFrom, Takeover
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

READ_AHEAD = 200  # records
ANSWER = 3.0  # seconds in which the broker brings one record
TRIES = 5
OVERHEAD = 256  # bytes that the broker adds to a record, at most
KEPT_ANSWERS = 16 * 1024 * 1024  # bytes
CONTENT_TYPE = "application/x-actorhub-record"


class JournalListener(Protocol):
    """What an owner does with what is read."""

    def caught_up(self, past: JournalState) -> None:
        """All that was there has been read, and nothing written yet. What it raises ends the life."""

    def own(self, key: str) -> Commit | None:
        """The commit with this key that has been appended and not read back: it need not be decoded."""

    def on_record(self, offset: int, record: Record | None, size: int) -> None:
        """The journal goes on; None: with a message that is no record. What it raises ends the life."""

    def on_broken(self, error: Exception) -> None:
        """It can be read or written no longer."""


class Journal:
    """`me` is the owner's name, `mark` is unique. What is read goes into `past`; once the epoch counts, to the listener.
    `in_parts`: the state that it keeps is in parts."""

    def __init__(
        self, session: Session, link: Link, queue: str, me: str, mark: str, listener: JournalListener, *, in_parts: bool
    ) -> None:
        self._session = session
        self._link = link
        self._queue = queue
        self._listener = listener
        kept = min(KEPT_ANSWERS, link.max_message // RECORD_SHARE, session.settings.journal_retention // 8)
        past = JournalState(limit=kept, in_parts=in_parts)
        self._takeover = Takeover(me, mark, past)
        self._reader: Consumer | None = None
        self._reading = 0
        self._arrived: deque[tuple[int, Record | None, int]] = deque()
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -1
        self._won: asyncio.Future[None] = session.loop.create_future()
        self._closed = False

    @property
    def past(self) -> JournalState:
        """What has been read."""
        return self._takeover.past

    async def open(self) -> JournalState:
        """Returns what the journal says, as soon as it names this owner.

        Raises:
            Contested, JournalLost, BrokerUnavailable, and what the listener raises.
        """
        for step in self._takeover.start():
            await self._carry_out(step)
        await self._won
        return self.past

    async def close(self) -> None:
        self.abandon()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    def abandon(self) -> None:
        """Give the listener nothing more."""
        self._closed = True
        if not self._won.done():
            self._won.cancel()

    def append(self, record: Record) -> int:
        """Returns how many bytes it has."""
        body = records.encode(record)
        key = record.key if isinstance(record, Commit) else None
        self._link.publish(self._queue, Message(body, CONTENT_TYPE, message_id=key, type=record.kind), self._appended)
        return len(body) + OVERHEAD

    def _appended(self, outcome: Outcome) -> None:
        if outcome is not Outcome.STORED and outcome is not Outcome.LOST:
            self._break(BrokerUnavailable(f"{self._queue} does not take a record: {outcome.value}"))

    async def read(self, offset: int) -> Commit:
        """One commit that was read before.

        Raises:
            JournalLost: it is there no longer.
            BrokerUnavailable: the link was lost.
        """
        at, body = await self._one_from(offset)
        record = records.decode(body) if at == offset else None
        if not isinstance(record, Commit):
            raise JournalLost(f"{self._queue} has no commit at {offset} any more; give journals more room")
        return record

    async def _one_from(self, offset: int | str) -> tuple[int, bytes]:
        """The first record from there on, and where it is. A broker that does not answer is asked again."""
        for _ in range(TRIES):
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER):
                    return await self._ask_for_one(offset)
            log.warning("%s was not read from %s in %.0f s; trying again", self._queue, offset, ANSWER)
        raise BrokerUnavailable(f"{self._queue} cannot be read from {offset}: the broker does not answer")

    async def _ask_for_one(self, offset: int | str) -> tuple[int, bytes]:
        found: asyncio.Future[tuple[int, bytes] | BrokerUnavailable] = self._session.loop.create_future()
        resolve = resolver_of(found)
        consumer = await self._link.consume(
            self._queue,
            lambda delivery: resolve((delivery.offset or 0, delivery.message.body)),
            lambda reason: resolve(BrokerUnavailable(f"{self._queue} cannot be read: {reason}")),
            prefetch=1,
            offset=offset,
        )
        try:
            answer = await found
        finally:
            await consumer.close()
        if isinstance(answer, BrokerUnavailable):
            raise answer
        return answer

    # ---- reading

    async def _carry_out(self, step: ReadFrom | Append) -> None:
        if isinstance(step, Append):
            self.append(step.record)
            return
        former, self._reader = self._reader, None
        reading = self._reading
        if former is not None:
            await former.close()
        self._reader = await self._link.consume(
            self._queue,
            lambda delivery: self._on_delivery(delivery, reading),
            lambda reason: self._break(BrokerUnavailable(f"{self._queue} cannot be read: {reason}")),
            prefetch=READ_AHEAD,
            offset=step.offset,
        )

    async def _begin_reading(self, step: ReadFrom) -> None:
        try:
            await self._carry_out(step)
        except ActorHubError as exc:
            self._break(exc)

    def _on_delivery(self, delivery: Delivery, reading: int) -> None:
        delivery.ack()
        if self._closed or reading != self._reading:
            return
        message, offset = delivery.message, delivery.offset or 0
        record: Record | None = self._listener.own(message.message_id) if message.message_id else None
        try:
            if record is None:
                record = records.decode(message.body)
        except InvalidRecord as exc:
            log.warning("a message in %s at offset %d is skipped: %s", self._queue, offset, exc)
        self._arrived.append((offset, record, len(message.body) + OVERHEAD))
        self._hand_on()

    def _hand_on(self) -> None:
        """What has arrived, in order, up to an offset that is missing and may be lost."""
        while self._arrived and not self._closed and self._looking is None:
            offset, record, size = self._arrived[0]
            if self._takeover.over and self.past.end < offset != self._looked_at:
                self._looking = self._session.spawn_task(self._look_at_hole(offset, self._reading), "actorhub-hole")
                return
            self._arrived.popleft()
            try:
                if self._takeover.over:
                    self._listener.on_record(offset, record, size)
                else:
                    self._on_former(offset, record, size)
            except ActorHubError as exc:
                self._break(exc)

    async def _look_at_hole(self, offset: int, reading: int) -> None:
        """RabbitMQ takes an offset for itself in each segment. While what comes before it is still there, nothing is lost."""
        try:
            first, _ = await self._one_from("first")
        except ActorHubError as exc:
            self._break(exc)
            return
        if reading == self._reading and first < self.past.end:
            self.past.end = offset
        self._looking, self._looked_at = None, offset
        self._hand_on()

    def _on_former(self, offset: int, record: Record | None, size: int) -> None:
        had_caught_up = self._takeover.caught_up
        steps = self._takeover.read(offset, record, size)
        if self._takeover.caught_up and not had_caught_up:
            self._listener.caught_up(self.past)
        for step in steps:
            if isinstance(step, Append):
                self.append(step.record)
            else:
                self._reading += 1  # now: what the former reading still brings is not this one's
                self._arrived.clear()
                self._session.spawn_task(self._begin_reading(step), "actorhub-journal")
        if self._takeover.over and not self._won.done():
            self._won.set_result(None)

    def _break(self, error: Exception) -> None:
        if self._closed:
            return
        if not self._won.done():
            self._won.set_exception(error)
        else:
            self._listener.on_broken(error)
