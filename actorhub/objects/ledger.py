"""How many bytes are taken on each shelf, right across processes.

The counts are kept in a file and changed under its lock. They are marked as unfinished before and as good after each change:
whoever finds them unfinished, since a process was killed there, counts the files instead.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from actorhub.claim import locked
from actorhub.objects.shelf import Shelf

_UNFINISHED, _GOOD = b"\x00", b"\x01"


class Ledger:
    """Any number of processes and threads may use it; it keeps no file open."""

    def __init__(self, path: Path, shelves: Sequence[Shelf]) -> None:
        self._path = path
        self._shelves = shelves
        self._counts = struct.Struct(f"={len(shelves)}Q")

    def make(self) -> None:
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_UNFINISHED + bytes(self._counts.size))

    @contextmanager
    def open(self, *, recount: bool = False) -> Generator[dict[Shelf, int], None, None]:
        """Nobody else may add, remove or move files meanwhile. What the caller changes in the counts is kept.

        `recount` counts the files, which also removes the drafts of writers that were killed.
        """
        with locked(self._path) as file:
            record = os.pread(file, 1 + self._counts.size, 0)
            os.pwrite(file, _UNFINISHED, 0)
            if recount or record[:1] != _GOOD:
                taken = {shelf: shelf.count() for shelf in self._shelves}
            else:
                taken = dict(zip(self._shelves, self._counts.unpack(record[1:]), strict=True))
            yield taken
            # not reached after an error: then the next one counts
            os.pwrite(file, _GOOD + self._counts.pack(*(taken[shelf] for shelf in self._shelves)), 0)
