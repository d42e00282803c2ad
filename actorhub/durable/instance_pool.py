"""What lives behind a durable mailbox (`StateHost`), and the usual of it: one instance, or of a keyed class those that have
been called lately.

An instance is made when its first message comes, from what the journal says of it; it goes when nobody has called it for a
while, or when there are too many of them, and nothing is lost by that: all that it was is in the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actorhub.actors.cell import ActorCell
from actorhub.actors.spec import ActorSpec
from actorhub.broker import Link
from actorhub.durable.protocol.records import RECORD_SHARE, StateRecord
from actorhub.durable.protocol.takeover import JournalLost
from actorhub.durable.snapshot import StateSnapshots
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.request import Request
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

LARGEST = 16  # a state has no more than this part of the journal
MOST = 1000  # instances of a keyed class in one mailbox
SWEEP = 1.0  # seconds between looks for those that nobody calls


class StateHost(Protocol):
    """Handles what comes, and says what has become of its state. See `InstancePool` for what each method does."""

    async def begin(self) -> None: ...
    async def stop(self, patience: float) -> None: ...
    def offer(self, work: Request) -> None: ...
    def cancel(self, call_id: str) -> None: ...
    def posted(self, work: Request) -> None: ...
    def keep(self, work: Request) -> int: ...
    def put_back(self, work: Request) -> None: ...
    def changes(self, *, whole: bool) -> list[StateRecord]: ...
    def go_on(self) -> None: ...


Load = Callable[[str], Awaitable[Sequence[StateRecord]]]
"""Brings what the journal says of an instance."""


@dataclass(eq=False)
class PooledInstance:
    """`states`: what the journal said of it when it came. `in_hand` are its messages, from their coming until what
    followed from them is confirmed."""

    key: str
    cell: ActorCell
    snapshots: StateSnapshots
    states: list[StateRecord]
    called: float
    in_hand: set[Request] = field(default_factory=set)


class InstancePool:
    """`make_cell` makes the cell of a key around what creates its instance, `create` the first instance of a key, and `load`
    brings the journal's states of it. `on_broken`: the journal cannot be read. `may_begin` is asked before each message; after
    a False, `go_on` has to follow."""

    def __init__(
        self,
        session: Session,
        spec: ActorSpec,
        make_cell: Callable[[str, Callable[[], Any]], ActorCell],
        create: Callable[[str], Any],
        link: Link,
        load: Load,
        on_broken: Callable[[Exception], None],
        may_begin: Callable[[], bool],
    ) -> None:
        self._session = session
        self._spec = spec
        self._limit = min(link.max_message // RECORD_SHARE, session.settings.journal_retention // LARGEST)
        self._make_cell = make_cell
        self._create = create
        self._load = load
        self._on_broken = on_broken
        self._may_begin = may_begin
        self._living: OrderedDict[str, PooledInstance] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopped = False
        self._changed: dict[str, None] = {}  # keys of instances that have handled something since the last commit
        self._idle_for = session.settings.passivate_after

    async def begin(self) -> None:
        """Where there is one instance only, it is there from the beginning.

        Raises:
            ActorInitFailed: its constructor, or `started`, raised, or its state cannot be read here.
        """
        if self._spec.options.shards is None:
            await self._start(self._new(""))

    def offer(self, work: Request) -> None:
        """To its instance, which is made where there is none; to nobody after `stop`."""
        if self._stopped:
            return
        key = work.envelope.key or ""
        resident = self._living.get(key)
        if resident is None:
            resident = self._new(key)
            self._session.spawn_task(self._start_or_fail(resident), f"actorhub-start-{key}")
            self._make_room()
        else:
            self._living.move_to_end(key)
        resident.called = self._session.loop.time()
        resident.in_hand.add(work)
        resident.cell.offer(work)

    def go_on(self) -> None:
        for resident in self._living.values():
            resident.cell.go_on()

    def cancel(self, call_id: str) -> None:
        for resident in self._living.values():
            if resident.in_hand:
                resident.cell.cancel(call_id)

    def posted(self, work: Request) -> None:
        """What followed from it is confirmed. It need not have been offered: not every message is an instance's."""
        resident = self._living.get(work.envelope.key or "")
        if resident is not None:
            resident.in_hand.discard(work)

    async def stop(self, patience: float) -> None:
        """Let what runs end, for `patience` seconds. The states are still there: what was handled may wait for its commit."""
        if self._stopped:
            return
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(*(resident.cell.stop(patience) for resident in self._living.values()), *self._leaving)

    # ---- what is kept of them

    def keep(self, work: Request) -> int:
        """It has been handled. Returns how many bytes of state the next commit has for that.

        Raises:
            NotSerialisable, UntrustedPayload, PayloadTooLarge: the state cannot be kept as it is.
        """
        key = work.envelope.key or ""
        snapshots = self._living[key].snapshots
        snapshots.keep()
        size = snapshots.size if key not in self._changed else 0
        self._changed[key] = None
        return size

    def put_back(self, work: Request) -> None:
        """It failed: its instance becomes what it was before. Where another is being handled, this one had not begun, and
        what that one has done stays."""
        resident = self._living.get(work.envelope.key or "")
        if resident is not None and not resident.cell.handling:
            resident.snapshots.put_back()

    def changes(self, *, whole: bool) -> list[StateRecord]:
        """What the next commit has of them. `whole`: of a single instance all of its state, even if it did not change."""
        changed, self._changed = self._changed, {}
        if whole and self._spec.options.shards is None:
            changed[""] = None
        residents = {key: resident for key in changed if (resident := self._living.get(key)) is not None}
        states = (resident.snapshots.state(key, whole=whole) for key, resident in residents.items())
        return [state for state in states if state is not None]

    # ---- coming

    def _new(self, key: str) -> PooledInstance:
        snapshots = StateSnapshots(self._spec, self._session.signer, self._limit)
        states: list[StateRecord] = []

        def create() -> Any:
            return snapshots.create(states, lambda: self._create(key))

        cell = self._make_cell(key, create)
        cell.may_begin = self._may_begin
        resident = self._living[key] = PooledInstance(key, cell, snapshots, states, self._session.loop.time())
        if self._sweeping is None and key:
            self._sweeping = self._session.loop.call_later(SWEEP, self._sweep)
        return resident

    async def _start(self, resident: PooledInstance) -> None:
        resident.states.extend(await self._load(resident.key))
        await resident.cell.start()
        try:
            resident.snapshots.keep()
        except ActorHubError:
            log.exception("%s cannot keep its state, and every message to it will fail", resident.cell.actor_id)

    async def _start_or_fail(self, resident: PooledInstance) -> None:
        try:
            await self._start(resident)
        except (BrokerUnavailable, JournalLost) as exc:
            self._on_broken(exc)
        except ActorHubError as exc:
            if self._living.get(resident.key) is resident:
                del self._living[resident.key]
            resident.cell.fail_all(exc)

    # ---- going

    def _make_room(self) -> None:
        over = len(self._living) - MOST
        for resident in list(self._living.values()) if over > 0 else ():
            if over <= 0:
                return
            over -= self._passivate(resident)

    def _sweep(self) -> None:
        self._sweeping = self._session.loop.call_later(SWEEP, self._sweep) if self._living else None
        since = self._session.loop.time() - self._idle_for
        for resident in list(self._living.values()):
            if resident.called > since:
                return
            self._passivate(resident)

    def _passivate(self, resident: PooledInstance) -> bool:
        if resident.in_hand or not resident.key:
            return False
        del self._living[resident.key]
        leaving = self._session.spawn_task(resident.cell.stop(1.0), f"actorhub-passivate-{resident.key}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return True
