"""Arguments and results by annotations: what comes back, what is refused, and by which words."""

from __future__ import annotations

import contextlib
import datetime
import inspect
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from actorhub import InvalidArguments, InvalidResult, NotSerialisable, UntrustedPayload
from actorhub.wire.envelope import Codec
from actorhub.wire.method_signature import Signature
from actorhub.wire.signer import Signer

signer = Signer("a secret")
blank = Signer(None)


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    price: Decimal = Decimal(1)


@dataclass
class Point:
    x: float
    y: float


class Opaque:
    """A class that pydantic does not know."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class Methods:
    async def typed(
        self,
        whole: int,
        real: float,
        text: str,
        raw: bytes,
        when: datetime.datetime,
        amount: Decimal,
        colour: Colour,
        ident: UUID,
        pair: tuple[int, str],
        unique: set[int],
        point: Point,
        item: Item,
        either: int | str | None = None,
    ) -> None: ...

    async def simple(self, a: int, b: str = "b", *, c: float = 1.0) -> int:
        return a

    async def many(self, first: int, /, *rest: int, **others: str) -> None: ...

    async def untyped(self, a, b=None): ...  # type: ignore[no-untyped-def]

    async def anything(self, value: Any) -> Any: ...

    async def opaque(self, value: Opaque) -> Opaque: ...

    async def bounded(
        self, count: Annotated[int, Field(gt=0, le=10)], mode: Literal["fast", "slow"] = "fast"
    ) -> None: ...

    async def items(self) -> AsyncIterator[Point]:
        yield Point(0, 0)

    def plain(self) -> None: ...


def signature(name: str) -> Signature:
    return Signature.of(getattr(Methods, name), owner="Methods", bound=True)


def travel(name: str, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], Codec]:
    """What arrives, by parameter, and how it travelled."""
    packed, codec = signature(name).pack(args, kwargs, signer)
    positional, named = signature(name).unpack(packed, codec, signer)
    bound = inspect.signature(getattr(Methods, name)).bind(None, *positional, **named)
    return {key: value for key, value in bound.arguments.items() if key != "self"}, codec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    whole=st.integers(),
    real=st.floats(allow_nan=False),
    text=st.text(),
    raw=st.binary(),
    when=st.datetimes(timezones=st.just(datetime.UTC)),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    ident=st.uuids(),
    pair=st.tuples(st.integers(), st.text()),
    unique=st.sets(st.integers()),
    point=st.builds(Point, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    item=st.builds(Item, name=st.text()),
    either=st.none() | st.integers() | st.text(),
)
def test_typed_arguments_come_back_with_their_types_as_json(**given_: Any) -> None:
    arguments = {**given_, "colour": Colour.RED}
    arrived, codec = travel("typed", **arguments)
    assert arrived == arguments
    assert {key: type(value) for key, value in arrived.items()} == {k: type(v) for k, v in arguments.items()}
    assert codec is Codec.JSON


@given(value=JSON | st.tuples(JSON) | st.sets(st.integers()) | st.binary() | st.dictionaries(st.integers(), JSON))
def test_untyped_arguments_come_back_exactly_as_json_where_that_keeps_them(value: Any) -> None:
    arrived, codec = travel("untyped", value)
    assert arrived["a"] == value
    assert type(arrived["a"]) is type(value)
    if isinstance(value, tuple | set | bytes):
        assert codec is Codec.PICKLE


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinities_and_nan_come_back(value: float) -> None:
    arrived, _ = travel("simple", 1, c=value)
    assert repr(arrived["c"]) == repr(value)


def test_a_class_unknown_to_pydantic_is_checked_and_travels_as_signed_pickle() -> None:
    arrived, codec = travel("opaque", Opaque(3))
    assert (arrived["value"], codec) == (Opaque(3), Codec.PICKLE)
    with pytest.raises(InvalidArguments, match=r"Methods\.opaque: value: .*Opaque"):
        signature("opaque").pack(("no",), {}, signer)
    with pytest.raises(UntrustedPayload, match=r"Methods\.opaque does not fit JSON.*ACTORHUB_SECRET"):
        signature("opaque").pack((Opaque(3),), {}, blank)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("one",), {}, r"Methods\.simple: a: .*valid integer.*\(got 'one'\)"),
        ((), {}, r"Methods\.simple: a: Field required"),
        ((1, "b", 2.0), {}, "takes 2 positional arguments, and 3 were given"),
        ((1,), {"a": 2}, "got 'a' twice"),
        ((1,), {"colour": 2}, r"has no parameter 'colour'; it has: a, b, c"),
        ((1, 2), {"c": "x"}, r"b: .*valid string.*; c: .*valid number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArguments, match=message):
        signature("simple").pack(args, kwargs, signer)


def test_constraints_of_annotations_hold() -> None:
    with pytest.raises(InvalidArguments, match="count: Input should be greater than 0"):
        signature("bounded").pack((0,), {}, signer)
    with pytest.raises(InvalidArguments, match="mode: Input should be 'fast' or 'slow'"):
        signature("bounded").pack((1, "medium"), {}, signer)


class Deferred(BaseModel):
    model_config = ConfigDict(defer_build=True)

    item: Item


def take(one: Deferred, more: list[Deferred]) -> Deferred:
    return more[0] if more else one


def test_a_model_that_is_built_when_it_is_first_used_may_be_an_argument_and_a_result() -> None:
    of = Signature.of(take, owner="tests", bound=False)
    one = Deferred(item=Item(name="a"))
    packed, codec = of.pack((one, [one]), {}, signer)
    assert codec is Codec.JSON
    assert of.unpack(packed, codec, signer)[1] == {"one": one, "more": [one]}
    assert of.unpack_result(*of.pack_result(one, signer), signer) == one


def test_defaults_are_the_receiver_s() -> None:
    packed, _ = signature("simple").pack((1,), {}, signer)
    assert packed == b'{"a":1}'


def test_every_kind_of_parameter_binds_as_in_python() -> None:
    arrived, _ = travel("many", 1, 2, 3, x="a", first="b")
    assert arrived == {"first": 1, "rest": (2, 3), "others": {"x": "a", "first": "b"}}


@given(payload=st.binary(max_size=60))
def test_whatever_arrives_is_arguments_or_one_kind_of_error(payload: bytes) -> None:
    with contextlib.suppress(InvalidArguments):
        _, named = signature("simple").unpack(payload, Codec.JSON, signer)
        assert type(named["a"]) is int


def test_what_arrives_is_checked_again() -> None:
    for payload in (b'{"a":"x"}', b'{"a":1,"z":2}', b"[]", b"{"):
        with pytest.raises(InvalidArguments):
            signature("simple").unpack(payload, Codec.JSON, signer)


def test_results_follow_the_return_annotation() -> None:
    simple = signature("simple")
    packed, codec = simple.pack_result(3, signer)
    assert simple.unpack_result(packed, codec, signer) == 3
    with pytest.raises(InvalidResult, match=r"the result of Methods\.simple: .*\(got 'three'\)"):
        simple.pack_result("three", signer)
    with pytest.raises(InvalidResult):
        simple.unpack_result(b'"three"', Codec.JSON, signer)


def test_a_generator_s_items_follow_its_annotation() -> None:
    items = signature("items")
    assert items.is_generator
    packed, codec = items.pack_result(Point(1, 2), signer)
    assert items.unpack_result(packed, codec, signer) == Point(1, 2)
    with pytest.raises(InvalidResult):
        items.pack_result("no point", signer)


def test_a_result_that_cannot_be_sent_names_the_part() -> None:
    with pytest.raises(NotSerialisable, match=r"the result of Methods\.anything\['fn'\].* cannot be sent"):
        signature("anything").pack_result({"fn": (i for i in ())}, signer)


def test_names_of_an_enclosing_function_are_known() -> None:
    class Inner(BaseModel):
        a: int

    class Local:
        async def method(self, inner: Inner) -> Inner:
            return Inner(a=inner.a)

    method = Signature.of(Local.method, owner="Local", bound=True)
    packed, codec = method.pack((Inner(a=1),), {}, signer)
    assert method.unpack(packed, codec, signer) == ([], {"inner": Inner(a=1)})


def test_the_schema_is_for_other_languages() -> None:
    schema = signature("simple").schema()
    assert schema["arguments"]["required"] == ["a"]
    assert set(schema["arguments"]["properties"]) == {"a", "b", "c"}
    assert schema["arguments"]["additionalProperties"] is False
    assert schema["result"] == {"type": "integer"}
