"""The state of a durable actor: what is kept of it after each message, put back where one failed, and read by whoever goes on.

State is the instance's attributes, or what its `__getstate__` gives; the fields where its class is a pydantic model. It is JSON
where JSON gives back exactly the same, else a signed pickle. A model is what its fields are as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pydantic_core
from pydantic import BaseModel

from actorhub.actors.spec import ActorSpec
from actorhub.durable.protocol.records import StateRecord
from actorhub.errors import ActorHubError, NotSerialisable, PayloadTooLarge
from actorhub.wire.codec import Signer, is_json_tree, unpickled

STARS = b"*****"
DOUBTFUL = (STARS, b"null")  # what may not be read as what was written
PATCHED = 4096  # bytes of a pydantic model's state from which on commits have only the fields that changed


class StateTooNew(ActorHubError):
    """The journal was written by a later version of the actor's class."""


def check_version(spec: ActorSpec, version: int) -> None:
    """Raises:
    StateTooNew: a later version of the class wrote it.
    """
    if version > spec.state_version:
        raise StateTooNew(
            f"the state of {spec.class_name} was written by version {version} of its class, and this process has version "
            f"{spec.state_version}; start a node with the newer code"
        )


class StateSnapshots:
    """Of one instance. `limit`: bytes that a state may have at most."""

    def __init__(self, spec: ActorSpec, signer: Signer, limit: int) -> None:
        self.instance: Any = None
        self._spec = spec
        self._signer = signer
        self._limit = limit
        self._is_model = issubclass(spec.cls, BaseModel)
        self._own_getstate = getattr(spec.cls, "__getstate__", None) is not object.__getstate__
        self._kept: Any = None  # of a model: its fields as JSON; else attributes as bytes
        self._codec = ""
        self._committed: Any = None
        self._pickles = False  # it did not fit JSON the last time

    # ---- beginning

    def create(self, states: Sequence[StateRecord], make: Callable[[], Any]) -> Any:
        """The instance as the journal's `states` say, or a new one where it says nothing.

        Raises:
            StateTooNew, UntrustedPayload, NotSerialisable: it cannot be read here.
        """
        if not states:
            self.instance = make()
            return self.instance
        version = states[0].version
        state = self._read(states)
        if version < self._spec.state_version:
            self.instance = self._make(self._migrate(state, version))
        elif self._is_model:  # as JSON: of Python's own values a model may take fewer, or take them otherwise
            self.instance = self._read_back({"": pydantic_core.to_json(state)})
        else:
            self.instance = self._make(state)
        self.keep()
        if version == self._spec.state_version:
            self._committed = self._kept
        return self.instance

    def _read(self, states: Sequence[StateRecord]) -> Any:
        if states[0].codec == "pickle":
            return self._signer.loads(bytearray(states[0].body))  # arrays in it shall be writable
        state = pydantic_core.from_json(states[0].body)
        for patch in states[1:]:
            state.update(pydantic_core.from_json(patch.body))
        return state

    def _migrate(self, state: Any, version: int) -> Any:
        migrate = getattr(self._spec.cls, "migrate", None)
        if migrate is None:
            raise StateTooNew(
                f"the state of {self._spec.class_name} is of version {version}, and its class of version "
                f"{self._spec.state_version} has no `migrate(cls, state, from_version)`; write one"
            )
        return migrate(state, version)

    def _make(self, state: Any) -> Any:
        if self._is_model:
            return self._spec.cls.model_validate(state, by_alias=False, by_name=True)  # type: ignore[attr-defined]
        instance: Any = object.__new__(self._spec.cls)
        self._fill(instance, state)
        return instance

    def _fill(self, instance: Any, state: Any) -> None:
        if hasattr(instance, "__setstate__"):
            instance.__setstate__(state)
        else:
            if not self._own_getstate:
                vars(instance).clear()
            vars(instance).update(state)

    # ---- after each message

    def keep(self) -> None:
        """The instance is as it should be.

        Raises:
            NotSerialisable: an attribute cannot be kept; it is named.
            UntrustedPayload: it does not fit JSON, and there is no secret.
            PayloadTooLarge.
        """
        if self._is_model:
            kept: Any = self._fields()
            size = sum(len(value) for value in kept.values())
        else:
            kept = self._attributes()
            size = len(kept[1])
        if size > self._limit:
            raise PayloadTooLarge(
                f"the state of {self._spec.cls.__qualname__} has {size} bytes, and {self._limit} fit into its journal; "
                "keep large values in the object store (hub.put) and their references here"
            )
        self._kept = kept

    def put_back(self) -> None:
        """The instance becomes again what it was when it was kept last."""
        if self._kept is None:
            return
        if self._is_model:
            self.instance.__dict__.update(self._read_back(self._kept).__dict__)
            return
        codec, body = self._kept
        self._fill(self.instance, pydantic_core.from_json(body) if codec == "json" else _unpickled(body))

    def _fields(self) -> dict[str, bytes]:
        fields = {name: self._field(name) for name in type(self.instance).model_fields}
        before = self._kept or {}
        doubtful = [name for name, v in fields.items() if v != before.get(name) and any(d in v for d in DOUBTFUL)]
        if doubtful:
            self._check(fields, doubtful)
        return fields

    def _field(self, name: str) -> bytes:
        serializer = self.instance.__pydantic_serializer__
        try:
            return bytes(serializer.to_json(self.instance, include={name}, by_alias=False, warnings="error"))
        except Exception as exc:
            raise NotSerialisable(f"{self._spec.cls.__qualname__}.{name} cannot be kept: {exc}") from exc

    def _check(self, fields: dict[str, bytes], doubtful: Sequence[str]) -> None:
        """A secret is written as stars, and an infinity as null."""
        what = f"{self._spec.cls.__qualname__}.{' or .'.join(doubtful)}"
        try:
            same = self._read_back(fields)
        except ValueError as exc:
            raise NotSerialisable(f"{what} cannot be kept: as JSON it does not fit its type: {exc}") from exc
        for name in doubtful:
            if STARS in fields[name] and getattr(same, name) != getattr(self.instance, name):
                raise NotSerialisable(f"{self._spec.cls.__qualname__}.{name} cannot be kept: a secret has no JSON")

    def _read_back(self, fields: dict[str, bytes]) -> Any:
        return self._spec.cls.model_validate_json(_joined(fields), by_alias=False, by_name=True)  # type: ignore[attr-defined]

    def _attributes(self) -> tuple[str, bytes]:
        """As bytes that only this process reads: what goes into a commit is signed then."""
        what = self._spec.cls.__qualname__
        try:
            state = self.instance.__getstate__() if self._own_getstate else vars(self.instance)
        except Exception as exc:
            raise NotSerialisable(f"{what}.__getstate__ raised {type(exc).__name__}: {exc}") from exc
        if not self._pickles and is_json_tree(state):
            with suppress(pydantic_core.PydanticSerializationError):  # of text that no UTF-8 can express
                return "json", pydantic_core.to_json(state)
        self._pickles = True
        return "pickle", b"".join(self._signer.pickled(state, what).pieces())

    @property
    def size(self) -> int:
        """Bytes that the state has."""
        if self._kept is None:
            return 0
        return sum(len(value) for value in self._kept.values()) if self._is_model else len(self._kept[1])

    # ---- for a commit

    def state(self, key: str, *, whole: bool) -> StateRecord | None:
        """What has changed since it was asked for the last time; all of it if it must be whole, or has a key: of such a state a
        reader sees the last one only."""
        before, self._committed = self._committed, self._kept
        if self._kept is None:
            return None
        version = self._spec.state_version
        if self._is_model:
            changed = {k: v for k, v in self._kept.items() if before is None or before.get(k) != v}
            if not changed and not whole:
                return None
            size = sum(len(value) for value in self._kept.values())
            patch = not whole and not key and before is not None and size >= PATCHED and len(changed) < len(self._kept)
            body = _joined(changed if patch else self._kept)
            return StateRecord(key=key, codec="json", version=version, patch=patch, body=body, size=len(body))
        if before == self._kept and not whole:
            return None
        codec, body = self._kept
        if codec == "pickle":
            body = self._signer.sign(body)
        return StateRecord(key=key, codec=codec, version=version, body=body, size=len(body))


def _unpickled(body: bytes) -> Any:
    return unpickled(memoryview(bytearray(body)), "a state")


def _joined(fields: dict[str, bytes]) -> bytes:
    """One JSON object of many with one field each."""
    return b"{" + b",".join(value[1:-1] for value in fields.values()) + b"}"
