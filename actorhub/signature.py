"""A callable's annotations, as validators of its arguments and its result.

Arguments travel as a JSON object of parameter names and values, by pydantic's rules; they are validated where they are
sent and again where they arrive. Where an annotation is missing, `Any`, or a class that pydantic does not know, a value
goes as JSON only if JSON gives back exactly the same; otherwise all arguments go as one signed pickle.

As in pydantic, a subclass given for a model or dataclass travels as the annotated class, with its fields alone.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
import typing
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NotRequired

import pydantic_core
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import CoreConfig, PydanticSerializationError, SchemaSerializer, SchemaValidator
from typing_extensions import TypedDict

from actorhub.codec import Pickled, Signer, is_json_native
from actorhub.envelope import Codec
from actorhub.errors import InvalidArguments, InvalidResult, NotSerialisable

MethodKind = Literal["async", "sync", "async_generator", "sync_generator"]

_CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
    allow_inf_nan=True,
)
_CORE_CONFIG = CoreConfig(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
_ITERABLES = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Iterable,
)
_typed_dict: Any = TypedDict  # made at run time, which type checkers do not follow
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """Made once for each method; its validators are compiled at first use."""

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
        """`bound`: the first parameter is the instance."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            parameters = []
        if function is object.__init__:
            parameters = []
        return cls(function, owner, parameters[1:] if bound else parameters, _kind(function))

    @property
    def takes_one(self) -> bool:
        """Whether it has a positional parameter."""
        return bool(self._positional)

    # ---- arguments

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer) -> tuple[bytes, Codec]:
        """Raises:
        InvalidArguments: they do not fit the parameters.
        NotSerialisable, UntrustedPayload: they fit, and cannot be sent.
        """
        shape, opaque = self._arguments
        try:
            given = self._bind(args, kwargs)
            known = shape.validator.validate_python(given)
        except ValidationError as exc:
            raise self._invalid(exc) from exc
        if opaque and not all(_fits_json(known[name], test) for name, test in opaque.items() if name in known):
            return signer.dumps(known, self.label), Codec.PICKLE
        try:
            return shape.serializer.to_json(known, warnings="error"), Codec.JSON
        except PydanticSerializationError as exc:
            if signer.trusts:
                return signer.dumps(known, self.label), Codec.PICKLE
            raise NotSerialisable(
                f"an argument of {self.label} cannot be sent as JSON: {exc}; set ACTORHUB_SECRET"
            ) from exc

    def pack_unseen(self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer) -> tuple[bytes, Codec]:
        """For arguments with stand-ins among them, whose values are validated only where they are known.

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
        """Positional and keyword arguments for the call. `alone`: the payload is the value of the first parameter.

        Raises:
            InvalidArguments: what came does not fit the parameters.
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
        """The same for what was unpickled, and whose stand-ins have given way to values.

        Raises:
            InvalidArguments: they do not fit the parameters.
        """
        try:
            known = self._bind((given,), {}) if alone else given
            return self._arranged(self._arguments[0].validator.validate_python(known))
        except ValidationError as exc:
            raise self._invalid(exc) from exc

    def _arranged(self, known: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """As the call takes them."""
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
        """The JSON object of arguments whose first one is this."""
        if self._positional:
            return b"{%b:%b}" % (pydantic_core.to_json(self._positional[0]), payload)
        if self._rest is not None:
            return b"{%b:[%b]}" % (pydantic_core.to_json(self._rest), payload)
        raise InvalidArguments(f"{self.label} takes no argument, and the result of another task was given to it")

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """As Python binds them, defaults left out."""
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
        """The result, or one item of a generator.

        Raises:
            InvalidResult: it does not fit the return annotation.
            NotSerialisable, UntrustedPayload: it fits, and cannot be sent.
        """
        packed = self.pack_small_result(value, signer, None)
        assert isinstance(packed, tuple), "without a limit nothing is too large"
        return packed

    def pack_small_result(self, value: Any, signer: Signer, limit: int | None) -> tuple[bytes, Codec] | Pickled:
        """The same, for a result of up to `limit` bytes. A larger one is only pickled, for a store, where the cluster has a
        secret: its bytes have not been put together yet.

        Raises:
            InvalidResult, NotSerialisable, UntrustedPayload.
        """
        shape, test = self._result
        what = f"the result of {self.label}"
        known = self.accept_result(value)
        limit = limit if signer.trusts else None
        if limit is not None and isinstance(known, bytes | str) and len(known) > limit:
            return signer.pickled(known, what)
        if test is not None and not _fits_json(known, test):
            return self._pickle_result(known, what, signer, limit)
        try:
            payload = shape.serializer.to_json(known, warnings="error")
        except PydanticSerializationError as exc:
            if signer.trusts:
                return self._pickle_result(known, what, signer, limit)
            raise NotSerialisable(f"{what} cannot be sent as JSON: {exc}; set ACTORHUB_SECRET") from exc
        if limit is not None and len(payload) > limit:
            return signer.pickled(known, what)
        return payload, Codec.JSON

    @staticmethod
    def _pickle_result(known: Any, what: str, signer: Signer, limit: int | None) -> tuple[bytes, Codec] | Pickled:
        pickled = signer.pickled(known, what)
        return pickled if limit is not None and pickled.size > limit else (signer.seal(pickled), Codec.PICKLE)

    def unpack_result(self, payload: bytes, codec: Codec, signer: Signer) -> Any:
        """The result; for one that is kept in a store, the stand-in of it.

        Raises:
            InvalidResult: what came does not fit the return annotation.
            UntrustedPayload: a pickle without the cluster's signature.
        """
        if codec is not Codec.JSON:
            value = signer.loads(payload)
            return value if codec is Codec.STORED else self.accept_result(value)
        try:
            return self._result[0].validator.validate_json(payload)
        except ValidationError as exc:
            raise InvalidResult(_report(f"the result of {self.label}", exc)) from exc

    def accept_result(self, value: Any) -> Any:
        """A value as the return annotation has it.

        Raises:
            InvalidResult: it does not fit.
        """
        try:
            return self._result[0].validator.validate_python(value)
        except ValidationError as exc:
            raise InvalidResult(_report(f"the result of {self.label}", exc)) from exc

    def schema(self) -> dict[str, Any]:
        """The JSON schemas of `arguments` and `result`, for other languages."""
        return {"arguments": self._arguments[0].adapter.json_schema(), "result": self._result[0].adapter.json_schema()}

    # ---- compiled at first use

    @cached_property
    def _hints(self) -> dict[str, Any]:
        function = self._function
        try:
            return typing.get_type_hints(function, include_extras=True)
        except NameError:
            # names of an enclosing function are in its closure, if anywhere
            cells = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
            names = {**vars(sys.modules[function.__module__]), **cells}
            return {name: _evaluate(hint, names) for name, hint in getattr(function, "__annotations__", {}).items()}

    @cached_property
    def _arguments(self) -> tuple[Shape, dict[str, _Test]]:
        fields: dict[str, Any] = {}
        for parameter in self._parameters:
            hint = self._hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                fields[parameter.name] = NotRequired[list[hint]]  # type: ignore[valid-type]
            elif parameter.kind is parameter.VAR_KEYWORD:
                fields[parameter.name] = NotRequired[dict[str, hint]]  # type: ignore[valid-type]
            elif parameter.default is not parameter.empty:
                fields[parameter.name] = NotRequired[hint]
            else:
                fields[parameter.name] = hint
        arguments = _typed_dict("Arguments", fields)
        arguments.__pydantic_config__ = _CONFIG
        tests: dict[str, _Test] = {
            name: test for name, hint in fields.items() if (test := _opaque(_bare(hint))) is not None
        }
        return Shape(TypeAdapter(arguments)), tests

    @cached_property
    def _result(self) -> tuple[Shape, _Test | None]:
        hint = self._hints.get("return", Any)
        if self.is_generator:
            hint = (typing.get_args(hint) or (Any,))[0] if typing.get_origin(hint) in _ITERABLES else Any
        return _shape(hint), _opaque(hint)


class Untyped(Signature):
    """Of a method that this process knows only by name: any keyword arguments, any result, as JSON."""

    def __init__(self, label: str) -> None:
        def unknown(**arguments: Any) -> Any: ...

        super().__init__(unknown, "", [], "async")
        self.label = label

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], signer: Signer) -> tuple[bytes, Codec]:
        return pydantic_core.to_json(kwargs), Codec.JSON


def _opaque(hint: Any) -> _Test | None:
    """None where every value of the annotation fits JSON."""
    shape = _shape(hint)
    schema: Any = shape.schema
    if schema.get("type") in ("any", "is-instance"):
        return "native"
    return shape if _has_opaque_part(schema, set()) else None


def _has_opaque_part(schema: Any, seen: set[int]) -> bool:
    if id(schema) in seen:
        return False
    seen.add(id(schema))
    if isinstance(schema, dict):
        if schema.get("type") in ("any", "is-instance", "is-subclass", "callable") and "serialization" not in schema:
            return True
        return any(_has_opaque_part(part, seen) for name, part in schema.items() if name not in ("metadata", "config"))
    return isinstance(schema, list | tuple) and any(_has_opaque_part(part, seen) for part in schema)


def _fits_json(value: Any, test: _Test) -> bool:
    if test == "native" or is_json_native(value):
        return is_json_native(value)
    try:
        return bool(test.validator.validate_json(test.serializer.to_json(value, warnings="error")) == value)
    except Exception:
        return False


class Shape:
    """An annotation's validator and serialiser. Models and dataclasses keep to their own configuration; all else goes by ours,
    under which every value comes back: bytes as base64, infinities by name."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.adapter = adapter
        self.schema = adapter.core_schema
        self.validator = SchemaValidator(self.schema, _CORE_CONFIG)
        self.serializer = SchemaSerializer(self.schema, _CORE_CONFIG)


_Test = Shape | Literal["native"]
"""How to find out whether a value of an opaque annotation fits JSON: it is native, or comes back equal."""


def _shape(hint: Any) -> Shape:
    try:
        return Shape(TypeAdapter(hint, config=_CONFIG))
    except PydanticUserError as exc:
        if exc.code != "type-adapter-config-unused":
            raise
        return Shape(TypeAdapter(hint))  # models, dataclasses and typed dictionaries bring their own


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint


def _evaluate(hint: Any, names: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, names)
    except NameError:
        return Any


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
