"""Handles of actors, and their two verbs: `ask`, which returns a reply, and `tell`, which does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

from actorhub.actors.spec import ActorSpec, class_name_of, registry, spec_of
from actorhub.core.addressing import ActorAddress
from actorhub.errors import ActorHubError, MethodNotFound
from actorhub.messaging.calls import Call
from actorhub.messaging.session import Session, current_session
from actorhub.wire.method_signature import Signature

P = ParamSpec("P")
R = TypeVar("R")


class RemoteMethod:
    """Public method of a handle. Calling it sends the call, and returns its Call or Stream."""

    __slots__ = ("handle", "name", "signature")

    def __init__(self, handle: Handle, name: str, signature: Signature) -> None:
        self.handle = handle
        self.name = name
        self.signature = signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sender = session_of(self.handle).sender
        send = sender.stream if self.signature.is_generator else sender.call
        return send(self.handle._address, self.signature, self.name, args, kwargs)

    def __repr__(self) -> str:
        return f"<{self.name} of {self.handle!r}>"


class Handle:
    """A reference to an actor, wherever it lives; has the static type of the actor's class.

    It is small, equal to every other handle of the same actor, picklable, and JSON through pydantic. Its attributes are the
    actor's public methods and nothing else: the state stays with the actor.
    """

    __slots__ = ("_address", "_session", "_spec")

    def __init__(self, session: Session | None, address: ActorAddress, spec: ActorSpec) -> None:
        """Make a handle.

        Args:
            session: sends its calls; None for a handle read outside any hub, which then belongs to the first hub that uses it.
            address: address of the actor.
            spec: the actor's class.
        """
        self._session = session
        self._address = address
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

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickled, (self._address.model_dump(), self._spec.cls)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str | None]:
        return self._address.queue, self._address.key

    def __repr__(self) -> str:
        address = self._address
        return f"<handle of {self._spec.cls.__qualname__} {address.name or address.actor_id} in {address.namespace!r}>"


def _unpickled(address: dict[str, Any], cls: type) -> Handle:
    """A handle from a pickle; it belongs to the session that reads the pickle, if there is one."""
    known = ActorAddress.model_validate(address)
    return Handle(current_session.get(), known, registry.get(known.class_name) or spec_of(cls))


def session_of(handle: Handle) -> Session:
    """The session that a handle sends with.

    Raises:
        ActorHubError: the handle belongs to no hub, or this is not its hub's thread.
    """
    session = handle._session
    if session is None:
        session = handle._session = current_session.get()
        if session is None:
            raise ActorHubError(f"{handle!r} belongs to no hub; use it inside `async with Hub()`")
    if session.thread_id != threading.get_ident():
        raise ActorHubError(
            f"{handle!r} was called from a thread that is not its event loop's; "
            "from a `def` method or another thread use actorhub.blocking: Hub.current().ask(method, ...)"
        )
    return session


def address_of(handle: object) -> ActorAddress:
    """The address of the actor that a handle refers to.

    Raises:
        TypeError: the value is not a handle.
    """
    if not isinstance(handle, Handle):
        raise TypeError(f"{handle!r} is not a handle of an actor; hub.spawn and hub.find give handles")
    return handle._address


def spec_behind(handle: Handle) -> ActorSpec:
    """The specification of the class that a handle was made for."""
    return handle._spec


_addresses = TypeAdapter(ActorAddress)


def handle_schema(cls: type, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Schema of an annotation that is an actor class: validates a handle or its address, serialises to the address."""

    def validate(value: Any) -> Any:
        address = _address_in(value)
        if address is None and isinstance(value, dict):
            address = _addresses.validate_python(value)
        if address is None:
            raise PydanticCustomError(
                "actor_handle",
                "not a handle of {actor}; pass what hub.spawn, hub.find or ref(self) gave",
                {"actor": cls.__qualname__},
            )
        if not _is_kind_of(address, cls):
            raise PydanticCustomError(
                "actor_handle",
                "a handle of {other}, not of {actor}",
                {"other": address.class_name, "actor": cls.__qualname__},
            )
        session = current_session.get()
        return value if session is None or not isinstance(value, dict) else Handle(session, address, spec_of(cls))

    return core_schema.no_info_plain_validator_function(
        validate,
        serialization=core_schema.plain_serializer_function_ser_schema(
            _address_in, return_schema=_addresses.core_schema
        ),
    )


def _address_in(value: object) -> ActorAddress | None:
    return value._address if isinstance(value, Handle) else None


def _is_kind_of(address: ActorAddress, cls: type) -> bool:
    spec = registry.get(address.class_name)
    if spec is not None and issubclass(spec.cls, cls):
        return True
    return address.class_name == class_name_of(cls)


def remote_of(method: Any) -> RemoteMethod:
    """Check that a value is a method of a handle, and return it.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(method, RemoteMethod):
        raise TypeError(f"{method!r} is not the method of a handle; write it as in ask(counter.add, 5)")
    return method


@overload
def ask(method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def ask(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
def ask(method: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of a handle, `async def` or not; await the returned Call for the reply.

    The call is sent when it is made, at the end of the current turn of the event loop. Calls from one hub to one actor
    are handled in the order in which they were made.

    Raises:
        InvalidArguments: they do not fit the method's annotations; nothing was sent.
    """
    return remote_of(method)(*args, **kwargs)


async def tell(method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Send a message without a reply. Returns when the broker has confirmed it: from then on it survives any crash.

    Raises:
        InvalidArguments: they do not fit the method's annotations; nothing was sent.
        ActorNotFound, ActorDied: the actor does not exist (any more).
        MailboxFull: its mailbox is at its limit; see `backpressure`.
    """
    remote = remote_of(method)
    await session_of(remote.handle).sender.tell(address_of(remote.handle), remote.signature, remote.name, args, kwargs)
