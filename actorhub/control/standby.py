"""A node's readiness to run control. Whose consumer of control's inbox is the active one runs it: the broker decides, and what
keeps two of them apart is the journal, as with every durable actor."""

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

HANDING_OVER = 1.0  # seconds that what runs may take to end


class ControlStandby(Recoverable):
    """Attached to a session, it takes its turn at control on every link that the session has."""

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
        """What control has not committed is the next one's."""
        self._session.attachments.remove(self)
        await self._mailbox.stop(HANDING_OVER)
        await self._mailbox.close()

    async def attach(self, link: Link) -> None:
        """Before the mailbox is attached to it."""
        await link.declare(durable_inbox(self._session.names.control))

    def detach(self) -> None:
        """The inbox is the broker's."""

    def _make_host(self, context: HostContext) -> ControlHost:
        log.info("%s runs control", self._name)
        return ControlHost(self._session, context)

    def _failed(self, error: BaseException) -> None:
        link = self._session.link
        if link is not None:
            self._session.renew(link, f"control cannot run here: {error}")


class ControlHost:
    """The `StateHost` of control: one actor, whose state is in parts.

    All parts are read when it starts, so nothing can break later. `Control` handles a message in one step, and changes nothing
    if that fails: so there is nothing to restore.
    """

    def __init__(self, session: Session, context: HostContext) -> None:
        self._session = session
        self._context = context
        self._max_bytes = max_state_bytes(context.link, session.settings.journal_retention)
        self._state: ControlState | None = None
        self._cell: ActorCell | None = None

    async def start(self) -> None:
        """Raises:
        ActorInitFailed: the state cannot be read here.
        """
        known = {part.key: part.body for part in await self._context.load_states("")}
        handle = service_handle(self._session, self._session.names.control, Control)
        execution = ExecutionContext(handle, self._session, SYSTEM)
        cell = self._cell = ActorCell(execution, spec_of(Control), lambda: self._make(known))
        cell.may_begin = self._context.may_start
        await cell.start()

    def _make(self, known: dict[str, bytes]) -> Control:
        control = Control(self._session.settings, self._context.link, known)
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
            self._cell.offer(request)

    def resume(self) -> None:
        assert self._cell is not None
        self._cell.go_on()

    def cancel(self, call_id: str) -> None:
        if self._cell is not None:
            self._cell.cancel(call_id)

    def settled(self, request: Request) -> None:
        """Nothing is kept of it."""

    def capture(self, request: Request) -> int:
        """A spawn specification goes into a part and into a command; other changes are hardly larger than their message."""
        return 2 * len(request.payload)

    def restore(self, request: Request) -> None:
        """It changed nothing."""

    def take_changes(self, *, whole: bool) -> list[StateRecord]:
        changes = self._state.changes() if self._state is not None else {}
        return [
            StateRecord(key=key, gone=body is None, body=body or b"", size=len(body or b""))
            for key, body in changes.items()
        ]
