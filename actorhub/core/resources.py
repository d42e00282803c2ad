"""Amounts of resources, such as `{"cpu": 2, "gpu": 0.5}`. Pure.

People write amounts as numbers; all sums are in whole units, so that an amount reserved and given back a million times
leaves exactly the amount there was before. `Resources` checks an amount where it comes in; the functions take amounts
that it has passed, and a resource that is not named counts as 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

# units in 1
UNIT = 10_000
# largest amount: memory is in bytes, and machines have terabytes
MAX_AMOUNT = 1e15

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_DECIMALS = 4


def checked(resources: Mapping[str, float]) -> dict[str, float]:
    """Check amounts; return them without those of 0.

    Raises:
        ValueError: a name or an amount is not valid.
    """
    for name, amount in resources.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"resource {name!r} is not a valid name; use 1 to 100 letters, digits, '_', '-' or '.'")
        if not 0 <= amount <= MAX_AMOUNT:
            raise ValueError(f"resource {name!r} cannot be {amount}; give an amount from 0 to {MAX_AMOUNT:g}")
        if round(amount, _DECIMALS) != amount:
            raise ValueError(f"resource {name!r} cannot be {amount}; give at most {_DECIMALS} decimals")
        if name == "gpu" and amount > 1 and amount != int(amount):
            raise ValueError(f"resource 'gpu' cannot be {amount}; give a fraction below 1, or a whole number")
    return {name: amount for name, amount in resources.items() if amount}


Resources = Annotated[dict[str, float], AfterValidator(checked)]


def units(resources: Mapping[str, float]) -> dict[str, int]:
    """Convert amounts to whole units; exact."""
    return {name: _units(amount) for name, amount in resources.items()}


def amounts(units: Mapping[str, int]) -> dict[str, float]:
    """Convert units to amounts, for people. `amounts(units(resources))` equals `resources`."""
    return {name: amount / UNIT for name, amount in units.items()}


def plus(*several: Mapping[str, int]) -> dict[str, int]:
    """Sum of units, without those that come to 0."""
    total: dict[str, int] = {}
    for each in several:
        for name, amount in each.items():
            total[name] = total.get(name, 0) + amount
    return {name: amount for name, amount in total.items() if amount}


def minus(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Difference of units, without those that come to 0. It may be negative: a node can come back smaller than the
    amount reserved on it."""
    return plus(one, {name: -amount for name, amount in other.items()})


def fits(wanted: Mapping[str, int], free: Mapping[str, int]) -> bool:
    """True if all wanted units are free."""
    for name, amount in wanted.items():  # noqa: SIM110 - `all` of a generator takes twice as long
        if free.get(name, 0) < amount:
            return False
    return True


def share(wanted: Mapping[str, int], whole: Mapping[str, int]) -> float:
    """Dominant share: the largest part that it takes of any one resource; infinite if the whole has none of it.

    After Ghodsi and others, Dominant Resource Fairness, NSDI 2011.
    """
    largest = 0.0
    for name, amount in wanted.items():
        there = whole.get(name, 0)
        if amount > 0:
            largest = max(largest, amount / there if there > 0 else math.inf)
    return largest


def _units(amount: float) -> int:
    # the whole part apart from the decimals: multiplying a large float would lose its last decimals
    whole = int(amount)
    return whole * UNIT + round((amount - whole) * UNIT)
