"""Services: actors of the system itself, at the command queue of a process. Clients call them through stubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from actorhub.actors.cell import ActorCell
from actorhub.actors.execution import ExecutionContext
from actorhub.actors.handle import Handle
from actorhub.actors.mailbox import Mailbox
from actorhub.actors.spec import SPEC, ActorOptions, class_name_of, spec_of, specify
from actorhub.broker import Link
from actorhub.core.addressing import SYSTEM, ActorAddress
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.recovery import Recoverable
from actorhub.messaging.session import Session
from actorhub.messaging.topology import service_queue

T = TypeVar("T")

CLOSE_TIMEOUT_SECONDS = 1.0
"""Time for commands that still run when a service closes."""


@overload
def service(cls: type[T], /) -> type[T]: ...
@overload
def service(
    *, durable: bool = False, reads: tuple[str, ...] = (), concurrency: int = 1
) -> Callable[[type[T]], type[T]]: ...
def service(cls: type | None = None, /, **options: Any) -> Any:
    """Make a class the interface of a service: its public methods are the commands.

    As `@actor` does, but without an entry in the registry: a service is addressed by its queue, and no node runs it by name.
    A class that implements the interface need not be decorated.

    Args:
        cls: the class; returned as it is.
        durable, reads, concurrency: as for `@actor`.
    """

    def decorate(cls: type) -> type:
        setattr(cls, SPEC, specify(cls, ActorOptions(**options)))
        return cls

    return decorate if cls is None else decorate(cls)


def service_address(queue: str, cls: type) -> ActorAddress:
    """Address of the service of class `cls` that takes its commands from `queue`."""
    return ActorAddress(queue=queue, actor_id=queue, namespace=SYSTEM, class_name=class_name_of(cls))


def service_handle(session: Session, queue: str, cls: type) -> Handle:
    """Handle of a service, for the cell that runs it."""
    return Handle(session, service_address(queue, cls), spec_of(cls))


def stub(session: Session, queue: str, cls: type[T]) -> T:
    """Client of a service: an object with the methods of `cls`, each of which sends a call to `queue`.

    Args:
        session: sends the calls and receives the replies.
        queue: the service's command queue; it need not exist before the first call.
        cls: the service's interface.
    """
    return cast(T, service_handle(session, queue, cls))


class ServiceEndpoint(Recoverable):
    """Command queue of a process, with the service that handles its commands.

    Args:
        session: the session of the process.
        queue: name of the command queue.
        cls: the service's interface, by which clients address it.
        make: creates the service.
        exchange: the exchange whose broadcasts it receives as well.
        expires: seconds without a consumer after which the broker deletes the queue; by default `reply_expiry`.
    """

    def __init__(
        self,
        session: Session,
        queue: str,
        cls: type,
        make: Callable[[], Any],
        *,
        exchange: str | None = None,
        expires: float | None = None,
    ) -> None:
        self._session = session
        self._queue = service_queue(queue, expires or session.settings.reply_expiry)
        self._exchange = exchange
        execution = ExecutionContext(service_handle(session, queue, cls), session, SYSTEM)
        self._cell = ActorCell(execution, spec_of(cls), make)
        self._mailbox = Mailbox(session, queue, self._cell, DeadLetterQueue(session, SYSTEM))

    async def open(self) -> None:
        await self._session.live_link()
        await self._session.attachments.add(self)
        await self._cell.start()
        await self._mailbox.open()

    async def attach(self, link: Link) -> None:
        """Declare the queue again: it may have expired while the broker could not be reached."""
        await link.declare(self._queue)
        if self._exchange is not None:
            await link.subscribe(self._queue.name, self._exchange)

    def detach(self) -> None:
        """Do nothing: the queue stays at the broker."""

    async def close(self) -> None:
        self._session.attachments.remove(self)
        await self._cell.stop(CLOSE_TIMEOUT_SECONDS)
        await self._mailbox.close()
