"""In-memory instances behind a durable mailbox: created on the first message, passivated when idle or too many.

An actor class without keys has one instance, which exists as long as its owner. Of a keyed class, an instance is created from
its state in the journal when a message comes for it. Passivating it loses nothing: all of its state is in the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actorhub.actors.cell import ActorCell
from actorhub.actors.spec import ActorSpec
from actorhub.durable.interface import HostContext, max_state_bytes
from actorhub.durable.protocol.records import StateRecord
from actorhub.durable.protocol.takeover import JournalLost
from actorhub.durable.snapshot import StateSnapshots
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.request import Request
from actorhub.messaging.session import Session

log = logging.getLogger(__name__)

MAX_INSTANCES = 1000
"""Instances of a keyed class in one mailbox; the one idle for longest goes first."""

IDLE_CHECK_SECONDS = 1.0
"""Between two searches for idle instances."""

PASSIVATE_TIMEOUT_SECONDS = 1.0
"""In which an instance that goes must have ended its `stopping`."""


@dataclass(eq=False)
class PooledInstance:
    """Instance in memory, running or being created."""

    key: str
    """Empty if its class is not keyed."""

    cell: ActorCell
    snapshots: StateSnapshots

    states: list[StateRecord]
    """Its state in the journal when it was created."""

    called_at: float
    """Time of its last message, by the event loop's clock."""

    unsettled: set[Request] = field(default_factory=set)
    """Its requests whose effects are not confirmed yet."""


class InstancePool:
    """The `StateHost` of an actor class.

    Args:
        make_cell: makes the cell of a key, given what creates its instance.
        create: creates the first instance of a key, which has no state in the journal yet.
    """

    def __init__(
        self,
        session: Session,
        spec: ActorSpec,
        make_cell: Callable[[str, Callable[[], Any]], ActorCell],
        create: Callable[[str], Any],
        context: HostContext,
    ) -> None:
        self._session = session
        self._spec = spec
        self._make_cell = make_cell
        self._create = create
        self._context = context
        self._max_state_bytes = max_state_bytes(context.link, session.settings.journal_retention)
        self._idle_after = session.settings.passivate_after
        self._instances: OrderedDict[str, PooledInstance] = OrderedDict()  # the one idle for longest first
        self._changed: dict[str, None] = {}  # keys that have handled a request since the last commit
        self._passivating: set[asyncio.Task[None]] = set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    async def start(self) -> None:
        """Create the instance of a class without keys.

        Raises:
            ActorInitFailed: its constructor or `started` raised, or its state cannot be read here.
        """
        if self._spec.options.shards is None:
            await self._start(self._add(""))

    async def stop(self, timeout: float) -> None:
        """Let what runs end, for `timeout` seconds. States stay: what has been handled may wait for its commit."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        stopping = (instance.cell.stop(timeout) for instance in self._instances.values())
        await asyncio.gather(*stopping, *self._passivating)

    # ---- requests

    def accept(self, request: Request) -> None:
        """Pass a request to its instance, which is created if need be. Ignored after `stop`."""
        if self._is_stopped:
            return
        key = request.envelope.key or ""
        instance = self._instances.get(key)
        if instance is None:
            instance = self._add(key)
            self._session.spawn_task(self._start_or_fail(instance), f"actorhub-start-{key}")
            self._passivate_surplus()
        else:
            self._instances.move_to_end(key)
        instance.called_at = self._session.loop.time()
        instance.unsettled.add(request)
        instance.cell.accept(request)

    def resume(self) -> None:
        """Start requests again, after `may_start` has been False."""
        for instance in self._instances.values():
            instance.cell.resume()

    def cancel(self, call_id: str) -> None:
        """Cancel a call, whichever instance has it."""
        for instance in self._instances.values():
            if instance.unsettled:
                instance.cell.cancel(call_id)

    def settled(self, request: Request) -> None:
        """All effects of the request are confirmed."""
        instance = self._instances.get(request.envelope.key or "")
        if instance is not None:
            instance.unsettled.discard(request)

    # ---- states

    def capture(self, request: Request) -> int:
        """Keep the state that the request has left; returns by how many bytes the next commit grows.

        Raises:
            NotSerialisable, UntrustedPayload, PayloadTooLarge: the state cannot be kept as it is.
        """
        key = request.envelope.key or ""
        snapshots = self._instances[key].snapshots
        snapshots.capture()
        size = snapshots.size if key not in self._changed else 0
        self._changed[key] = None
        return size

    def restore(self, request: Request) -> None:
        """Give the instance the state again that it had before the request. If the instance handles another one by now, the
        request had not started, and the state stays."""
        instance = self._instances.get(request.envelope.key or "")
        if instance is not None and not instance.cell.handling:
            instance.snapshots.restore()

    def take_changes(self, *, whole: bool) -> list[StateRecord]:
        """The states for the next commit. `whole`: of a class without keys the whole state, even if it has not changed."""
        changed, self._changed = self._changed, {}
        if whole and self._spec.options.shards is None:
            changed[""] = None
        instances = {key: instance for key in changed if (instance := self._instances.get(key)) is not None}
        records = (instance.snapshots.take_changes(key, whole=whole) for key, instance in instances.items())
        return [record for record in records if record is not None]

    # ---- creation

    def _add(self, key: str) -> PooledInstance:
        snapshots = StateSnapshots(self._spec, self._session.signer, self._max_state_bytes)
        states: list[StateRecord] = []

        def create() -> Any:
            return snapshots.create(states, lambda: self._create(key))

        cell = self._make_cell(key, create)
        cell.may_start = self._context.may_start
        instance = self._instances[key] = PooledInstance(key, cell, snapshots, states, self._session.loop.time())
        if self._idle_timer is None and key:
            self._idle_timer = self._session.loop.call_later(IDLE_CHECK_SECONDS, self._passivate_idle)
        return instance

    async def _start(self, instance: PooledInstance) -> None:
        instance.states.extend(await self._context.load_states(instance.key))
        await instance.cell.start()
        try:
            instance.snapshots.capture()
        except ActorHubError:
            log.exception("the state of %s cannot be kept, and every message to it will fail", instance.cell.actor_id)

    async def _start_or_fail(self, instance: PooledInstance) -> None:
        try:
            await self._start(instance)
        except (BrokerUnavailable, JournalLost) as exc:
            self._context.on_broken(exc)
        except ActorHubError as exc:
            if self._instances.get(instance.key) is instance:
                del self._instances[instance.key]
            instance.cell.fail_all(exc)

    # ---- passivation

    def _passivate_surplus(self) -> None:
        surplus = len(self._instances) - MAX_INSTANCES
        for instance in list(self._instances.values()) if surplus > 0 else ():
            if surplus <= 0:
                return
            surplus -= self._passivate(instance)

    def _passivate_idle(self) -> None:
        loop = self._session.loop
        self._idle_timer = loop.call_later(IDLE_CHECK_SECONDS, self._passivate_idle) if self._instances else None
        idle_since = loop.time() - self._idle_after
        for instance in list(self._instances.values()):
            if instance.called_at > idle_since:
                return
            self._passivate(instance)

    def _passivate(self, instance: PooledInstance) -> bool:
        """False if the instance has requests in hand, or is the only one of its class."""
        if instance.unsettled or not instance.key:
            return False
        del self._instances[instance.key]
        stopping = instance.cell.stop(PASSIVATE_TIMEOUT_SECONDS)
        task = self._session.spawn_task(stopping, f"actorhub-passivate-{instance.key}")
        self._passivating.add(task)
        task.add_done_callback(self._passivating.discard)
        return True
