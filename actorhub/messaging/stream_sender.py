"""Sending end of a stream: a generator's items, never further ahead of the reader than its credit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from actorhub.messaging.session import Session
from actorhub.wire.envelope import Envelope, EnvelopeDraft, Kind
from actorhub.wire.method_signature import Signature

_END = object()


class StreamSender:
    """Sender of a stream's items. They are persistent messages, so that a restart of the broker loses none."""

    def __init__(self, session: Session, call: Envelope, method: Signature) -> None:
        self._session = session
        self._call = call
        self._method = method
        self._credit = call.index
        self._sent = 0
        self._more = asyncio.Event()

    async def send_all(self, generator: AsyncIterator[Any] | Iterator[Any]) -> int:
        """Send items until the generator ends or raises, or the running task is cancelled; the generator is closed in
        each case. Returns the number of items."""
        self._session.credit_handlers[self._call.id] = self._grant
        items = generator if isinstance(generator, AsyncIterator) else _threaded(generator)
        try:
            async for item in items:
                while self._sent >= self._credit:
                    self._more.clear()
                    await self._more.wait()
                self._send(item)
        finally:
            self._session.credit_handlers.pop(self._call.id, None)
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
        return self._sent

    def _grant(self, index: int) -> None:
        if index > self._credit:
            self._credit = index
            self._more.set()

    def _send(self, item: Any) -> None:
        payload, codec = self._method.pack_result(item, self._session.signer)
        self._session.sender.check_size(payload)
        draft: EnvelopeDraft = {
            "kind": Kind.ITEM,
            "call": self._call.id,
            "codec": codec,
            "index": self._sent,
            "reply_to": self._session.reply_queue,
        }
        self._sent += 1
        self._session.sender.respond(self._call.reply_to, draft, payload, lambda outcome: None, persistent=True)


async def _threaded(generator: Iterator[Any]) -> AsyncIterator[Any]:
    """Run each step of a plain generator in a thread. If it is left in the middle of a step, it is closed when the step
    ends."""
    close = getattr(generator, "close", lambda: None)
    step: asyncio.Task[Any] | None = None
    try:
        while True:
            step = asyncio.create_task(asyncio.to_thread(next, generator, _END))
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item
    finally:
        if step is None or step.done():
            await asyncio.to_thread(close)
        else:
            loop = asyncio.get_running_loop()
            step.add_done_callback(lambda step: step.exception() or loop.run_in_executor(None, close))
