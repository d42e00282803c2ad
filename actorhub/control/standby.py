"""A node's readiness to run control. Whose consumer of control's inbox is the active one runs it: the broker decides, and what
keeps two of them apart is the journal, as with every durable actor."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from actorhub.actors.cell import ActorCell
from actorhub.actors.execution import ExecutionContext
from actorhub.actors.service import service_handle
from actorhub.actors.spec import spec_of
from actorhub.broker import Link
from actorhub.control.actor import Control
from actorhub.control.state import ControlState
from actorhub.core.addressing import SYSTEM
from actorhub.durable.instance_pool import LARGEST, Load
from actorhub.durable.mailbox import DurableMailbox
from actorhub.durable.protocol.records import RECORD_SHARE, StateRecord
from actorhub.errors import PayloadTooLarge
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import Session
from actorhub.messaging.topology import durable_inbox, journal_stream
from actorhub.wire.envelope import EnvelopeDraft, Kind
from actorhub.wire.failure import Failure

log = logging.getLogger(__name__)

HANDING_OVER = 1.0  # seconds that what runs may take to end


class ControlStandby(Recoverable):
    """Attached to a session, it takes its turn at control on every link that the session has."""

    def __init__(self, session: Session, *, name: str) -> None:
        names = session.names
        self._session = session
        self._name = name
        self._mailbox = DurableMailbox(
            session,
            spec_of(Control),
            actor_id="control",
            inbox=names.control,
            journal=names.control_journal,
            dead=names.dead(SYSTEM),
            make_state_host=self._sit_down,
            in_parts=True,
            journal_to_make=journal_stream(names.control_journal, session.settings.journal_retention),
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

    def _sit_down(
        self, link: Link, load: Load, on_broken: Callable[[Exception], None], may_begin: Callable[[], bool]
    ) -> ControlHost:
        """All parts are read when it begins: nothing can break later."""
        log.info("%s runs control", self._name)
        return ControlHost(self._session, link, load, may_begin)

    def _failed(self, error: BaseException) -> None:
        link = self._session.link
        if link is not None:
            self._session.renew(link, f"control cannot run here: {error}")


class ControlHost:
    """A `StateHost`. What `Control` does with a message it does in one step, and it changes nothing where it fails: so there is
    nothing to put back."""

    def __init__(self, session: Session, link: Link, load: Load, may_begin: Callable[[], bool]) -> None:
        self._session = session
        self._may_begin = may_begin
        self._link = link
        self._load = load
        self._limit = min(link.max_message // RECORD_SHARE, session.settings.journal_retention // LARGEST)
        self._state: ControlState | None = None
        self._cell: ActorCell | None = None

    async def begin(self) -> None:
        """Raises:
        ActorInitFailed: the state cannot be read here.
        """
        known = {part.key: part.body for part in await self._load("")}
        handle = service_handle(self._session, self._session.names.control, Control)
        execution = ExecutionContext(handle, self._session, SYSTEM)
        cell = self._cell = ActorCell(execution, spec_of(Control), lambda: self._make(known))
        cell.may_begin = self._may_begin
        await cell.start()

    def _make(self, known: dict[str, bytes]) -> Control:
        control = Control(self._session.settings, self._link, known)
        self._state = control.state
        return control

    async def stop(self, patience: float) -> None:
        if self._cell is not None:
            await self._cell.stop(patience)

    def offer(self, work: Request) -> None:
        assert self._cell is not None
        if len(work.payload) > self._limit:
            error = PayloadTooLarge(
                f"{work.envelope.method} has arguments of {len(work.payload)} bytes, and {self._limit} fit into control's "
                "journal; put large values into the object store (hub.put) and give their references"
            )
            failure = Failure.of(error, self._session.signer)
            draft: EnvelopeDraft = {"kind": Kind.FAILURE, "call": work.envelope.id}
            work.finish(Reply(draft, failure.encode(), failure, "invalid"))
        else:
            self._cell.offer(work)

    def go_on(self) -> None:
        assert self._cell is not None
        self._cell.go_on()

    def cancel(self, call_id: str) -> None:
        if self._cell is not None:
            self._cell.cancel(call_id)

    def posted(self, work: Request) -> None:
        """Nothing is kept of it."""

    def keep(self, work: Request) -> int:
        """A plan goes into a part and into an order; else what changed is hardly more than what came."""
        return 2 * len(work.payload)

    def put_back(self, work: Request) -> None:
        """It changed nothing."""

    def changes(self, *, whole: bool) -> list[StateRecord]:
        changes = self._state.changes() if self._state is not None else {}
        return [
            StateRecord(key=key, gone=body is None, body=body or b"", size=len(body or b""))
            for key, body in changes.items()
        ]
