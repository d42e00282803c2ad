"""The one instance behind control's inbox, whose state is in parts."""

from __future__ import annotations

from collections.abc import Callable

from actorhub.broker import Link
from actorhub.cell import Cell
from actorhub.control.actor import Control
from actorhub.control.desks import system_ticket
from actorhub.control.state import ControlState
from actorhub.envelope import Kind
from actorhub.errors import PayloadTooLarge
from actorhub.failure import Failure
from actorhub.handle import Handle
from actorhub.journal.records import SHARE, State
from actorhub.residents import LARGEST, Load
from actorhub.session import Session
from actorhub.spec import spec_of
from actorhub.work import Answer, Work


class Seat:
    """A `Household`. What `Control` does with a message it does in one step, and it changes nothing where it fails: so there is
    nothing to put back."""

    def __init__(self, session: Session, link: Link, load: Load, may_begin: Callable[[], bool]) -> None:
        self._session = session
        self._may_begin = may_begin
        self._link = link
        self._load = load
        self._limit = min(link.max_message // SHARE, session.settings.journal_retention // LARGEST)
        self._state: ControlState | None = None
        self._cell: Cell | None = None

    async def begin(self) -> None:
        """Raises:
        ActorInitFailed: the state cannot be read here.
        """
        known = {part.key: part.body for part in await self._load("")}
        spec = spec_of(Control)
        handle = Handle(self._session, system_ticket(self._session.names.control, Control), spec)
        cell = self._cell = Cell(self._session, handle, spec, lambda: self._make(known))
        cell.may_begin = self._may_begin
        await cell.start()

    def _make(self, known: dict[str, bytes]) -> Control:
        control = Control(self._session.settings, self._link, known)
        self._state = control.state
        return control

    async def stop(self, patience: float) -> None:
        if self._cell is not None:
            await self._cell.stop(patience)

    def offer(self, work: Work) -> None:
        assert self._cell is not None
        if len(work.payload) > self._limit:
            error = PayloadTooLarge(
                f"{work.envelope.method} has arguments of {len(work.payload)} bytes, and {self._limit} fit into control's "
                "journal; put large values into the object store (hub.put) and give their references"
            )
            failure = Failure.of(error, self._session.signer)
            fields = {"kind": Kind.FAILURE, "call": work.envelope.id}
            work.finish(Answer(fields, failure.encode(), failure, "invalid"))
        else:
            self._cell.offer(work)

    def go_on(self) -> None:
        assert self._cell is not None
        self._cell.go_on()

    def cancel(self, call_id: str) -> None:
        if self._cell is not None:
            self._cell.cancel(call_id)

    def posted(self, work: Work) -> None:
        """Nothing is kept of it."""

    def keep(self, work: Work) -> int:
        """A plan goes into a part and into an order; else what changed is hardly more than what came."""
        return 2 * len(work.payload)

    def put_back(self, work: Work) -> None:
        """It changed nothing."""

    def changes(self, *, whole: bool) -> list[State]:
        changes = self._state.changes() if self._state is not None else {}
        return [
            State(key=key, gone=body is None, body=body or b"", size=len(body or b"")) for key, body in changes.items()
        ]
