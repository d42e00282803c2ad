"""Group commit of a durable mailbox: when and what to commit, and what follows once a commit has been read back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from actorhub.durable.effects import EffectCollector
from actorhub.durable.interface import StateHost
from actorhub.durable.journal import Journal
from actorhub.durable.outbox import OutboxPublisher
from actorhub.durable.protocol.owner import JournalOwner, NextStep
from actorhub.durable.protocol.records import Commit, OutboxEntry, Record
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session

DRAIN_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class OwnerParts:
    """Parts of one ownership that its inbox and its committer share."""

    session: Session
    owner: JournalOwner[Request]
    host: StateHost
    effects: EffectCollector
    publisher: OutboxPublisher


class GroupCommitter:
    """Commits handled requests in groups, and acknowledges them once the effects of their commit are confirmed.

    While commits wait to be read back, the next requests run on a state that is not committed yet, and gather for one commit.

    Args:
        on_settled: called after each commit whose requests have been acknowledged.
    """

    def __init__(self, parts: OwnerParts, journal: Journal, *, on_settled: Callable[[], None]) -> None:
        self._session = parts.session
        self._owner = parts.owner
        self._host = parts.host
        self._effects = parts.effects
        self._publisher = parts.publisher
        self._journal = journal
        self._on_settled = on_settled
        self._ack_lag = parts.session.settings.ack_lag
        self._closed_unjournaled: deque[list[OutboxEntry]] = deque()
        """For each closed batch, replies that leave with its commit and are not part of it."""
        self._unjournaled: dict[int, list[OutboxEntry]] = {}
        """The same, by the number of a commit that waits to be read back."""
        self._is_scheduled = False
        self._is_closed = False

    def close(self) -> None:
        """Commit nothing, publish nothing and acknowledge nothing from now on."""
        self._is_closed = True

    # ---- handled requests

    def finish(self, request: Request, reply: Reply) -> None:
        """Keep what a request has done. Its method has ended in this moment: nothing else has touched the instance since."""
        if self._is_closed:
            return
        size = 0
        if reply.failure is None:
            try:
                size = self._effects.check_size(request, reply) + self._host.capture(request)
            except ActorHubError as exc:
                reply = Reply.failed(request.envelope.id, exc, self._session.signer, "invalid")
        if reply.failure is None:
            self._effects.add_tells(request)
        else:
            self._host.restore(request)
        timer = request.envelope.timer
        if timer is not None and (stored := self._owner.timers.get(timer.id)) is not None:
            self._effects.set_next_timer(stored)
        size += self._effects.add_reply(request, reply)
        self.handled(request, request.envelope.method, size)

    def handled(self, request: Request, method: str = "", size: int = 0) -> None:
        """Note a request for the next commit. `size`: the bytes of its effects, about."""
        self._owner.handled(*request.origin, request, method, size)
        if self._owner.is_full:
            self._close_full_batch()
        if not self._is_scheduled:
            self._is_scheduled = True
            self._session.loop.call_soon(self.commit_if_due)

    # ---- committing

    def commit_if_due(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        owner = self._owner
        was_paused = not owner.may_handle
        while (step := owner.next_step()).commits:
            if not owner.has_closed_batch:
                self._close_batch(whole=step is NextStep.COMMIT_WITH_CHECKPOINT)
            commit, unjournaled = owner.seal(time=time.time()), self._closed_unjournaled.popleft()
            if unjournaled:
                self._unjournaled[commit.seq] = unjournaled
            self._append(commit)
        if was_paused and owner.may_handle:
            self._host.resume()

    def _close_full_batch(self) -> None:
        """At once: of many requests that run, the next to end would make the batch too large for a record."""
        if self._owner.next_step().commits:
            self.commit_if_due()
        else:
            self._close_batch(whole=True)

    def _close_batch(self, *, whole: bool) -> None:
        """Make one commit of all that has been handled up to now."""
        journaled, unjournaled = self._effects.take()
        self._owner.close_batch(self._host.take_changes(whole=whole), journaled)
        self._closed_unjournaled.append(unjournaled)

    def _append(self, commit: Commit) -> None:
        self._owner.record_size(commit, self._journal.append(commit))

    async def drain(self, timeout: float) -> None:
        """Commit all that has been handled, within `timeout` seconds, and write down what is confirmed, so that the next owner
        publishes nothing again."""
        until = self._session.loop.time() + timeout
        while not self._is_closed and self._session.loop.time() < until:
            self.commit_if_due()
            if self._owner.settled:
                if not self._owner.journal_state.unconfirmed_outboxes:
                    return
                self._append(self._owner.seal_confirmation(time=time.time()))
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    # ---- after the commit

    def on_record(self, offset: int, record: Record | None, size: int) -> bool:
        """Read the journal's next record. True if it is a commit of this owner, which counts.

        Raises:
            OwnershipLost: another owner has taken over, or may have.
        """
        commit = self._owner.read(offset, record, size)
        if commit is None:
            return False
        released = [*commit.outbox, *self._unjournaled.pop(commit.seq, ())]
        if released:
            self._session.spawn_task(self._release(commit, released), "actorhub-release")
        else:
            self._settle(commit)
        self.commit_if_due()
        return True

    async def _release(self, commit: Commit, released: Sequence[OutboxEntry]) -> None:
        with suppress(BrokerUnavailable):
            await self._publisher.release(released)
            self._settle(commit)

    def _settle(self, commit: Commit) -> None:
        """All effects of the commit are confirmed."""
        if self._is_closed:
            return
        requests = self._owner.confirmed(commit.seq)
        if self._ack_lag:
            self._session.loop.call_later(self._ack_lag, self._acknowledge, requests)
        else:
            self._acknowledge(requests)
        self._on_settled()
        self.commit_if_due()

    def _acknowledge(self, requests: list[Request]) -> None:
        if self._is_closed:
            return
        for request in requests:
            self._host.settled(request)
            request.done()
