"""Schemas of annotations: validation of values, their JSON, and whether JSON gives them back.

Models and dataclasses keep their own configuration. All other types use one configuration, under which every value
comes back: bytes as base64, infinities by name.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NotRequired

from pydantic import ConfigDict, PydanticUserError, TypeAdapter
from pydantic_core import CoreConfig, SchemaSerializer, SchemaValidator
from typing_extensions import TypedDict

from actorhub.wire.codec import is_json_native

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
# made at run time, which type checkers do not follow
_typed_dict: Any = TypedDict


class ValueSchema:
    """Validator and serialiser of an annotation.

    It is opaque if the annotation is missing, `Any`, or a class that pydantic does not know, or has such a part: then
    it depends on the value whether JSON gives back exactly the same.
    """

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        # a model may have deferred it
        adapter.rebuild(raise_errors=True)
        self.adapter = adapter
        self.schema = adapter.core_schema
        self.validator = SchemaValidator(self.schema, _CORE_CONFIG)
        self.serializer = SchemaSerializer(self.schema, _CORE_CONFIG)

    @classmethod
    def of(cls, hint: Any) -> ValueSchema:
        try:
            return cls(TypeAdapter(hint, config=_CONFIG))
        except PydanticUserError as exc:
            if exc.code != "type-adapter-config-unused":
                raise
            # models, dataclasses and typed dictionaries bring their own
            return cls(TypeAdapter(hint))

    @cached_property
    def is_opaque(self) -> bool:
        return self._knows_nothing or _has_opaque_part(self.schema, set())

    def round_trips_as_json(self, value: Any) -> bool:
        """True if JSON gives this value back: it is native, or comes back equal."""
        if not self.is_opaque or is_json_native(value):
            return True
        if self._knows_nothing:
            return False
        try:
            return bool(self.validator.validate_json(self.serializer.to_json(value, warnings="error")) == value)
        except Exception:
            return False

    @cached_property
    def _knows_nothing(self) -> bool:
        """True if a value may come back equal and yet differ: a `str` for an instance of one of its subclasses."""
        schema: Any = self.schema
        return schema.get("type") in ("any", "is-instance")


def shape_of_arguments(
    parameters: Iterable[inspect.Parameter], hints: dict[str, Any]
) -> tuple[ValueSchema, dict[str, ValueSchema]]:
    """Schema of the JSON object of names and values, and the schemas of the opaque arguments."""
    fields: dict[str, Any] = {}
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
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
    shapes = {name: ValueSchema.of(_bare(hint)) for name, hint in fields.items()}
    return ValueSchema(TypeAdapter(arguments)), {name: shape for name, shape in shapes.items() if shape.is_opaque}


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint


def _has_opaque_part(schema: Any, seen: set[int]) -> bool:
    if id(schema) in seen:
        return False
    seen.add(id(schema))
    if isinstance(schema, dict):
        if schema.get("type") in ("any", "is-instance", "is-subclass", "callable") and "serialization" not in schema:
            return True
        return any(_has_opaque_part(part, seen) for name, part in schema.items() if name not in ("metadata", "config"))
    return isinstance(schema, list | tuple) and any(_has_opaque_part(part, seen) for part in schema)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function by names of parameters. One that cannot be resolved is `Any`."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        # names of an enclosing function are in its closure, if anywhere
        cells = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
        names = {**vars(sys.modules[function.__module__]), **cells}
        return {name: _evaluate(hint, names) for name, hint in getattr(function, "__annotations__", {}).items()}


def _evaluate(hint: Any, names: dict[str, Any]) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, names)
    except NameError:
        return Any


def item_of(hint: Any) -> Any:
    """Annotation of the items that a generator of this annotation yields."""
    return (typing.get_args(hint) or (Any,))[0] if typing.get_origin(hint) in _ITERABLES else Any
