"""One tier of an object store, in memory or on disk: a directory of objects, one of staged files that become objects
by rename, and a ledger of the bytes in use."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from actorhub.core.owned_directory import exclusive_lock, try_lock

_UNFINISHED, _GOOD = b"\x00", b"\x01"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG}
_PIECES = os.sysconf("SC_IOV_MAX")
"""Buffers in one system call, at most."""


class UsageLedger:
    """Bytes in use on each tier, in a file shared by processes and threads under a lock. No file is kept open."""

    def __init__(self, path: Path, shelves: Sequence[StorageTier]) -> None:
        self._path = path
        self._shelves = shelves
        self._counts = struct.Struct(f"={len(shelves)}Q")

    def make(self) -> None:
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_UNFINISHED + bytes(self._counts.size))

    @contextmanager
    def open(self, *, recount: bool = False) -> Generator[dict[StorageTier, int], None, None]:
        """Lock the ledger and yield the bytes in use on each tier; changes to them are saved at the end.

        Only the holder of the lock may add, remove or move files.

        Args:
            recount: count the files anew, which also removes the staged files of writers that were killed.
        """
        with exclusive_lock(self._path) as file:
            record = os.pread(file, 1 + self._counts.size, 0)
            os.pwrite(file, _UNFINISHED, 0)
            if recount or record[:1] != _GOOD:
                taken = {shelf: shelf.count() for shelf in self._shelves}
            else:
                taken = dict(zip(self._shelves, self._counts.unpack(record[1:]), strict=True))
            yield taken
            # not reached after an error: then the next caller counts the files
            os.pwrite(file, _GOOD + self._counts.pack(*(taken[shelf] for shelf in self._shelves)), 0)


def is_full(error: OSError) -> bool:
    """True if an error means that a file system has no more space, for this file or at all."""
    return error.errno in _FULL


def occupied(size: int) -> int:
    """Bytes that a file of `size` bytes occupies: whole pages."""
    return size + -size % mmap.PAGESIZE


def touch(file: int) -> None:
    """Mark an open file as used now.

    The kernel's own clock for files is too coarse to tell which of two uses came first.
    """
    now = time.time_ns()
    os.utime(file, ns=(now, now))


class StorageTier:
    """Directories of one tier: its objects, and the staged files that become objects. Paths are strings, for speed.

    Args:
        path: the directory of the tier.
        capacity: bytes that it may hold; `TieredStorage` enforces it.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        self.capacity = capacity
        self._objects = f"{path}/objects"
        self._drafts = f"{path}/drafts"

    def make(self) -> None:
        os.mkdir(self._objects, 0o700)
        os.mkdir(self._drafts, 0o700)

    def path_of(self, object_id: str) -> str:
        return f"{self._objects}/{object_id}"

    def ids(self) -> list[str]:
        return os.listdir(self._objects)

    def newest_first(self) -> list[str]:
        """Objects by last use, the newest first. Call it under the ledger's lock, so that none vanishes meanwhile."""
        with os.scandir(self._objects) as entries:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in entries]
        return [name for _, name in sorted(found, reverse=True)]

    def count(self) -> int:
        """Count the bytes in use, and remove the staged files whose writer is gone. Call it under the ledger's lock."""
        total = 0
        with os.scandir(self._objects) as entries:
            total += sum(occupied(entry.stat().st_size) for entry in entries)
        with os.scandir(self._drafts) as entries:
            for entry in entries:
                file = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if try_lock(file):
                        os.unlink(entry.path)
                    else:
                        total += occupied(entry.stat().st_size)
                finally:
                    os.close(file)
        return total

    def draft(self, size: int) -> StagedFile:
        """Create a staged file of `size` bytes.

        Call it under the ledger's lock: no other process may see the file unlocked.
        """
        return StagedFile(self, f"{self._drafts}/{secrets.token_hex(8)}", size)


class StagedFile:
    """A file that is being written. The writer holds a lock on it; a file without a lock is abandoned."""

    def __init__(self, shelf: StorageTier, path: str, size: int) -> None:
        self.shelf = shelf
        self.size = size
        self._path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try_lock(self.file)
        try:
            os.ftruncate(self.file, size)
        except OSError:
            self.unlink()
            self.close()
            raise

    def allocate(self) -> None:
        """Reserve the space in the file system, so that a full one is an OSError here and never a SIGBUS later."""
        os.posix_fallocate(self.file, 0, self.size)

    def write(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Write pieces one after the other from byte `offset` on, with one copy; other threads run meanwhile."""
        waiting = [piece for piece in reversed(pieces) if piece.nbytes]
        while waiting:
            written = os.pwritev(self.file, waiting[: -_PIECES - 1 : -1], offset)
            offset += written
            while waiting and written >= waiting[-1].nbytes:
                written -= waiting.pop().nbytes
            if written:
                waiting[-1] = waiting[-1][written:]

    def copy(self, source: int) -> None:
        """Copy another open file of the same size, inside the kernel."""
        done = 0
        while done < self.size:
            done += os.sendfile(self.file, source, done, self.size - done)

    def publish(self, object_id: str) -> None:
        touch(self.file)
        os.rename(self._path, self.shelf.path_of(object_id))

    def unlink(self) -> None:
        os.unlink(self._path)

    def close(self) -> None:
        os.close(self.file)
