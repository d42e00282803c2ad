"""Handles of actors, and the two verbs: `ask` waits for an answer, `tell` does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar, cast, overload

from actorhub.actor import ActorSpec, Ticket, binder, registry
from actorhub.call import Call
from actorhub.errors import ActorHubError, MethodNotFound
from actorhub.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")


class Sender(Protocol):
    """What a handle sends with: the session of the process that holds it."""

    thread_id: int

    def call(
        self, ticket: Ticket, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    async def tell(
        self, ticket: Ticket, signature: Signature, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None: ...


class RemoteMethod:
    """One public method of one actor. Calling it sends the call, and returns its Call or Stream."""

    __slots__ = ("handle", "name", "signature")

    def __init__(self, handle: Handle, name: str, signature: Signature) -> None:
        self.handle = handle
        self.name = name
        self.signature = signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handle = self.handle
        return session_of(handle).call(handle._ticket, self.signature, self.name, args, kwargs)

    def __repr__(self) -> str:
        return f"<{self.name} of {self.handle!r}>"


class Handle:
    """Stands for an actor wherever it lives; has the static type of the actor's class.

    It is small, equal to every other handle of the same actor, picklable, and JSON through pydantic. Its attributes are the
    actor's public methods and nothing else: an actor's state is its own.
    """

    __slots__ = ("_session", "_spec", "_ticket")

    def __init__(self, session: Sender | None, ticket: Ticket, spec: ActorSpec) -> None:
        self._session = session
        self._ticket = ticket
        self._spec = spec

    def __getattr__(self, name: str) -> RemoteMethod:
        signature = self._spec.methods.get(name)
        if signature is None:
            if name.startswith("__"):
                raise AttributeError(name)
            self._no_method(name)
        return RemoteMethod(self, name, signature)

    def _no_method(self, name: str) -> NoReturn:
        cls = self._spec.cls.__qualname__
        if name.startswith("_"):
            raise MethodNotFound(f"{cls}.{name} is private; only the actor itself can call it")
        raise MethodNotFound(f"{cls} has no method {name!r}; it has: {', '.join(sorted(self._spec.methods))}")

    def __actorhub_ticket__(self) -> Ticket:
        return self._ticket

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickled, (self._ticket.model_dump(), self._spec.cls)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._address == other._address

    def __hash__(self) -> int:
        return hash(self._address)

    @property
    def _address(self) -> tuple[str, str | None]:
        return self._ticket.queue, self._ticket.key

    def __repr__(self) -> str:
        ticket = self._ticket
        return f"<handle of {self._spec.cls.__qualname__} {ticket.name or ticket.actor_id} in {ticket.namespace!r}>"


def _unpickled(ticket: dict[str, Any], cls: type) -> Handle:
    """A handle that came in a pickle belongs to the session that reads it, or to whichever uses it first."""
    known = Ticket.model_validate(ticket)
    spec = registry.get(known.class_name) or vars(cls)["__actorhub_spec__"]
    session = binder.get()
    return cast("Handle", session.bind(known, spec)) if session is not None else Handle(None, known, spec)


def session_of(handle: Handle) -> Sender:
    """What it sends with.

    Raises:
        ActorHubError: it belongs to no hub, or this is not its thread.
    """
    session = handle._session
    if session is None:
        session = handle._session = cast("Sender | None", binder.get())
        if session is None:
            raise ActorHubError(f"{handle!r} belongs to no hub; use it inside `async with Hub()`")
    if session.thread_id != threading.get_ident():
        raise ActorHubError(
            f"{handle!r} was called from a thread that is not its event loop's; "
            "from a `def` method or another thread use actorhub.blocking: Hub.current().ask(method, ...)"
        )
    return session


def handle_ticket(handle: object) -> Ticket:
    """The ticket behind a handle.

    Raises:
        TypeError: it is no handle.
    """
    if not isinstance(handle, Handle):
        raise TypeError(f"{handle!r} is not a handle of an actor; hub.spawn and hub.find give handles")
    return handle._ticket


def remote_of(method: Any) -> RemoteMethod:
    """Raises:
    TypeError: it is not the method of a handle.
    """
    if not isinstance(method, RemoteMethod):
        raise TypeError(f"{method!r} is not the method of a handle; write it as in ask(counter.add, 5)")
    return method


@overload
def ask(method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def ask(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
def ask(method: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of a handle, `async def` or not; await the returned Call for the answer.

    The call is sent when it is made, at the end of the current turn of the event loop. Calls from one hub to one actor
    are handled in the order in which they were made.

    Raises:
        InvalidArguments: they do not fit the method's annotations; nothing was sent.
    """
    return remote_of(method)(*args, **kwargs)


async def tell(method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Send a message and want no answer. Returns when the broker has confirmed it: from then on it survives any crash.

    Raises:
        InvalidArguments: they do not fit the method's annotations; nothing was sent.
        ActorNotFound, ActorDied: there is no such actor (any more).
        MailboxFull: its mailbox is at its limit; see `backpressure`.
    """
    remote = remote_of(method)
    session = session_of(remote.handle)
    await session.tell(remote.handle._ticket, remote.signature, remote.name, args, kwargs)
