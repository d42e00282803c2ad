"""Specification of an actor class: its options, the signatures of its methods, and the registry of all classes.

No I/O.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actorhub.core.resources import Resources
from actorhub.wire.method_signature import Signature

SPEC = "__actorhub_spec__"
LIFE = ("started", "stopping", "migrate")
"""Methods that the worker calls, and no client can."""

T = TypeVar("T")


class ActorOptions(BaseModel):
    """Options of `@actor`, which describes them."""

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
            raise ValueError("a keyed class is durable: idle instances leave memory; add durable=True")
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
        """True if the instance has a process of its own: by `isolation`, or for a GPU, which is assigned to a whole
        process.
        """
        return self.isolation == "process" or "gpu" in self.resources


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
        """True if the constructor of a keyed class takes the key."""
        return self.options.shards is not None and self.init.has_positional

    @property
    def state_version(self) -> int:
        """Version of a durable actor's state, as its class declares; by default 1."""
        return int(getattr(self.cls, "state_version", 1))


registry: dict[str, ActorSpec] = {}
"""Classes that a node may run by name: every actor class that this process has imported, but no services, by
`module:QualName`.
"""


def spec_of(cls: object) -> ActorSpec:
    """Specification of an actor class.

    Raises:
        TypeError: the class was not decorated.
    """
    spec = vars(cls).get(SPEC) if isinstance(cls, type) else None
    if not isinstance(spec, ActorSpec):
        name = cls.__qualname__ if isinstance(cls, type) else repr(cls)
        raise TypeError(f"{name} is not an actor class; decorate it with @actor")
    return spec


def class_name_of(cls: type) -> str:
    """Name of a class in the registry: `module:QualName`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def specify(cls: object, options: ActorOptions) -> ActorSpec:
    """Make the specification of a class.

    Raises:
        TypeError: `cls` is not a class, has no public method, would lose durable state, or lacks a method that `reads` names.
    """
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is not a class; use @task for functions")
    inherited = vars(BaseModel) if issubclass(cls, BaseModel) else {}
    methods = {
        name: Signature.of(function, owner=cls.__qualname__, bound=True)
        for name, function in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and name not in LIFE and name not in inherited
    }
    if not methods:
        raise TypeError(f"{cls.__qualname__} has no public method that a client could call; add one")
    if options.durable:
        _check_state(cls)
    unknown = [name for name in options.reads if name not in methods]
    if unknown:
        raise TypeError(f"reads= names {unknown}, which {cls.__qualname__} does not have; it has: {', '.join(methods)}")
    init = Signature.of(cls.__init__, owner=cls.__qualname__, bound=True)  # type: ignore[misc]
    return ActorSpec(cls, class_name_of(cls), options, init, methods)


def _check_state(cls: type) -> None:
    """Check that the whole state of a durable class can be kept.

    Raises:
        TypeError: a part of its state would be lost.
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
