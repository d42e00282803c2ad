"""Record of the calls that a worker has in hand, in a small shared file: the worker writes it, its agent reads it.

It tells the agent the calls during which a worker died. One slot holds one call, ended by a zero byte. A write is a
copy into mapped memory: it costs about a microsecond, and survives a SIGKILL of the writer. Behind the slots stands the
time of the last beat of the writer's event loop: the agent ends a worker that beats no more, and so cannot end a late
task itself. Times are monotonic: on one machine they are the same in all processes.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# bytes
SLOT_BYTES = 256
# calls in hand; more at once are not recorded
MAX_CALLS = 1024
_SIZE = SLOT_BYTES * MAX_CALLS + 8
_BEAT = struct.Struct("d")


@dataclass(frozen=True)
class InFlightCall:
    """A call that a worker has begun and not ended."""

    actor: str
    call: str
    method: str
    attempt: int = 0
    """Attempt of a task, from 1; 0 if the call is not a task."""
    late_at: float | None = None
    """Monotonic time from which on a task is late; None if it cannot be late."""


class InFlightRecorder:
    """Writing side of the record. Thread-safe."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._free = list(range(MAX_CALLS - 1, -1, -1))
        self._held: dict[int, str] = {}
        self._writing = threading.Lock()

    @staticmethod
    def create(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(_SIZE)

    def beat(self) -> None:
        """Note that the event loop runs."""
        _BEAT.pack_into(self._map, SLOT_BYTES * MAX_CALLS, time.monotonic())

    def enter(self, actor: str, call: str, method: str, *, attempt: int = 0, late_at: float | None = None) -> int:
        """Record the begin of a call. Returns the slot to give to `leave`; -1 if none was free."""
        text = f"{actor}\t{call}\t{attempt}\t{'' if late_at is None else late_at}\t{method}".encode()[: SLOT_BYTES - 1]
        with self._writing:
            if not self._free:
                return -1
            slot = self._free.pop()
            start = slot * SLOT_BYTES
            self._map[start + 1 : start + len(text) + 1] = text[1:] + b"\0"
            # last: a concurrent reader finds nothing, or all of it
            self._map[start] = text[0]
            self._held[slot] = method
            return slot

    def leave(self, slot: int) -> None:
        if slot >= 0:
            with self._writing:
                self._map[slot * SLOT_BYTES] = 0
                self._held.pop(slot, None)
                self._free.append(slot)

    def methods(self) -> list[str]:
        """Methods in hand now."""
        with self._writing:
            return list(self._held.values())


def read_in_flight(path: Path) -> list[InFlightCall]:
    """Read the calls that the writer had in hand; empty if there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    found: list[InFlightCall] = []
    for start in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        if data[start]:
            text = data[start : start + SLOT_BYTES].split(b"\0", 1)[0].decode(errors="replace")
            # it is just being written
            with suppress(ValueError):
                actor, call, attempt, late_at, method = text.split("\t")
                found.append(InFlightCall(actor, call, method, int(attempt), float(late_at) if late_at else None))
    return found


def last_heartbeat(path: Path) -> float | None:
    """Read the monotonic time at which the writer's event loop ran last; None if it has not begun, or there is no such
    file."""
    try:
        with path.open("rb") as file:
            file.seek(SLOT_BYTES * MAX_CALLS)
            [beat] = _BEAT.unpack(file.read(_BEAT.size))
    except FileNotFoundError:
        return None
    return beat or None
