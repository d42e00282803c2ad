"""References to objects: what a program holds of a value that is kept in a store.

A process has one reference to each object at most, however often it comes; `held` are those that live, whose leases the
process renews. A `StandIn` among a task's arguments stands for the value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

T = TypeVar("T")


class Card(BaseModel):
    """A reference as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    size: int = Field(gt=0)
    node: str
    queue: str


class ObjectRef(Generic[T]):
    """Refers to a value that `hub.put` or a task has put into the store of a node. `await hub.get(ref)` gives the value.

    It is small, equal to every other reference to the same object, picklable, and JSON through pydantic: it may be an argument,
    a result, an attribute. The object lives while any process holds a reference to it, or until `hub.free`.
    """

    __slots__ = ("__weakref__", "_card")

    _card: Card

    def __new__(cls, id: str, size: int, node: str, queue: str) -> ObjectRef[T]:
        with _lock:
            known = _held.get(id)
            if known is None:
                known = super().__new__(cls)
                known._card = Card(id=id, size=size, node=node, queue=queue)
                _held[id] = known
        return known

    @property
    def id(self) -> str:
        return self._card.id

    @property
    def size(self) -> int:
        """Bytes of the object as it is stored."""
        return self._card.size

    @property
    def node(self) -> str:
        """The node, or the client, that made the object and owns it."""
        return self._card.node

    @property
    def queue(self) -> str:
        """Where its owner is asked for it."""
        return self._card.queue

    def as_argument(self) -> T:
        """Stands for the value among a task's arguments, also inside lists, tuples and dictionaries: the task gets the value,
        read on its own node. The reference itself as an argument stays a reference."""
        return cast(T, StandIn(self))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        _packing(self)
        return ObjectRef, (self.id, self.size, self.node, self.queue)

    def __repr__(self) -> str:
        return f"<object {self.id} of {self.size:,} bytes on {self.node}>"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_to_card, return_schema=_cards.core_schema),
        )


@dataclass(frozen=True, slots=True)
class StandIn:
    """Stands for the value of an object among arguments, or as a result. It travels only to where it gives way to the value."""

    ref: ObjectRef[Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if not _travel.get():
            raise TypeError(
                "only tasks take values by as_argument(); pass the reference itself, and `await hub.get(ref)`"
            )
        return StandIn, (self.ref,)


_travel: ContextVar[bool] = ContextVar("actorhub_stand_ins_travel", default=False)


@contextmanager
def stand_ins_travel() -> Generator[None]:
    """Whoever reads what is pickled inside knows of stand-ins."""
    token = _travel.set(True)
    try:
        yield
    finally:
        _travel.reset(token)


PLAIN = frozenset((bool, bytes, float, int, str, type(None)))  # most arguments: they hold nothing else
_packed: ContextVar[list[ObjectRef[Any]] | None] = ContextVar("actorhub_packed", default=None)


class ReferencesPacked(list["ObjectRef[Any]"]):
    """The references that are packed inside its `with`, wherever they stand: also within objects of users' own classes."""

    def __enter__(self) -> ReferencesPacked:
        self._token = _packed.set(self)
        return self

    def __exit__(self, *failed: object) -> None:
        _packed.reset(self._token)


def may_refer(args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether there may be references among these arguments: not among the plainest, which are the most."""
    return not (PLAIN.issuperset(map(type, args)) and PLAIN.issuperset(map(type, kwargs.values())))


def _packing(ref: ObjectRef[Any]) -> None:
    packed = _packed.get()
    if packed is not None:
        packed.append(ref)


_cards = TypeAdapter(Card)
_held: WeakValueDictionary[str, ObjectRef[Any]] = WeakValueDictionary()
_lock = threading.RLock()  # a collection inside may run code that makes references


def held(queue_prefix: str) -> list[ObjectRef[Any]]:
    """The references that live in this process, to objects whose owners' queues begin so."""
    with _lock:
        return [ref for ref in _held.values() if ref.queue.startswith(queue_prefix)]


def _validate(value: Any) -> ObjectRef[Any]:
    if isinstance(value, ObjectRef):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("object_ref", "not a reference to an object; pass what hub.put gave")
    card = _cards.validate_python(value)
    return ObjectRef(card.id, card.size, card.node, card.queue)


def _to_card(ref: ObjectRef[Any]) -> Card:
    _packing(ref)
    return ref._card
