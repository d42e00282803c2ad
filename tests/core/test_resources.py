"""Amounts of resources: what may come in, and sums that never drift."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from actorhub.core.resources import MAX_AMOUNT, UNIT, Resources, amounts, checked, fits, minus, plus, share, units

names = st.sampled_from(["cpu", "memory", "gpu", "disk.fast", "licence-a"])
counted = st.dictionaries(names, st.integers(0, 50), max_size=4)
decimals = st.integers(0, 10**8).map(lambda parts: parts / UNIT)
wholes = st.integers(0, int(MAX_AMOUNT)).map(float)
floats = st.floats(0, MAX_AMOUNT).map(lambda amount: round(amount, 4))


class Plan(BaseModel):
    resources: Resources


@given(st.dictionaries(names.filter(lambda name: name != "gpu"), decimals | wholes | floats))
def test_what_comes_in_comes_out_again(resources: dict[str, float]) -> None:
    taken = checked(resources)
    assert taken == {name: amount for name, amount in resources.items() if amount}
    assert amounts(units(taken)) == taken


@given(st.integers(0, 10**12))
def test_units_are_exact(parts: int) -> None:
    assert units({"cpu": parts / UNIT}) == {"cpu": parts}


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7, 1e-4, 12345.6789, 1e12]), max_size=50), st.randoms())
def test_what_was_reserved_and_given_back_leaves_what_there_was(reserved: list[float], random: object) -> None:
    there = units({"cpu": 64.0, "memory": 1.5e12})
    free = there
    for amount in reserved:
        free = minus(free, units({"cpu": amount}))
    for amount in sorted(reserved):
        free = plus(free, units({"cpu": amount}))
    assert free == there


@given(counted, counted)
def test_sums_and_differences_are_those_of_each_resource(one: dict[str, int], other: dict[str, int]) -> None:
    for name in one | other:
        assert plus(one, other).get(name, 0) == one.get(name, 0) + other.get(name, 0)
        assert minus(one, other).get(name, 0) == one.get(name, 0) - other.get(name, 0)
    assert 0 not in [*plus(one, other).values(), *minus(one, other).values()]
    assert plus() == {}


@given(counted, counted)
def test_it_fits_where_nothing_is_owed_and_takes_at_most_the_whole(
    wanted: dict[str, int], free: dict[str, int]
) -> None:
    assert fits(wanted, free) == all(amount >= 0 for amount in minus(free, wanted).values())
    assert fits(wanted, free) == (share(wanted, free) <= 1)
    parts = [Fraction(amount, free[name]) if free.get(name) else math.inf for name, amount in wanted.items() if amount]
    assert share(wanted, free) == pytest.approx(float(max(parts, default=0)))


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"": 1}, "resource '' is not a valid name; use 1 to 100 letters"),
        ({"a" * 101: 1}, "is not a valid name; use 1 to 100 letters"),
        ({"größe": 1}, "resource 'größe' is not a valid name"),
        ({"two words": 1}, "resource 'two words' is not a valid name"),
        ({"cpu\n": 1}, "is not a valid name"),
        ({"cpu": -1}, "resource 'cpu' cannot be -1.0; give an amount from 0 to 1e+15"),
        ({"cpu": 1e16}, "resource 'cpu' cannot be 1e+16; give an amount from 0 to 1e+15"),
        ({"cpu": math.nan}, "resource 'cpu' cannot be nan; give an amount from 0"),
        ({"cpu": math.inf}, "resource 'cpu' cannot be inf; give an amount from 0"),
        ({"cpu": 0.00001}, "resource 'cpu' cannot be 1e-05; give at most 4 decimals"),
        ({"cpu": 1 / 3}, "give at most 4 decimals"),
        ({"gpu": 1.5}, "resource 'gpu' cannot be 1.5; give a fraction below 1, or a whole number"),
    ],
)
def test_what_cannot_be_says_which_resource_and_what_to_give(resources: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Plan(resources=resources)
    assert message in str(caught.value)


def test_nothing_of_a_resource_is_left_out() -> None:
    assert Plan(resources={"cpu": 0, "gpu": 0.25, "memory": 2}).resources == {"gpu": 0.25, "memory": 2.0}
    assert Plan(resources={"gpu": 8}).resources == {"gpu": 8.0}
