"""Outboxes of one session: to each actor, for the calls of durable actors of this process, and for replies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from actorhub.broker import Link
from actorhub.core.addressing import ActorAddress
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.directory import Directory
from actorhub.messaging.outbox import ActorOutbox, RepeatableCallOutbox

log = logging.getLogger(__name__)

# outboxes of one kind past which idle ones are forgotten
MAX_IDLE_OUTBOXES = 1000
# seconds after which the broker is asked whether a call's queue still exists
QUEUE_CHECK_SECONDS = 5.0


class OutboxRegistry:
    """Outboxes of one session, by destination.

    Args:
        directory: creates the mailbox of a keyed actor's shard on its first call.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn_task: Callable[[Any, str], object],
        directory: Directory,
    ) -> None:
        self._loop = loop
        self._spawn_task = spawn_task
        self._directory = directory
        self._link: Link | None = None
        self._actors: dict[str, ActorOutbox] = {}
        self._replies: dict[str, ActorOutbox] = {}
        self._repeatable_calls: dict[str, ActorOutbox] = {}
        # their mailboxes are being created
        self._held: set[ActorOutbox] = set()

    def attach(self, link: Link) -> None:
        """Go on over this link."""
        self._link = link
        for box in self._all():
            if box not in self._held:
                box.attach(link)

    def detach(self) -> None:
        """Note that the link is lost."""
        self._link = None
        for box in self._all():
            box.detach()

    @property
    def unconfirmed(self) -> bool:
        """True if the broker has not confirmed all that was sent."""
        return any(box.unconfirmed for box in self._all())

    # ---- outboxes

    def to_actor(self, address: ActorAddress) -> ActorOutbox:
        box = self._actors.get(address.queue)
        if box is None:
            box = self._actors[address.queue] = ActorOutbox(
                address.queue, self._loop, numbered=True, limited=address.limited
            )
            self._open(box, address)
        return box

    def for_repeatable_calls(self, address: ActorAddress) -> ActorOutbox:
        """Outbox for calls of this process's durable actors to another one: not numbered, and not sent again over the
        next link, since these actors end with this one."""
        box = self._repeatable_calls.get(address.queue)
        if box is None:
            _forget_idle(self._repeatable_calls)
            box = self._repeatable_calls[address.queue] = RepeatableCallOutbox(
                address.queue, self._loop, limited=address.limited
            )
            self._open(box, address)
        return box

    def for_replies(self, queue: str) -> ActorOutbox:
        box = self._replies.get(queue)
        if box is None:
            _forget_idle(self._replies)
            box = self._replies[queue] = ActorOutbox(queue, self._loop, numbered=False, limited=False)
            if self._link is not None:
                box.attach(self._link)
        return box

    def _all(self) -> Iterator[ActorOutbox]:
        return iter([*self._actors.values(), *self._replies.values(), *self._repeatable_calls.values()])

    def _open(self, box: ActorOutbox, address: ActorAddress) -> None:
        """Create the mailbox of a keyed actor's shard; envelopes to it wait until it exists."""
        if address.key is not None:
            self._held.add(box)
            self._spawn_task(self._open_when_made(box, address), "actorhub-mailbox")
        elif self._link is not None:
            box.attach(self._link)

    async def _open_when_made(self, box: ActorOutbox, address: ActorAddress) -> None:
        try:
            await self._directory.ensure_mailbox(address)
        except ActorHubError as exc:
            log.warning("the mailbox of %s cannot be created: %s", address.class_name, exc)
            self._actors.pop(address.queue, None)
            self._repeatable_calls.pop(address.queue, None)
            box.give_up()
        else:
            if self._link is not None:
                box.attach(self._link)
        finally:
            self._held.discard(box)

    # ---- deleted queues

    async def watch_for_deleted_queues(self) -> None:
        """Ask the broker whether the queues of calls without a reply for long still exist. A queue that is deleted in
        the moment of a publish takes the message along, and the broker confirms it all the same."""
        while True:
            await asyncio.sleep(QUEUE_CHECK_SECONDS)
            link = self._link
            late = [box for box in self._actors.values() if box.waiting_since < self._loop.time() - QUEUE_CHECK_SECONDS]
            for box in late:
                if link is None or link is not self._link:
                    # they are sent again over the next link
                    break
                with contextlib.suppress(BrokerUnavailable):
                    if await link.state(box.queue) is None:
                        box.vanished()


def _forget_idle(boxes: dict[str, ActorOutbox]) -> None:
    if len(boxes) >= MAX_IDLE_OUTBOXES:
        for queue in [queue for queue, box in boxes.items() if box.idle]:
            del boxes[queue]
