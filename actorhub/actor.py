"""What an actor is: `@actor` turns a class into an `ActorSpec`. No I/O.

The class itself stays a plain class. Where it stands as an annotation, pydantic reads it as "a handle of that actor":
a handle travels as its `Ticket`, and is bound again to the session that received it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError, core_schema

from actorhub.resources import Resources
from actorhub.signature import Signature

T = TypeVar("T")
SPEC = "__actorhub_spec__"
LIFE = ("started", "stopping", "migrate")  # called by the worker, never from outside


class ActorOptions(BaseModel):
    """What `@actor(...)` takes; see its docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    durable: bool = False
    shards: int | None = Field(None, ge=1, le=10_000)
    standby: bool = False
    reads: tuple[str, ...] = ()
    concurrency: int = Field(1, ge=1)
    reentrant: bool = False
    isolation: Literal["shared", "process"] = "shared"
    max_restarts: int = Field(3, ge=0)
    restart_window: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_redeliveries: int = Field(3, ge=0)
    resources: Resources = Field(default_factory=dict)
    mailbox_limit: int | None = Field(None, ge=1)
    on_error: Literal["keep", "restart"] = "keep"

    @model_validator(mode="after")
    def _one_after_the_other(self) -> ActorOptions:
        if self.durable and (self.concurrency > 1 or self.reentrant or self.on_error == "restart"):
            raise ValueError(
                "a durable actor handles one message after the other, and forgets what one did that failed: "
                "leave out concurrency, reentrant and on_error"
            )
        if self.shards is not None and not self.durable:
            raise ValueError(
                "a keyed class is durable: its instances leave memory when nobody calls them; add durable=True"
            )
        if self.reads and not self.durable:
            raise ValueError(
                "reads= says what a durable actor's journal need not keep; add durable=True, or leave it out"
            )
        if self.standby and (not self.durable or self.is_isolated):
            raise ValueError(
                "a standby goes on from the journal, in a worker that it shares: add durable=True, and leave out isolation "
                "and gpu"
            )
        return self

    @property
    def is_isolated(self) -> bool:
        """Whether it has a process for itself. Which GPUs there are is said to whole processes."""
        return self.isolation == "process" or "gpu" in self.resources


class Ticket(BaseModel):
    """All that a handle needs to reach an actor. `limited`: its mailbox refuses envelopes past a limit. `durable`: it keeps
    what it does in a journal. `key`: which of the instances behind its queue it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str
    actor_id: str
    namespace: str
    class_name: str
    name: str | None = None
    limited: bool = False
    durable: bool = False
    key: str | None = None

    def of(self, key: str) -> Ticket:
        """The ticket of one instance of a keyed class; of any other, itself."""
        return self.model_copy(update={"key": key}) if key else self


class Binder(Protocol):
    """Whoever can make a ticket into a handle: a session."""

    def bind(self, ticket: Ticket, spec: ActorSpec) -> Any: ...


binder: ContextVar[Binder | None] = ContextVar("actorhub_binder", default=None)


@dataclass(frozen=True)
class ActorSpec:
    """An actor class, its options and the signatures of its constructor and public methods."""

    cls: type
    class_name: str
    options: ActorOptions
    init: Signature
    methods: dict[str, Signature] = field(default_factory=dict)

    @property
    def takes_key(self) -> bool:
        """Whether the constructor of a keyed class wants its key."""
        return self.options.shards is not None and self.init.takes_one

    @property
    def state_version(self) -> int:
        """Of a durable actor's state, as its class says."""
        return int(getattr(self.cls, "state_version", 1))


registry: dict[str, ActorSpec] = {}
"""Every actor class that this process has imported, by `module:QualName`: what a node may run by name."""


@overload
def actor(cls: type[T], /) -> type[T]: ...
@overload
def actor(
    *,
    durable: bool = False,
    shards: int | None = None,
    standby: bool = False,
    reads: tuple[str, ...] = (),
    concurrency: int = 1,
    reentrant: bool = False,
    isolation: Literal["shared", "process"] = "shared",
    max_restarts: int = 3,
    restart_window: float | None = None,
    max_redeliveries: int = 3,
    resources: dict[str, float] | None = None,
    mailbox_limit: int | None = None,
    on_error: Literal["keep", "restart"] = "keep",
) -> Callable[[type[T]], type[T]]: ...
def actor(cls: type | None = None, /, **options: Any) -> Any:
    """Makes the class an actor class, and returns the class itself.

    Public methods are messages; names with a leading underscore cannot be called from outside. `async def` methods run on
    the worker's event loop, `def` methods in a thread, generators stream their items.

    - `durable`: each message changes the state once, and its answer and its tells go out once, whatever crashes. The state is
      the instance's attributes, or the fields of a pydantic model; a method that raises leaves it as it was. It lives until it
      is killed. `state_version` and `migrate(cls, state, from_version)` of the class read the state of former versions.
    - `shards`: makes it a keyed class: `hub.at(cls, key)` is one of millions of instances, spread over so many mailboxes. The
      constructor takes the key, or nothing. Another number of shards is another set of instances.
    - `standby`: another worker, on another node where there is one, waits to go on in the moment in which the broker loses
      the first. It takes `resources` of its own.
    - `reads`: names of methods that change nothing and tell nobody anything. Their answers are not kept in the journal; they
      say what is committed, and a method whose answer was lost on its way runs once more.
    - `concurrency`: how many calls one instance handles at once; 1 means one after the other, in order.
    - `reentrant`: a call that comes back to the actor in the chain of one that waits runs instead of failing.
    - `isolation`: "process" gives the instance a worker process of its own.
    - `max_restarts`: how often a lost instance is made anew elsewhere before it is dead: in its life, or in any
      `restart_window` seconds. A durable one is always made anew.
    - `max_redeliveries`: how often a message may kill its worker before it goes to the dead letters instead.
    - `resources`: what it reserves on its node, such as `{"gpu": 1}`.
    - `mailbox_limit`: how many envelopes may wait; past it a send fails with MailboxFull.
    - `on_error`: "restart" makes the instance anew after a method raised.

    Raises:
        TypeError: it is not a class, or has no public method.
        pydantic.ValidationError: an option is unknown or out of range.
    """

    def decorate(cls: type) -> type:
        given = {name: value for name, value in options.items() if value is not None}
        spec = _specify(cls, ActorOptions(**given))
        registry[spec.class_name] = spec
        setattr(cls, SPEC, spec)
        cls.__get_pydantic_core_schema__ = classmethod(_handle_schema)  # type: ignore[attr-defined]
        return cls

    return decorate if cls is None else decorate(cls)


def spec_of(cls: object) -> ActorSpec:
    """The spec of an actor class.

    Raises:
        TypeError: the class was not decorated.
    """
    spec = vars(cls).get(SPEC) if isinstance(cls, type) else None
    if not isinstance(spec, ActorSpec):
        name = cls.__qualname__ if isinstance(cls, type) else repr(cls)
        raise TypeError(f"{name} is not an actor class; decorate it with @actor")
    return spec


def class_name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _specify(cls: object, options: ActorOptions) -> ActorSpec:
    if not isinstance(cls, type):
        raise TypeError(f"@actor decorates classes, and {cls!r} is none; functions take @task")
    inherited = vars(BaseModel) if issubclass(cls, BaseModel) else {}
    methods = {
        name: Signature.of(function, owner=cls.__qualname__, bound=True)
        for name, function in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and name not in LIFE and name not in inherited
    }
    if not methods:
        raise TypeError(f"{cls.__qualname__} has no public method, so nobody could call it; add one")
    if options.durable:
        _check_state(cls)
    unknown = [name for name in options.reads if name not in methods]
    if unknown:
        raise TypeError(f"reads= names {unknown}, which {cls.__qualname__} does not have; it has: {', '.join(methods)}")
    init = Signature.of(cls.__init__, owner=cls.__qualname__, bound=True)  # type: ignore[misc]
    return ActorSpec(cls, class_name_of(cls), options, init, methods)


def _check_state(cls: type) -> None:
    """Raises:
    TypeError: there is a part of its state that would not be kept.
    """
    if issubclass(cls, BaseModel):
        lost = [name for name, field in cls.model_fields.items() if field.exclude]
        if lost or cls.model_config.get("extra") == "allow":
            what = f"the fields {lost}, which are excluded" if lost else "fields that it does not name"
            raise TypeError(
                f"a durable {cls.__qualname__} would lose {what}: its state is its fields; name them, without exclude"
            )
    elif cls.__getstate__ is object.__getstate__:
        slots = [name for base in cls.__mro__ for name in _slots(base) if name not in ("__dict__", "__weakref__")]
        if slots:
            raise TypeError(
                f"a durable {cls.__qualname__} would lose {slots}: its state is its __dict__; leave out __slots__, or write "
                "__getstate__ and __setstate__"
            )


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


_ticket = TypeAdapter(Ticket)


def _handle_schema(cls: type, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Validates a handle of `cls`, or the ticket of one; serialises to the ticket."""

    def validate(value: Any) -> Any:
        ticket = ticket_of(value)
        if ticket is None and isinstance(value, dict):
            ticket = _ticket.validate_python(value)
        if ticket is None:
            raise PydanticCustomError(
                "actor_handle",
                "not a handle of {actor}; pass what hub.spawn, hub.find or ref(self) gave",
                {"actor": cls.__qualname__},
            )
        if not _is_kind_of(ticket, cls):
            raise PydanticCustomError(
                "actor_handle",
                "a handle of {other}, not of {actor}",
                {"other": ticket.class_name, "actor": cls.__qualname__},
            )
        session = binder.get()
        return value if session is None or not isinstance(value, dict) else session.bind(ticket, spec_of(cls))

    return core_schema.no_info_plain_validator_function(
        validate,
        serialization=core_schema.plain_serializer_function_ser_schema(_to_ticket, return_schema=_ticket.core_schema),
    )


def _to_ticket(handle: Any) -> Ticket | None:
    return ticket_of(handle)


def ticket_of(value: object) -> Ticket | None:
    """The ticket of a handle; None for anything else."""
    ticket = getattr(type(value), "__actorhub_ticket__", None)
    return ticket(value) if ticket is not None else None


def _is_kind_of(ticket: Ticket, cls: type) -> bool:
    spec = registry.get(ticket.class_name)
    if spec is not None and issubclass(spec.cls, cls):
        return True
    return ticket.class_name == class_name_of(cls)
