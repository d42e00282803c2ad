"""A callable's annotations, as validators of its arguments and its result.

Arguments travel as a JSON object of parameter names and values, by pydantic's rules; they are validated where they are
sent and again where they arrive. Where JSON does not give a value back (`schema.py`), all arguments go as one signed
pickle.

As in pydantic, a subclass given for a model or dataclass travels as the annotated class, with its fields alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import pydantic_core
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from actorhub.errors import InvalidArguments, InvalidResult, NotSerialisable
from actorhub.wire.codec import PickledParts
from actorhub.wire.envelope import Codec
from actorhub.wire.schema import ValueSchema, hints_of, item_of, shape_of_arguments
from actorhub.wire.signer import Signer

MethodKind = Literal["async", "sync", "async_generator", "sync_generator"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """Signature of a method, made once; its validators are compiled at first use."""

    def __init__(
        self, function: Callable[..., Any], owner: str, parameters: list[inspect.Parameter], kind: MethodKind
    ) -> None:
        self.label = f"{owner}.{function.__name__}"
        self.kind: MethodKind = kind
        self.is_generator = kind in ("async_generator", "sync_generator")
        self._function = function
        self._parameters = parameters
        self._positional = [p.name for p in parameters if p.kind in _POSITIONAL]
        self._names = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL and p.kind is not p.VAR_KEYWORD}
        self._positional_only = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self._required = {p.name for p in parameters if p.default is p.empty and p.name in self._names}
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._others = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)

    @classmethod
    def of(cls, function: Callable[..., Any], *, owner: str, bound: bool) -> Signature:
        """Signature of a function. `bound` tells that its first parameter is the instance."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            parameters = []
        if function is object.__init__:
            parameters = []
        return cls(function, owner, parameters[1:] if bound else parameters, _kind(function))

    def __getstate__(self) -> dict[str, Any]:
        """State for a class that travels by value: without the compiled validators, and with the values of the names in
        its annotations, which the other side could not find out."""
        compiled = {name for name, value in vars(type(self)).items() if isinstance(value, cached_property)}
        return {name: value for name, value in vars(self).items() if name not in compiled} | {"_hints": self._hints}

    @property
    def has_positional(self) -> bool:
        """True if it has a positional parameter."""
        return bool(self._positional)

    # ---- arguments

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer) -> tuple[bytes, Codec]:
        """Pack arguments for the wire.

        Raises:
            InvalidArguments: they do not fit the parameters.
            NotSerialisable, UntrustedPayload: they fit, and cannot be sent.
        """
        whole, opaque = self._arguments
        try:
            given = self._bind(args, kwargs)
            known = whole.validator.validate_python(given)
        except ValidationError as exc:
            raise self._invalid(exc) from exc
        if opaque and not all(
            shape.round_trips_as_json(known[name]) for name, shape in opaque.items() if name in known
        ):
            return signer.dumps(known, self.label), Codec.PICKLE
        try:
            return whole.serializer.to_json(known, warnings="error"), Codec.JSON
        except PydanticSerializationError as exc:
            if signer.trusts:
                return signer.dumps(known, self.label), Codec.PICKLE
            raise NotSerialisable(
                f"an argument of {self.label} cannot be sent as JSON: {exc}; set ACTORHUB_SECRET"
            ) from exc

    def pack_with_placeholders(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer
    ) -> tuple[bytes, Codec]:
        """Pack arguments with placeholders among them, whose values are validated only when they are known.

        Raises:
            InvalidArguments: there are too many, or some are missing.
            NotSerialisable, UntrustedPayload: they cannot be sent.
        """
        given = self._bind(args, kwargs)
        missing = [p.name for p in self._parameters if p.name in self._required and p.name not in given]
        if missing:
            raise InvalidArguments(f"{self.label}: {', '.join(missing)}: missing")
        return signer.dumps(given, self.label), Codec.STORED

    def unpack(
        self, payload: bytes, codec: Codec, signer: Signer, *, alone: bool = False
    ) -> tuple[list[Any], dict[str, Any]]:
        """Unpack the positional and keyword arguments of a call. With `alone` the payload is the value of the first
        parameter.

        Raises:
            InvalidArguments: the payload does not fit the parameters.
            UntrustedPayload: a pickle without the cluster's signature.
        """
        if codec is Codec.STORED:
            raise InvalidArguments(f"{self.label}: only tasks take the values of references; pass the reference itself")
        if codec is Codec.PICKLE:
            return self.accept(signer.loads(payload), alone=alone)
        try:
            return self._arranged(
                self._arguments[0].validator.validate_json(self._named(payload) if alone else payload)
            )
        except ValidationError as exc:
            raise self._invalid(exc) from exc

    def accept(self, given: Any, *, alone: bool = False) -> tuple[list[Any], dict[str, Any]]:
        """Validate unpickled arguments, whose placeholders have been replaced by values; return them like `unpack`.

        Raises:
            InvalidArguments: they do not fit the parameters.
        """
        try:
            known = self._bind((given,), {}) if alone else given
            return self._arranged(self._arguments[0].validator.validate_python(known))
        except ValidationError as exc:
            raise self._invalid(exc) from exc

    def _arranged(self, known: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arrange arguments as the call takes them."""
        args: list[Any] = []
        if self._positional_only or (self._rest is not None and self._rest in known):
            names = self._positional if self._rest is not None and self._rest in known else self._positional_only
            for name in names:
                if name not in known:
                    break
                args.append(known.pop(name))
            args.extend(known.pop(self._rest, ()) if self._rest is not None else ())
        if self._others is not None:
            known.update(known.pop(self._others, {}))
        return args, known

    def _named(self, payload: bytes) -> bytes:
        """Name the value of the first parameter: the JSON object of arguments that holds it."""
        if self._positional:
            return b"{%b:%b}" % (pydantic_core.to_json(self._positional[0]), payload)
        if self._rest is not None:
            return b"{%b:[%b]}" % (pydantic_core.to_json(self._rest), payload)
        raise InvalidArguments(f"{self.label} takes no argument, and the result of another task was given to it")

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Bind arguments as Python does, without defaults."""
        positional = self._positional
        given = dict(zip(positional, args, strict=False))
        if len(args) > len(positional):
            if self._rest is None:
                raise InvalidArguments(
                    f"{self.label} takes {len(positional)} positional arguments, and {len(args)} were given"
                )
            given[self._rest] = list(args[len(positional) :])
        if not kwargs:
            return given
        others: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self._names and name not in self._positional_only:
                if name in given:
                    raise InvalidArguments(f"{self.label} got {name!r} twice, by position and by name")
                given[name] = value
            elif self._others is not None:
                others[name] = value
            elif name in self._positional_only:
                raise InvalidArguments(f"{self.label} takes {name!r} by position only")
            else:
                raise InvalidArguments(
                    f"{self.label} has no parameter {name!r}; it has: {', '.join(sorted(self._names)) or 'none'}"
                )
        if others and self._others is not None:
            given[self._others] = others
        return given

    def _invalid(self, error: ValidationError) -> InvalidArguments:
        return InvalidArguments(_report(self.label, error))

    # ---- results

    def pack_result(self, value: Any, signer: Signer) -> tuple[bytes, Codec]:
        """Pack the result, or one item of a generator.

        Raises:
            InvalidResult: it does not fit the return annotation.
            NotSerialisable, UntrustedPayload: it fits, and cannot be sent.
        """
        packed = self.pack_result_up_to(value, signer, None)
        assert isinstance(packed, tuple), "without a limit nothing is too large"
        return packed

    def pack_result_up_to(self, value: Any, signer: Signer, limit: int | None) -> tuple[bytes, Codec] | PickledParts:
        """Pack a result of up to `limit` bytes. A larger one is only pickled, for a store, if the cluster has a secret:
        its bytes have not been joined yet.

        Raises:
            InvalidResult, NotSerialisable, UntrustedPayload.
        """
        what = f"the result of {self.label}"
        known = self.accept_result(value)
        limit = limit if signer.trusts else None
        if limit is not None and isinstance(known, bytes | str) and len(known) > limit:
            return signer.pickled(known, what)
        if not self._result.round_trips_as_json(known):
            return self._pickle_result(known, what, signer, limit)
        try:
            payload = self._result.serializer.to_json(known, warnings="error")
        except PydanticSerializationError as exc:
            if signer.trusts:
                return self._pickle_result(known, what, signer, limit)
            raise NotSerialisable(f"{what} cannot be sent as JSON: {exc}; set ACTORHUB_SECRET") from exc
        if limit is not None and len(payload) > limit:
            return signer.pickled(known, what)
        return payload, Codec.JSON

    @staticmethod
    def _pickle_result(known: Any, what: str, signer: Signer, limit: int | None) -> tuple[bytes, Codec] | PickledParts:
        pickled = signer.pickled(known, what)
        return pickled if limit is not None and pickled.size > limit else (signer.seal(pickled), Codec.PICKLE)

    def unpack_result(self, payload: bytes, codec: Codec, signer: Signer) -> Any:
        """Unpack the result, or the placeholder of one that is kept in a store.

        Raises:
            InvalidResult: the payload does not fit the return annotation.
            UntrustedPayload: a pickle without the cluster's signature.
        """
        if codec is not Codec.JSON:
            value = signer.loads(payload)
            return value if codec is Codec.STORED else self.accept_result(value)
        try:
            return self._result.validator.validate_json(payload)
        except ValidationError as exc:
            raise InvalidResult(_report(f"the result of {self.label}", exc)) from exc

    def accept_result(self, value: Any) -> Any:
        """Validate a value by the return annotation.

        Raises:
            InvalidResult: it does not fit.
        """
        try:
            return self._result.validator.validate_python(value)
        except ValidationError as exc:
            raise InvalidResult(_report(f"the result of {self.label}", exc)) from exc

    def schema(self) -> dict[str, Any]:
        """JSON schemas of `arguments` and `result`, for other languages."""
        return {"arguments": self._arguments[0].adapter.json_schema(), "result": self._result.adapter.json_schema()}

    # ---- compiled at first use

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return hints_of(self._function)

    @cached_property
    def _arguments(self) -> tuple[ValueSchema, dict[str, ValueSchema]]:
        return shape_of_arguments(self._parameters, self._hints)

    @cached_property
    def _result(self) -> ValueSchema:
        hint = self._hints.get("return", Any)
        return ValueSchema.of(item_of(hint) if self.is_generator else hint)


class Untyped(Signature):
    """Signature of a method that this process knows only by name: any keyword arguments, any result, as JSON."""

    def __init__(self, label: str) -> None:
        def unknown(**arguments: Any) -> Any: ...

        super().__init__(unknown, "", [], "async")
        self.label = label

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer) -> tuple[bytes, Codec]:
        return pydantic_core.to_json(kwargs), Codec.JSON


def _kind(function: Callable[..., Any]) -> MethodKind:
    if inspect.isasyncgenfunction(function):
        return "async_generator"
    if inspect.isgeneratorfunction(function):
        return "sync_generator"
    return "async" if inspect.iscoroutinefunction(function) else "sync"


def _report(label: str, error: ValidationError) -> str:
    rows = [
        f"{'.'.join(str(part) for part in row['loc']) or 'value'}: {row['msg']} (got {row['input']!r:.80})"
        for row in error.errors(include_url=False, include_context=False)
    ]
    return f"{label}: " + "; ".join(rows)
