"""Ownership of a durable mailbox: one owner's life, from its first delivery until it stops or another owner takes over.

It takes over the journal, publishes again what former owners committed and the broker has not confirmed, and then serves:
requests run on a state that is not committed yet, and `GroupCommitter` commits and acknowledges them. At its end it drops all
that is not acknowledged, and the broker delivers that to the next owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from actorhub.actors.spec import ActorSpec
from actorhub.broker import Delivery, Link
from actorhub.core.addressing import new_id
from actorhub.durable.committer import GroupCommitter, OwnerParts
from actorhub.durable.compaction import Compactor
from actorhub.durable.effects import EffectCollector
from actorhub.durable.inbox import InboxSequencer
from actorhub.durable.interface import HostContext, MailboxConfig, MakeStateHost
from actorhub.durable.journal import Journal
from actorhub.durable.outbox import OutboxPublisher
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import BATCH_BYTES, JournalOwner, read_as_owner
from actorhub.durable.protocol.records import Commit, Record, StateRecord
from actorhub.durable.protocol.takeover import JournalLost
from actorhub.durable.snapshot import check_version
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.request import Request
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

COMMIT_READBACK_TIMEOUT_SECONDS = 15.0
"""In which an appended commit must come back from the journal; otherwise another owner may have taken over."""

DRAIN_TIMEOUT_SECONDS = 2.0
"""In which a stopping owner commits what it has handled."""


class _Phase(Enum):
    TAKING_OVER = "taking over"
    REPLAYING = "replaying"
    SERVING = "serving"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class _Machinery:
    """Parts that exist once the journal has been taken over."""

    owner: JournalOwner[Request]
    committer: GroupCommitter
    inbox: InboxSequencer
    compactor: Compactor


class Ownership:
    """Ownership of a journal by this process, on one link to the broker.

    Args:
        make_state_host: makes the host that runs the requests.
        on_end: called once, with the cause, if the ownership ends by itself.
    """

    def __init__(
        self,
        session: Session,
        link: Link,
        spec: ActorSpec,
        config: MailboxConfig,
        make_state_host: MakeStateHost,
        *,
        on_end: Callable[[Exception], None],
    ) -> None:
        self._session = session
        self._link = link
        self._spec = spec
        self._config = config
        self._on_end = on_end
        self._me = f"{config.name}-{new_id(8)}"
        self._journal = Journal(session, link, config.journal, self._me, new_id(), self, in_parts=config.in_parts)
        self._host = make_state_host(HostContext(link, self._load_states, self._fail, self._may_start))
        self._publisher = OutboxPublisher(session, link, config.name, config.dead_letters)
        self._machinery: _Machinery | None = None
        self._phase = _Phase.TAKING_OVER
        self._is_stopping = False
        self._early: list[Delivery] = []  # those that came before it serves
        self._startup: asyncio.Task[None] | None = None
        self._compaction: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    # ---- start, replay, serve

    def start(self) -> None:
        """Begin to take over; deliveries may come at once."""
        self._startup = self._session.spawn_task(self._start(), f"actorhub-ownership-{self._config.name}")

    async def _start(self) -> None:
        try:
            machinery = await self._take_over()
            if self._phase is not _Phase.OVER:
                await self._replay(machinery.owner)
        except (ActorHubError, OSError) as exc:
            self._fail(exc)
            return
        if self._phase is not _Phase.OVER:
            self._serve(machinery)

    async def _take_over(self) -> _Machinery:
        """Read the journal, write the epoch and read it back, then create the instance."""
        if self._config.journal_to_declare is not None:
            await self._link.declare(self._config.journal_to_declare)
        state = await self._journal.open()
        retention = self._session.settings.journal_retention
        owner = JournalOwner[Request](
            self._config.name,
            self._me,
            state,
            checkpoint_bytes=retention // 8,
            room=retention // 2,
            batch_bytes=min(BATCH_BYTES, retention // 32, self._link.max_message // 16),
        )
        await self._host.start()
        machinery = self._machinery = self._assemble(owner)
        return machinery

    def _assemble(self, owner: JournalOwner[Request]) -> _Machinery:
        config, session = self._config, self._session
        effects = EffectCollector(
            session, self._link, self._spec, owner, inbox=config.inbox, dead_letters=config.dead_letters
        )
        parts = OwnerParts(session, owner, self._host, effects, self._publisher)
        committer = GroupCommitter(parts, self._journal, on_settled=self._take_repeated)
        inbox = InboxSequencer(parts, committer, config)
        compactor = Compactor(
            config.name,
            owner,
            self._journal,
            retention=session.settings.journal_retention,
            commit_if_due=committer.commit_if_due,
        )
        return _Machinery(owner, committer, inbox, compactor)

    async def _replay(self, owner: JournalOwner[Request]) -> None:
        """Publish again what former owners have committed and the broker has not confirmed."""
        self._phase = _Phase.REPLAYING
        for seq, entries in owner.inherited:
            await self._publisher.release(entries)
            owner.confirmed(seq)

    def _serve(self, machinery: _Machinery) -> None:
        self._phase = _Phase.SERVING
        log.info("%s: this worker owns the journal now (epoch %d)", self._config.name, machinery.owner.epoch)
        early, self._early = self._early, []
        for delivery in early:
            machinery.inbox.accept(delivery)
        self._watch_readback(machinery.owner)
        self._compact_if_due()

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a message of the inbox. It is handled once this owner serves; a stopping one leaves it to the next."""
        if self._phase is _Phase.OVER or self._is_stopping:
            return
        if self._phase is _Phase.SERVING and self._machinery is not None:
            self._machinery.inbox.accept(delivery)
        else:
            self._early.append(delivery)

    def _take_repeated(self) -> None:
        if self._machinery is not None:
            self._machinery.inbox.take_repeated()

    # ---- stop

    async def stop(self, timeout: float) -> None:
        """Let what runs end, for `timeout` seconds, and commit it; then close."""
        self._is_stopping = True
        await self._host.stop(timeout)
        if self._machinery is not None:
            await self._machinery.committer.drain(DRAIN_TIMEOUT_SECONDS)
        await self.close()

    def abandon(self) -> None:
        """Publish nothing and acknowledge nothing from this moment on. `close` has to follow."""
        self._phase = _Phase.OVER
        self._journal.abandon()
        if self._machinery is not None:
            self._machinery.inbox.close()
            self._machinery.committer.close()
        if self._compaction is not None:
            self._compaction.cancel()
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def close(self) -> None:
        """Drop all that is not acknowledged."""
        self.abandon()
        if self._startup is not None:
            self._startup.cancel()
        await self._host.stop(0.0)
        await self._journal.close()

    def _fail(self, error: Exception) -> None:
        if self._phase is not _Phase.OVER:
            self.abandon()
            self._on_end(error)

    def _watch_readback(self, owner: JournalOwner[Request]) -> None:
        """End the ownership if a commit does not come back: another owner may have taken over."""
        oldest, timeout = owner.waiting_since, COMMIT_READBACK_TIMEOUT_SECONDS
        if oldest is not None and time.time() - oldest > timeout:
            self._fail(
                BrokerUnavailable(
                    f"a commit of {self._config.name} did not come back from its journal in {timeout:.0f} s"
                )
            )
        else:
            self._watchdog = self._session.loop.call_later(timeout / 4, self._watch_readback, owner)

    # ---- the host of the state

    @property
    def is_first(self) -> bool:
        """True if the journal has no commit yet."""
        return self._journal.state.last_seq == 0

    def _may_start(self) -> bool:
        """False while the next commit has no room for what a request would do."""
        return self._machinery is None or self._machinery.owner.may_handle

    async def _load_states(self, key: str) -> Sequence[StateRecord]:
        state = self._journal.state
        if not key:
            return state.take_parts() if self._config.in_parts else list(state.states)
        position = state.positions.get(key)
        if position is None:
            return []
        try:
            commit = await self._journal.read(position.offset)
        except JournalLost:
            if state.positions.get(key) == position:
                raise
            return await self._load_states(key)  # it has been rewritten meanwhile
        return [record for record in commit.states if record.key == key]

    # ---- the journal

    def on_caught_up(self, state: JournalState) -> None:
        """Raises:
        StateTooNew: this process has an older version of the class, so it must not take over.
        """
        check_version(self._spec, state.state_version)

    def find_appended(self, key: str) -> Commit | None:
        return self._machinery.owner.find_appended(key) if self._machinery is not None else None

    def on_broken(self, error: Exception) -> None:
        self._fail(error)

    def on_record(self, offset: int, record: Record | None, size: int) -> None:
        if self._machinery is not None:
            if self._machinery.committer.on_record(offset, record, size):
                self._compact_if_due()
            return
        # the instance is being created: this owner has appended nothing yet
        read_as_owner(self._me, self._journal.state, offset, record, size)

    def _compact_if_due(self) -> None:
        """Also before the first commit: a former owner may have left no room for one."""
        if self._compaction is None and self._machinery is not None and self._machinery.compactor.is_due:
            compaction = self._compact(self._machinery.compactor)
            self._compaction = self._session.spawn_task(compaction, f"actorhub-compact-{self._config.name}")

    async def _compact(self, compactor: Compactor) -> None:
        try:
            await compactor.run()
        except ActorHubError as exc:
            self._fail(exc)
        finally:
            self._compaction = None
