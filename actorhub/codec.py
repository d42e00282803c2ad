"""Payloads that JSON cannot express: cloudpickle with out-of-band buffers, signed with the cluster's secret.

Layout: a version byte, 32 bytes of keyed BLAKE2b over all that follows, the number of parts, their lengths (eight bytes each,
big endian), the pickle, then the buffers. Nothing is unpickled before the signature has been verified.
"""

from __future__ import annotations

import hmac
import math
import pickle
import struct
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import cloudpickle

from actorhub.errors import NotSerialisable, UntrustedPayload

_VERSION = b"\x01"
_DIGEST = 32
_DEPTH = 6
_HOW = "set the same ACTORHUB_SECRET for every process of the cluster"


class Signer:
    """Pickles and unpickles what is signed with one secret. Without a secret it refuses both."""

    def __init__(self, secret: str | None) -> None:
        self._key = blake2b(secret.encode(), person=b"actorhub-pickle").digest() if secret else None

    @property
    def trusts(self) -> bool:
        """Whether there is a secret, so that pickles can travel."""
        return self._key is not None

    def dumps(self, value: object, what: str) -> bytes:
        """`what` names the value in errors.

        Raises:
            UntrustedPayload: there is no secret.
            NotSerialisable: names the part that cannot be pickled.
        """
        if self._key is None:
            raise UntrustedPayload(f"{what} does not fit JSON and would travel as a signed pickle; {_HOW}")
        buffers: list[pickle.PickleBuffer] = []
        try:
            head = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        except Exception as exc:
            path, culprit = _culprit(value, what)
            raise NotSerialisable(
                f"{path} cannot be sent: {type(culprit).__qualname__} is not picklable ({exc})"
            ) from exc
        parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        sizes = struct.pack(f">I{len(parts)}Q", len(parts), *(part.nbytes for part in parts))
        signed = b"".join((sizes, *parts))
        return _VERSION + self._sign(signed, self._key) + signed

    def loads(self, data: bytes) -> Any:
        """Buffers are views of `data`: arrays are read without copying, and are read-only.

        Raises:
            UntrustedPayload: unsigned, wrongly signed, cut off, or there is no secret here.
        """
        if self._key is None:
            raise UntrustedPayload(f"a pickled payload came, and this process has no secret to verify it; {_HOW}")
        signed = memoryview(data)[1 + _DIGEST :]
        if data[:1] != _VERSION or not hmac.compare_digest(data[1 : 1 + _DIGEST], self._sign(signed, self._key)):
            raise UntrustedPayload(
                f"a pickled payload of {len(data)} bytes is not signed with this cluster's secret; {_HOW}"
            )
        head, *buffers = _parts(signed)
        try:
            return pickle.loads(head, buffers=buffers)
        except Exception as exc:
            raise NotSerialisable(f"a signed payload cannot be unpickled here: {type(exc).__name__}: {exc}") from exc

    @staticmethod
    def _sign(signed: bytes | memoryview, key: bytes) -> bytes:
        return blake2b(signed, key=key, digest_size=_DIGEST).digest()


def _parts(signed: memoryview) -> Iterator[memoryview]:
    (count,) = struct.unpack_from(">I", signed)
    sizes = struct.unpack_from(f">{count}Q", signed, 4)
    start = 4 + 8 * count
    for size in sizes:
        yield signed[start : start + size]
        start += size


def by_value(thing: type | Callable[..., Any]) -> bool:
    """Whether a class or function exists only here, in a script, a notebook or a function, so that others cannot import it."""
    module = sys.modules.get(thing.__module__)
    if thing.__module__ == "__main__" or module is None:
        return True
    return "<locals>" in thing.__qualname__ or not hasattr(module, "__file__")


def is_json_native(value: object) -> bool:
    """Whether JSON gives back exactly this value: no tuples, no subclasses, no infinities."""
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


def _culprit(value: object, path: str, depth: int = _DEPTH, seen: frozenset[int] = frozenset()) -> tuple[str, object]:
    """The innermost part of a value that cannot be pickled by itself."""
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
        cloudpickle.dumps(value, protocol=5, buffer_callback=lambda _: None)
    except Exception:
        return False
    return True
