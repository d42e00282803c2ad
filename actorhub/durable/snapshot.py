"""Snapshots of a durable actor's state: captured after each message, restored after a failed one, and read by the next owner.

State is the instance's attributes, or what its `__getstate__` returns; of a pydantic model, its fields. It is encoded as JSON
if JSON gives back exactly the same, else as a signed pickle. A model is always the JSON of its fields.
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
from actorhub.wire.codec import is_json_tree, unpickled
from actorhub.wire.signer import Signer

MASKED_SECRET = b"*****"
DOUBTFUL = (MASKED_SECRET, b"null")
"""JSON that may stand for another value than itself: pydantic masks secrets, and writes infinities as null."""

PATCH_FROM_BYTES = 4096
"""Size of a pydantic model's state from which on commits hold only the fields that have changed."""


class StateTooNew(ActorHubError):
    """The journal was written by a later version of the actor's class than this process has."""


def check_version(spec: ActorSpec, version: int) -> None:
    """Raises:
    StateTooNew: a later version of the class wrote the state.
    """
    if version > spec.state_version:
        raise StateTooNew(
            f"the state of {spec.class_name} was written by version {version} of its class, and this process has version "
            f"{spec.state_version}; start a node with the newer code"
        )


class StateSnapshots:
    """Snapshots of one instance. `max_bytes`: the largest state that is allowed."""

    def __init__(self, spec: ActorSpec, signer: Signer, max_bytes: int) -> None:
        self.instance: Any = None
        self._spec = spec
        self._signer = signer
        self._max_bytes = max_bytes
        self._is_model = issubclass(spec.cls, BaseModel)
        self._own_getstate = getattr(spec.cls, "__getstate__", None) is not object.__getstate__
        self._captured: Any = None
        """Of a model, its fields as JSON, by name; else the codec and the encoded attributes."""

        self._committed: Any = None
        """What was captured when the last commit took it."""

        self._pickles = False
        """The state did not fit JSON the last time."""

    # ---- creation

    def create(self, states: Sequence[StateRecord], make: Callable[[], Any]) -> Any:
        """The instance, from the journal's `states`; if there are none, `make` creates a new one.

        Raises:
            StateTooNew, UntrustedPayload, NotSerialisable: the state cannot be read here.
        """
        if not states:
            self.instance = make()
            return self.instance
        version = states[0].version
        state = self._read(states)
        if version < self._spec.state_version:
            self.instance = self._make(self._migrate(state, version))
        elif self._is_model:  # by way of JSON: a model may accept fewer Python values, or take them differently
            self.instance = self._read_back({"": pydantic_core.to_json(state)})
        else:
            self.instance = self._make(state)
        self.capture()
        if version == self._spec.state_version:
            self._committed = self._captured
        return self.instance

    def _read(self, states: Sequence[StateRecord]) -> Any:
        if states[0].codec == "pickle":
            return self._signer.loads(bytearray(states[0].body))  # a copy, so that arrays in it are writable
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

    def capture(self) -> None:
        """Keep the instance's state as it is now.

        Raises:
            NotSerialisable: an attribute cannot be kept; it is named.
            UntrustedPayload: the state does not fit JSON, and there is no secret to sign a pickle with.
            PayloadTooLarge: the state is larger than allowed.
        """
        if self._is_model:
            captured: Any = self._fields()
            size = sum(len(value) for value in captured.values())
        else:
            captured = self._attributes()
            size = len(captured[1])
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"the state of {self._spec.cls.__qualname__} has {size} bytes, and {self._max_bytes} fit into its journal; "
                "keep large values in the object store (hub.put) and their references here"
            )
        self._captured = captured

    def restore(self) -> None:
        """Give the instance the state again that was captured last."""
        if self._captured is None:
            return
        if self._is_model:
            self.instance.__dict__.update(self._read_back(self._captured).__dict__)
            return
        codec, body = self._captured
        self._fill(self.instance, pydantic_core.from_json(body) if codec == "json" else _unpickled(body))

    def _fields(self) -> dict[str, bytes]:
        fields = {name: self._field(name) for name in type(self.instance).model_fields}
        before = self._captured or {}
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
        """Raise NotSerialisable unless these fields mean what the instance has."""
        what = f"{self._spec.cls.__qualname__}.{' or .'.join(doubtful)}"
        try:
            same = self._read_back(fields)
        except ValueError as exc:
            raise NotSerialisable(f"{what} cannot be kept: as JSON it does not fit its type: {exc}") from exc
        for name in doubtful:
            if MASKED_SECRET in fields[name] and getattr(same, name) != getattr(self.instance, name):
                raise NotSerialisable(f"{self._spec.cls.__qualname__}.{name} cannot be kept: a secret has no JSON")

    def _read_back(self, fields: dict[str, bytes]) -> Any:
        return self._spec.cls.model_validate_json(_joined(fields), by_alias=False, by_name=True)  # type: ignore[attr-defined]

    def _attributes(self) -> tuple[str, bytes]:
        """Codec and bytes of the attributes. Not signed yet: that is done for a commit only."""
        what = self._spec.cls.__qualname__
        try:
            state = self.instance.__getstate__() if self._own_getstate else vars(self.instance)
        except Exception as exc:
            raise NotSerialisable(f"{what}.__getstate__ raised {type(exc).__name__}: {exc}") from exc
        if not self._pickles and is_json_tree(state):
            with suppress(pydantic_core.PydanticSerializationError):  # it has text that UTF-8 cannot express
                return "json", pydantic_core.to_json(state)
        self._pickles = True
        return "pickle", b"".join(self._signer.pickled(state, what).pieces())

    @property
    def size(self) -> int:
        """Bytes of the captured state."""
        if self._captured is None:
            return 0
        return sum(len(value) for value in self._captured.values()) if self._is_model else len(self._captured[1])

    # ---- for a commit

    def take_changes(self, key: str, *, whole: bool) -> StateRecord | None:
        """The record for a commit; None if nothing has changed since the last one.

        It may be a patch, unless it must be `whole` or has a key: of such states, readers look only at the last record.
        """
        before, self._committed = self._committed, self._captured
        if self._captured is None:
            return None
        version = self._spec.state_version
        if self._is_model:
            changed = {k: v for k, v in self._captured.items() if before is None or before.get(k) != v}
            if not changed and not whole:
                return None
            may_patch = not whole and not key and before is not None and len(changed) < len(self._captured)
            patch = may_patch and self.size >= PATCH_FROM_BYTES
            body = _joined(changed if patch else self._captured)
            return StateRecord(key=key, codec="json", version=version, patch=patch, body=body, size=len(body))
        if before == self._captured and not whole:
            return None
        codec, body = self._captured
        if codec == "pickle":
            body = self._signer.sign(body)
        return StateRecord(key=key, codec=codec, version=version, body=body, size=len(body))


def _unpickled(body: bytes) -> Any:
    return unpickled(memoryview(bytearray(body)), "a state")


def _joined(fields: dict[str, bytes]) -> bytes:
    """Join JSON objects with one field each into one object."""
    return b"{" + b",".join(value[1:-1] for value in fields.values()) + b"}"
