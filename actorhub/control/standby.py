"""Standby of control: every node consumes control's inbox, and the node whose consumer is active runs the control actor.

The broker chooses the active consumer. The journal fences off a former owner, as for every durable actor.
"""

from __future__ import annotations

import functools
import logging

from actorhub.actors.cell import ActorCell
from actorhub.actors.execution import ExecutionContext
from actorhub.actors.service import service_handle
from actorhub.actors.spec import spec_of
from actorhub.broker import Link
from actorhub.control.actor import Control
from actorhub.control.state import ControlState
from actorhub.core.addressing import SYSTEM
from actorhub.durable.interface import HostContext, MailboxConfig, max_state_bytes
from actorhub.durable.mailbox import DurableMailbox
from actorhub.durable.protocol.records import StateRecord
from actorhub.errors import PayloadTooLarge
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.messaging.topology import durable_inbox, journal_stream

log = logging.getLogger(__name__)

HANDOVER_SECONDS = 1.0
"""Time that a running request may take to end when the node stops."""


class ControlStandby(Recoverable):
    """A node's readiness to run control, on every link of its session.

    Args:
        session: the node's session.
        name: the node's name in the log.
    """

    def __init__(self, session: Session, *, name: str) -> None:
        names = session.names
        self._session = session
        self._name = name
        config = MailboxConfig(
            name="control",
            inbox=names.control,
            journal=names.control_journal,
            dead_letters=names.dead(SYSTEM),
            journal_to_declare=journal_stream(names.control_journal, session.settings.journal_retention),
            in_parts=True,
        )
        self._mailbox = DurableMailbox(
            session,
            spec_of(Control),
            config,
            self._make_host,
            on_constructor_failed=self._failed,
            on_gone=functools.partial(self._failed, RuntimeError(f"{names.control} was deleted")),
        )

    async def open(self) -> None:
        await self._session.attachments.add(self)
        await self._mailbox.open()

    async def close(self) -> None:
        """Stop control if it runs here. The next owner handles every message that is not committed."""
        self._session.attachments.remove(self)
        await self._mailbox.stop(HANDOVER_SECONDS)
        await self._mailbox.close()

    async def attach(self, link: Link) -> None:
        """Declare control's inbox, before the mailbox consumes it."""
        await link.declare(durable_inbox(self._session.names.control))

    def detach(self) -> None:
        """Nothing to undo: the inbox stays at the broker."""

    def _make_host(self, context: HostContext) -> ControlHost:
        log.info("%s runs control", self._name)
        return ControlHost(self._session, context)

    def _failed(self, error: BaseException) -> None:
        link = self._session.link
        if link is not None:
            self._session.renew(link, f"control cannot run here: {error}")


class ControlHost:
    """The `StateHost` of control: one actor, whose state is in the journal row by row.

    All rows are read when it starts, so nothing can break later. `Control` handles a message in one step, and changes nothing
    if that fails: so there is nothing to restore.
    """

    def __init__(self, session: Session, context: HostContext) -> None:
        self._session = session
        self._context = context
        self._max_bytes = max_state_bytes(context.link, session.settings.journal_retention)
        self._state: ControlState | None = None
        self._cell: ActorCell | None = None

    async def start(self) -> None:
        """Read all rows, and start the control actor.

        Raises:
            ActorInitFailed: the rows cannot be read here.
        """
        rows = {record.key: record.body for record in await self._context.load_states("")}
        handle = service_handle(self._session, self._session.names.control, Control)
        execution = ExecutionContext(handle, self._session, SYSTEM)
        cell = self._cell = ActorCell(execution, spec_of(Control), lambda: self._make(rows))
        cell.may_start = self._context.may_start
        await cell.start()

    def _make(self, rows: dict[str, bytes]) -> Control:
        control = Control(self._session.settings, self._context.link, rows)
        self._state = control.state
        return control

    async def stop(self, timeout: float) -> None:
        if self._cell is not None:
            await self._cell.stop(timeout)

    def accept(self, request: Request) -> None:
        assert self._cell is not None
        if len(request.payload) > self._max_bytes:
            error = PayloadTooLarge(
                f"{request.envelope.method} has arguments of {len(request.payload)} bytes, and {self._max_bytes} fit into "
                "control's journal; put large values into the object store (hub.put) and give their references"
            )
            request.finish(Reply.failed(request.envelope.id, error, self._session.signer, "invalid"))
        else:
            self._cell.accept(request)

    def resume(self) -> None:
        assert self._cell is not None
        self._cell.resume()

    def cancel(self, call_id: str) -> None:
        if self._cell is not None:
            self._cell.cancel(call_id)

    def settled(self, request: Request) -> None:
        """Nothing to do: control keeps no request."""

    def capture(self, request: Request) -> int:
        """The growth of the next commit at most: a spawn specification goes into a row and into an order."""
        return 2 * len(request.payload)

    def restore(self, request: Request) -> None:
        """Nothing to undo: a request that fails has changed nothing."""

    def take_changes(self, *, whole: bool) -> list[StateRecord]:
        changes = self._state.changes() if self._state is not None else {}
        return [
            StateRecord(key=key, gone=body is None, body=body or b"", size=len(body or b""))
            for key, body in changes.items()
        ]
