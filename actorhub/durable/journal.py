"""The journal of a durable mailbox over one link: read to its end and taken over by a new owner, then appended to and read
on."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import Protocol

from actorhub.broker import Consumer, Delivery, Link, Message, Outcome
from actorhub.core.futures import resolver_of
from actorhub.durable.protocol import records
from actorhub.durable.protocol.deduplication import KEPT_REPLY_BYTES
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.records import RECORD_SHARE, Commit, InvalidRecord, Record
from actorhub.durable.protocol.takeover import Append, JournalLost, ReadFrom, Takeover
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/x-actorhub-record"

PREFETCH_RECORDS = 200
READ_TIMEOUT_SECONDS = 3.0
"""In which the broker brings one record that is read again."""

READ_ATTEMPTS = 5

RECORD_OVERHEAD_BYTES = 256
"""What the broker adds to a record, at most."""


class JournalListener(Protocol):
    """The owner of a journal. What its methods raise ends the ownership."""

    def on_caught_up(self, state: JournalState) -> None:
        """All that was in the journal has been read, and nothing has been written yet."""

    def find_appended(self, key: str) -> Commit | None:
        """The commit with this key, if it was appended here and is read back now: so it need not be decoded."""

    def on_record(self, offset: int, record: Record | None, size: int) -> None:
        """The next record, once the journal is taken over. None stands for a message that is not a record."""

    def on_broken(self, error: Exception) -> None:
        """The journal cannot be read or written any more."""


class Journal:
    """Reads and appends for one owner.

    Args:
        me: name of the owner, unique.
        marker_id: unique among all read markers.
        in_parts: the actor's state consists of parts.
    """

    def __init__(
        self,
        session: Session,
        link: Link,
        queue: str,
        me: str,
        marker_id: str,
        listener: JournalListener,
        *,
        in_parts: bool,
    ) -> None:
        self._session = session
        self._link = link
        self._queue = queue
        self._listener = listener
        reply_bytes = min(KEPT_REPLY_BYTES, link.max_message // RECORD_SHARE, session.settings.journal_retention // 8)
        state = JournalState(max_reply_bytes=reply_bytes, in_parts=in_parts)
        self._takeover = Takeover(me, marker_id, state)
        self._reader: Consumer | None = None
        self._reading = 0
        """Number of the current reading; records of earlier ones are ignored."""

        self._arrived: deque[tuple[int, Record | None, int]] = deque()
        """Offsets, records and sizes, not handed on yet."""

        self._hole_check: asyncio.Task[None] | None = None
        self._checked_hole = -1
        """The offset behind the last hole that was checked."""

        self._taken_over: asyncio.Future[None] = session.loop.create_future()
        self._closed = False

    @property
    def state(self) -> JournalState:
        """State of the journal, as far as it has been read."""
        return self._takeover.journal_state

    async def open(self) -> JournalState:
        """Take over the journal. Returns what has been read up to the owner's epoch.

        Raises:
            OwnershipContested, JournalLost, BrokerUnavailable, and what the listener raises.
        """
        for step in self._takeover.start():
            await self._carry_out(step)
        await self._taken_over
        return self.state

    def abandon(self) -> None:
        """Pass nothing more to the listener."""
        self._closed = True
        if not self._taken_over.done():
            self._taken_over.cancel()

    async def close(self) -> None:
        self.abandon()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    # ---- appending

    def append(self, record: Record) -> int:
        """Append a record, without waiting for the broker. Returns its size in bytes."""
        body = records.encode(record)
        key = record.key if isinstance(record, Commit) else None
        self._link.publish(self._queue, Message(body, CONTENT_TYPE, message_id=key, type=record.kind), self._on_outcome)
        return len(body) + RECORD_OVERHEAD_BYTES

    def _on_outcome(self, outcome: Outcome) -> None:
        """A record that is lost with the link ends the ownership without this."""
        if outcome is not Outcome.STORED and outcome is not Outcome.LOST:
            self._break(BrokerUnavailable(f"{self._queue} does not take a record: {outcome.value}"))

    # ---- reading one record again

    async def read(self, offset: int) -> Commit:
        """Read a commit that was read before.

        Raises:
            JournalLost: the journal does not have it any more.
            BrokerUnavailable: the link was lost.
        """
        found_at, body = await self._read_one(offset)
        record = records.decode(body) if found_at == offset else None
        if not isinstance(record, Commit):
            raise JournalLost(f"{self._queue} has no commit at {offset} any more; give journals more room")
        return record

    async def _read_one(self, offset: int | str) -> tuple[int, bytes]:
        """The first message from an offset on, and where it is. Repeated if the broker does not respond."""
        for _ in range(READ_ATTEMPTS):
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                    return await self._try_to_read_one(offset)
            log.warning("%s was not read from %s in %.0f s; trying again", self._queue, offset, READ_TIMEOUT_SECONDS)
        raise BrokerUnavailable(f"{self._queue} cannot be read from {offset}: the broker does not respond")

    async def _try_to_read_one(self, offset: int | str) -> tuple[int, bytes]:
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
            result = await found
        finally:
            await consumer.close()
        if isinstance(result, BrokerUnavailable):
            raise result
        return result

    # ---- reading all of it

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
            prefetch=PREFETCH_RECORDS,
            offset=step.offset,
        )

    async def _read_from(self, step: ReadFrom) -> None:
        try:
            await self._carry_out(step)
        except ActorHubError as exc:
            self._break(exc)

    def _on_delivery(self, delivery: Delivery, reading: int) -> None:
        delivery.ack()
        if self._closed or reading != self._reading:
            return
        message, offset = delivery.message, delivery.offset or 0
        record: Record | None = self._listener.find_appended(message.message_id) if message.message_id else None
        try:
            if record is None:
                record = records.decode(message.body)
        except InvalidRecord as exc:
            log.warning("a message in %s at offset %d is skipped: %s", self._queue, offset, exc)
        self._arrived.append((offset, record, len(message.body) + RECORD_OVERHEAD_BYTES))
        self._hand_on()

    def _hand_on(self) -> None:
        """Pass on what has arrived, in order, up to a hole in the offsets that is not checked yet."""
        while self._arrived and not self._closed and self._hole_check is None:
            offset, record, size = self._arrived[0]
            if self._takeover.is_done and self.state.next_offset < offset != self._checked_hole:
                self._hole_check = self._session.spawn_task(self._check_hole(offset, self._reading), "actorhub-hole")
                return
            self._arrived.popleft()
            try:
                if self._takeover.is_done:
                    self._listener.on_record(offset, record, size)
                else:
                    self._on_former_record(offset, record, size)
            except ActorHubError as exc:
                self._break(exc)

    async def _check_hole(self, offset: int, reading: int) -> None:
        """RabbitMQ takes an offset for itself in each segment. As long as records before the hole are there, nothing is
        lost."""
        try:
            first, _ = await self._read_one("first")
        except ActorHubError as exc:
            self._break(exc)
            return
        if reading == self._reading and first < self.state.next_offset:
            self.state.next_offset = offset
        self._hole_check, self._checked_hole = None, offset
        self._hand_on()

    def _on_former_record(self, offset: int, record: Record | None, size: int) -> None:
        had_caught_up = self._takeover.has_caught_up
        steps = self._takeover.read(offset, record, size)
        if self._takeover.has_caught_up and not had_caught_up:
            self._listener.on_caught_up(self.state)
        for step in steps:
            if isinstance(step, Append):
                self.append(step.record)
            else:
                # at once, so that what the former reading still brings is ignored
                self._reading += 1
                self._arrived.clear()
                self._session.spawn_task(self._read_from(step), "actorhub-journal")
        if self._takeover.is_done and not self._taken_over.done():
            self._taken_over.set_result(None)

    def _break(self, error: Exception) -> None:
        if self._closed:
            return
        if not self._taken_over.done():
            self._taken_over.set_exception(error)
        else:
            self._listener.on_broken(error)
