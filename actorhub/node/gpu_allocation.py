"""Allocation of a machine's GPUs to processes. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import count, islice

from actorhub.core.resources import UNIT, units

log = logging.getLogger(__name__)

VARIABLE = "CUDA_VISIBLE_DEVICES"


class GpuAllocator:
    """Allocator of one node's GPUs.

    A holder has whole GPUs for itself. Parts share as few GPUs as possible, so that whole ones stay free.

    Control counts amounts, not devices: if parts of different sizes leave no device with enough free, although the sum
    suffices, the device with the most free is shared beyond its capacity, and the log says so.
    """

    def __init__(self, amount: float, environment: Mapping[str, str]) -> None:
        named = [name.strip() for name in environment.get(VARIABLE, "").split(",") if name.strip()]
        numbers = (str(number) for number in count() if str(number) not in named)
        whole = -(-units({"gpu": amount})["gpu"] // UNIT)
        self._free = dict.fromkeys(islice((*named, *islice(numbers, whole)), whole), UNIT)
        self._taken: dict[str, dict[str, int]] = {}

    def has_room(self, amount: float) -> bool:
        """True if `take` would give devices, or a part of one, that no other holder has."""
        wanted = units({"gpu": amount})["gpu"]
        if wanted < UNIT:
            return any(free >= wanted for free in self._free.values())
        return sum(free == UNIT for free in self._free.values()) >= wanted // UNIT

    def is_held_by(self, holder: str) -> bool:
        return holder in self._taken

    def take(self, holder: str, amount: float) -> dict[str, str]:
        """Take GPUs for a holder; returns the variables to add to its environment, none if it takes no GPU."""
        wanted = units({"gpu": amount})["gpu"]
        if not wanted or not self._free:
            return {}
        if wanted >= UNIT:
            order = sorted(self._free, key=lambda device: -self._free[device])
            taken = dict.fromkeys(order[: wanted // UNIT], UNIT)
        else:
            fitting = [device for device, free in self._free.items() if free >= wanted]
            device = min(
                fitting or self._free, key=lambda device: self._free[device] if fitting else -self._free[device]
            )
            taken = {device: wanted}
        for device, part in taken.items():
            self._free[device] -= part
            if self._free[device] < 0:
                log.warning("GPU %s is oversubscribed: %s uses %g of it", device, holder, part / UNIT)
        self._taken[holder] = taken
        return {VARIABLE: ",".join(taken)}

    def give_back(self, holder: str) -> None:
        for device, part in self._taken.pop(holder, {}).items():
            self._free[device] += part
