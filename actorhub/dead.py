"""What could not be processed, kept with the reason in a stream that is read without destroying it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from actorhub.broker import Message, Outcome, Queue, QueueKind
from actorhub.errors import BrokerUnavailable
from actorhub.futures import once
from actorhub.session import Session

log = logging.getLogger(__name__)

RETENTION = 1024**3  # bytes of dead letters that a namespace keeps; the oldest go first

Reason = Literal["malformed", "invalid", "exception", "poison", "expired", "actor died"]


class DeadLetter(BaseModel):
    """One message that nobody could process. `body` is the original message's, or one envelope of its batch."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    reason: Reason
    queue: str
    actor: str = ""
    method: str = ""
    call: str = ""
    error: str = ""
    body: bytes = b""
    content_type: str | None = None
    time: float = Field(default_factory=time.time, description="Unix time in seconds")


class DeadLetters:
    """One namespace's dead letters. `keep` returns when the broker has the letter; it waits as long as that takes."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._declaring = asyncio.Lock()
        self.queue = session.names.dead(namespace)

    async def declare(self) -> None:
        """Make the stream. Control does so for each namespace: RabbitMQ 3.10 closes the connections of those who declare
        one stream at the same moment.

        Raises:
            BrokerUnavailable: the connection was lost.
        """
        link = await self._session.live_link()
        await link.declare(Queue(self.queue, QueueKind.STREAM, retention=RETENTION))

    async def keep(self, letter: DeadLetter) -> None:
        body = letter.model_dump_json().encode()
        while True:
            try:
                outcome = await self._publish(Message(body, "application/json", type=letter.reason))
                if outcome is Outcome.STORED:
                    return
                if outcome is Outcome.UNROUTABLE:
                    async with self._declaring:
                        await self.declare()
                    continue
            except BrokerUnavailable:
                log.debug("a dead letter waits for the broker", exc_info=True)
            await asyncio.sleep(0.1)

    async def _publish(self, message: Message) -> Outcome:
        link = await self._session.live_link()
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        link.publish(self.queue, message, once(settled))
        return await settled

    async def read(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest letters, which stay where they are."""
        messages = await self._session.broker.peek(self.queue, limit=limit)
        return [DeadLetter.model_validate_json(message.body) for _, message in messages]
