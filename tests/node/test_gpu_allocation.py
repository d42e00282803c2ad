"""Allocation of GPUs to slots and workers of one node."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from actorhub.node.gpu_allocation import VARIABLE, GpuAllocator


def _all_of(devices: GpuAllocator, **amounts: float) -> dict[str, str]:
    return {holder: devices.take(holder, amount).get(VARIABLE, "") for holder, amount in amounts.items()}


def test_a_whole_gpu_is_given_once_and_parts_share_as_few_as_possible() -> None:
    devices = GpuAllocator(4, {})
    taken = _all_of(devices, a=0.5, b=0.25, c=1, d=2)
    assert taken["a"] == taken["b"]
    assert len({taken["a"], taken["c"], *taken["d"].split(",")}) == 4
    devices.give_back("d")
    assert _all_of(devices, e=0.5)["e"] not in (taken["a"], taken["c"])
    assert not devices.take("f", 0)


@pytest.mark.parametrize(
    ("amount", "environment", "names"),
    [
        (2, {}, ["0", "1"]),
        (2, {VARIABLE: "3,5"}, ["3", "5"]),
        (1, {VARIABLE: "GPU-a1,GPU-b2"}, ["GPU-a1"]),
        (3, {VARIABLE: "1"}, ["1", "0", "2"]),
        (0.5, {}, ["0"]),
        (0, {VARIABLE: ""}, []),
    ],
)
def test_gpus_are_named_as_the_environment_names_them(
    amount: float, environment: Mapping[str, str], names: list[str]
) -> None:
    devices = GpuAllocator(amount, environment)
    given = [devices.take(str(number), 1).get(VARIABLE) for number in range(len(names))]
    assert given == names


def test_a_part_that_fits_no_single_gpu_goes_to_the_emptiest_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    devices = GpuAllocator(2, {})
    _all_of(devices, a=0.6, b=0.6)
    assert devices.take("c", 0.8)[VARIABLE] in ("0", "1")
    assert "is oversubscribed" in caplog.text
