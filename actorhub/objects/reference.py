"""References to objects in stores, and placeholders for their values among the arguments of tasks.

A process has at most one live reference to each object, however often it receives one. It renews the leases of all
objects that it has references to (`held`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

from actorhub.wire.codec import PLAIN_TYPES, note_packed

T = TypeVar("T")


class ObjectRefData(BaseModel):
    """A reference as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    size: int = Field(gt=0)
    node: str
    queue: str


class ObjectRef(Generic[T]):
    """Reference to a value that `hub.put` or a task stored on a node. `await hub.get(ref)` returns the value.

    A reference is small, equal to every other reference to the same object, picklable, and JSON through pydantic: it can be
    an argument, a result, an attribute. The object lives while any process holds a reference to it, or until `hub.free`.
    """

    __slots__ = ("__weakref__", "_card")

    _card: ObjectRefData

    def __new__(cls, id: str, size: int, node: str, queue: str) -> ObjectRef[T]:
        with _lock:
            known = _held.get(id)
            if known is None:
                known = super().__new__(cls)
                known._card = ObjectRefData(id=id, size=size, node=node, queue=queue)
                _held[id] = known
        return known

    @property
    def id(self) -> str:
        return self._card.id

    @property
    def size(self) -> int:
        """Bytes of the stored object."""
        return self._card.size

    @property
    def node(self) -> str:
        """Id of the node, or of the client, that owns the object."""
        return self._card.node

    @property
    def queue(self) -> str:
        """Command queue of the server that keeps the object."""
        return self._card.queue

    def as_argument(self) -> T:
        """Placeholder for the value among a task's arguments, also inside lists, tuples and dictionaries.

        The task receives the value, read on its own node. A reference passed as it is stays a reference.
        """
        return cast(T, ValuePlaceholder(self))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        note_packed(self)
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
class ValuePlaceholder:
    """Placeholder for the value of an object, among arguments or as a result.

    It can be pickled only where the receiver replaces it by the value: within `placeholders_allowed`.
    """

    ref: ObjectRef[Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if not _travel.get():
            raise TypeError(
                "only tasks take values by as_argument(); pass the reference itself, and `await hub.get(ref)`"
            )
        return ValuePlaceholder, (self.ref,)


_travel: ContextVar[bool] = ContextVar("actorhub_stand_ins_travel", default=False)


@contextmanager
def placeholders_allowed() -> Generator[None]:
    """Allow placeholders to be pickled inside the block, for a receiver that replaces them by their values."""
    token = _travel.set(True)
    try:
        yield
    finally:
        _travel.reset(token)


_cards = TypeAdapter(ObjectRefData)
_held: WeakValueDictionary[str, ObjectRef[Any]] = WeakValueDictionary()
# reentrant, since a garbage collection inside may run code that makes references
_lock = threading.RLock()


def held(queue_prefix: str) -> list[ObjectRef[Any]]:
    """Live references of this process to the objects of servers whose queue names begin with `queue_prefix`."""
    with _lock:
        return [ref for ref in _held.values() if ref.queue.startswith(queue_prefix)]


def _validate(value: Any) -> ObjectRef[Any]:
    if isinstance(value, ObjectRef):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("object_ref", "not a reference to an object; pass what hub.put gave")
    card = _cards.validate_python(value)
    return ObjectRef(card.id, card.size, card.node, card.queue)


def _to_card(ref: ObjectRef[Any]) -> ObjectRefData:
    note_packed(ref)
    return ref._card


# ---- arguments that hold references


def parts_of(value: object, kinds: tuple[type, ...]) -> list[Any]:
    """Find the values of the given types among arguments, also inside lists, tuples and dictionaries.

    Raises:
        ValueError: a container contains itself.
    """
    return list(_parts_of(value, kinds, ()))


def _parts_of(value: object, kinds: tuple[type, ...], around: tuple[int, ...]) -> Iterator[Any]:
    if isinstance(value, kinds):
        yield value
    elif type(value) in (list, tuple, dict):
        if id(value) in around:
            raise ValueError(
                f"an argument contains itself: a {type(value).__name__} in a cycle; tasks take trees of values"
            )
        parts = value.values() if isinstance(value, dict) else cast("list[Any]", value)
        for part in parts:
            if type(part) not in PLAIN_TYPES:
                yield from _parts_of(part, kinds, (*around, id(value)))


def replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Copy arguments, with `replace` applied to each part that is not a list, tuple or dictionary."""
    if type(value) is list:
        return [replaced(part, replace) for part in value]
    if type(value) is tuple:
        return tuple(replaced(part, replace) for part in value)
    if type(value) is dict:
        return {key: replaced(part, replace) for key, part in value.items()}
    return replace(value)
