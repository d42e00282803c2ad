"""Signed pickles for values that JSON cannot express: cloudpickle with out-of-band buffers, signed with the cluster's
secret.

Layout: the number of parts, their lengths (eight bytes each, big endian), the pickle, then the buffers. In a payload a
version byte and 32 bytes of keyed BLAKE2b over all this come first: nothing is unpickled before the signature has been
verified.
"""

from __future__ import annotations

import math
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import cloudpickle

from actorhub.errors import NotSerialisable

_DEPTH = 6
# levels of JSON that are sure to be read again
_DEEPEST = 100
# bits of a number that is sure to be read again
_LONGEST = 1024
_ZEROS = memoryview(bytes(4096))


class PickledParts:
    """A value as pieces of memory: most of the pickle is new, while buffers and large `bytes` are the value's own
    memory.

    Args:
        what: names the value in errors.

    Raises:
        NotSerialisable: names the part that cannot be pickled.
    """

    def __init__(self, value: object, what: str) -> None:
        buffers: list[pickle.PickleBuffer] = []
        try:
            head = _pickle(value, buffers.append)
            self._parts = [head, *([buffer.raw()] for buffer in buffers)]
        except Exception as exc:
            path, culprit = _culprit(value, what)
            raise NotSerialisable(
                f"{path} cannot be sent: {type(culprit).__qualname__} is not picklable ({exc})"
            ) from exc

    @property
    def size(self) -> int:
        """Bytes of all parts, about the size of `pieces`."""
        return sum(piece.nbytes for part in self._parts for piece in part)

    def pieces(self, align: int = 1) -> list[memoryview]:
        """Pieces to write one after the other. Each part begins at a multiple of `align` bytes, 4096 at most."""
        sizes = [sum(piece.nbytes for piece in part) for part in self._parts]
        table = struct.pack(f">I{len(sizes)}Q", len(sizes), *sizes)
        pieces, end = [memoryview(table)], len(table)
        for part, size in zip(self._parts, sizes, strict=True):
            gap = -end % align
            pieces += [_ZEROS[:gap], *part] if gap else part
            end += gap + size
        return pieces


def unpickled(data: memoryview, what: str, align: int = 1) -> Any:
    """Value of the bytes that `PickledParts` wrote. Buffers are views of `data`: arrays are read without copying, and
    are read-only if `data` is.

    Raises:
        NotSerialisable: its classes cannot be imported here, or fail; `what` names it.
    """
    try:
        head, *buffers = _parts(data, align)
        return pickle.loads(head, buffers=buffers)
    except Exception as exc:
        raise NotSerialisable(f"{what} cannot be unpickled here: {type(exc).__name__}: {exc}") from exc


class _Sink:
    """File for the pickler that keeps the pieces written to it: large `bytes` are not copied."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []

    def write(self, data: bytes | bytearray) -> int:
        self.pieces.append(memoryview(data))
        return len(data)


def _pickle(value: object, buffer_callback: Callable[[pickle.PickleBuffer], object]) -> list[memoryview]:
    sink = _Sink()
    cloudpickle.Pickler(sink, protocol=5, buffer_callback=buffer_callback).dump(value)
    return sink.pieces


def _parts(data: memoryview, align: int) -> Iterator[memoryview]:
    (count,) = struct.unpack_from(">I", data)
    sizes = struct.unpack_from(f">{count}Q", data, 4)
    end = 4 + 8 * count
    for size in sizes:
        start = end + -end % align
        end = start + size
        yield data[start:end]


def by_value(thing: type | Callable[..., Any]) -> bool:
    """True if a class or function exists only here, in a script, a notebook or a function, so that others cannot import
    it."""
    module = sys.modules.get(thing.__module__)
    if thing.__module__ == "__main__" or module is None:
        return True
    return "<locals>" in thing.__qualname__ or not hasattr(module, "__file__")


def is_json_native(value: object) -> bool:
    """True if JSON gives back exactly this value: no tuples, no subclasses, no infinities."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return True
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if kind is list:
        return all(is_json_native(item) for item in value)  # type: ignore[attr-defined]
    if kind is dict:
        return all(type(key) is str and is_json_native(item) for key, item in value.items())  # type: ignore[attr-defined]
    return False


def is_json_tree(value: object) -> bool:
    """True if JSON gives back exactly this value, and no list or dict is in two places: one object would be two when it
    is read."""
    return _is_tree(value, set(), _DEEPEST)


def _is_tree(value: object, seen: set[int], depth: int) -> bool:
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= _LONGEST)  # type: ignore[attr-defined]
    if kind is list or kind is dict:
        if not depth or id(value) in seen:
            return False
        seen.add(id(value))
        items: Iterable[Any] = value if kind is list else value.values()  # type: ignore[attr-defined, assignment]
        if kind is dict and not all(type(key) is str for key in value):  # type: ignore[attr-defined]
            return False
        return all(type(item) is str or _is_tree(item, seen, depth - 1) for item in items)
    return is_json_native(value)


def _culprit(value: object, path: str, depth: int = _DEPTH, seen: frozenset[int] = frozenset()) -> tuple[str, object]:
    """Find the innermost part of a value that cannot be pickled by itself."""
    if depth:
        for step, part in _inside(value):
            if id(part) not in seen and not _picklable(part):
                return _culprit(part, f"{path}{step}", depth - 1, seen | {id(part)})
    return path, value


def _inside(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    else:
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)


def _picklable(value: object) -> bool:
    try:
        _pickle(value, lambda _: None)
    except Exception:
        return False
    return True


# ---- references in a pickle or a JSON text

PLAIN_TYPES = frozenset((bool, bytes, float, int, str, type(None)))
"""Types of most arguments; their values refer to nothing else."""
_packing: ContextVar[KeepAlive | None] = ContextVar("actorhub_packing", default=None)


class KeepAlive(list[object]):
    """References to objects that were packed inside its `with` block, also within objects of users' own classes. A call
    holds it until its reply, so that the objects live as long."""

    def __enter__(self) -> KeepAlive:
        self._token = _packing.set(self)
        return self

    def __exit__(self, *failed: object) -> None:
        _packing.reset(self._token)


def note_packed(reference: object) -> None:
    """Add a reference that is being packed to the surrounding `KeepAlive`, if there is one."""
    packing = _packing.get()
    if packing is not None:
        packing.append(reference)


def may_hold_references(args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """False if all arguments are of plain types, as most are."""
    return not (PLAIN_TYPES.issuperset(map(type, args)) and PLAIN_TYPES.issuperset(map(type, kwargs.values())))
