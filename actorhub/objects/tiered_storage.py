"""Storage in two tiers, memory and disk: when memory is full, the least recently used objects are spilled to disk."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from actorhub.core.owned_directory import exclusive_lock, try_exclusive
from actorhub.objects.tier import StagedFile, StorageTier, UsageLedger, is_full, occupied

_SLACK = 0.05
"""Fraction of memory's capacity that a spill frees beyond need: finding the oldest objects examines all of them."""


class TieredStorage:
    """Storage of a store's objects in memory and on disk. All methods raise FileNotFoundError when the store is gone.

    Args:
        directory: holds the ledger and the locks.
        memory: the tier that is filled first.
        disk: the tier that objects are spilled to.
    """

    def __init__(self, directory: Path, memory: StorageTier, disk: StorageTier) -> None:
        self.memory = memory
        self.disk = disk
        self._ledger = UsageLedger(directory / "ledger", (memory, disk))
        self._spilling = directory / "spilling"
        self._errands = directory / "errands"

    def make(self) -> None:
        self.memory.make()
        self.disk.make()
        self._ledger.make()
        self._spilling.touch(0o600)
        self._errands.mkdir(0o700)

    def paths(self, object_id: str) -> tuple[str, str]:
        """Possible paths of an object.

        Memory first: objects move only from memory to disk, so a search in this order finds them.
        """
        return self.memory.path_of(object_id), self.disk.path_of(object_id)

    def errand(self, object_id: str) -> AbstractContextManager[bool]:
        """Lock of the transfer of an object: True for the one process that may bring it from elsewhere."""
        return try_exclusive(self._errands / object_id)

    def taken(self, *, recount: bool = False) -> dict[StorageTier, int]:
        """Bytes in use on each tier."""
        with self._ledger.open(recount=recount) as taken:
            return dict(taken)

    def draft(self, size: int) -> StagedFile | None:
        """Create a staged file with its space reserved, in memory or else on disk; None if neither has room."""
        return self._draft(self.memory, size) or self._make_room(size) or self._draft(self.disk, size)

    def publish(self, draft: StagedFile, object_id: str) -> None:
        """Publish a staged file as an object. If the object exists already, it stays and the staged file is dropped."""
        with self._ledger.open() as taken:
            if any(map(os.path.exists, self.paths(object_id))):
                draft.unlink()
                taken[draft.shelf] -= occupied(draft.size)
            else:
                draft.publish(object_id)
        draft.close()

    def drop(self, draft: StagedFile) -> None:
        """Delete a staged file and release its space. No error if the store is gone."""
        try:
            with self._ledger.open() as taken:
                draft.unlink()
                taken[draft.shelf] -= occupied(draft.size)
        except FileNotFoundError:
            pass
        finally:
            draft.close()

    def remove(self, object_id: str) -> bool:
        """Remove an object; False if it did not exist."""
        with ExitStack() as closing, self._ledger.open() as taken:
            removed = [self._unlink(shelf, object_id, taken, closing) for shelf in (self.memory, self.disk)]
        return any(removed)

    def _draft(self, shelf: StorageTier, size: int) -> StagedFile | None:
        try:
            with self._ledger.open() as taken:
                if taken[shelf] + occupied(size) > shelf.capacity:
                    return None
                draft = shelf.draft(size)
                taken[shelf] += occupied(size)
            try:
                draft.allocate()
            except BaseException:
                self.drop(draft)
                raise
        except OSError as exc:
            if is_full(exc):
                return None
            raise
        return draft

    def _make_room(self, size: int) -> StagedFile | None:
        """Spill objects until a staged file of `size` bytes fits into memory, and some more; None if it cannot.

        One process at a time spills; processes whose objects fit do not wait for it.
        """
        with exclusive_lock(self._spilling):
            with self._ledger.open(recount=True) as taken:
                excess = taken[self.memory] + occupied(size) - (1 - _SLACK) * self.memory.capacity
                candidates = self.memory.newest_first() if occupied(size) <= self.memory.capacity else []
            draft = self._draft(self.memory, size)  # the count or another process may have found room
            while draft is None and candidates:
                spilled = self._spill(candidates.pop())
                if spilled is None:
                    return self._draft(self.memory, size)
                excess -= spilled
                if excess <= 0 or not candidates:
                    draft = self._draft(self.memory, size)
            return draft

    def _spill(self, object_id: str) -> int | None:
        """Move an object to disk and return its bytes; None if the disk has no room.

        It stays readable at every moment.
        """
        with ExitStack() as closing:
            try:
                source = os.open(self.memory.path_of(object_id), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0  # freed meanwhile; the staging that follows finds its space
            closing.callback(os.close, source)
            draft = self._draft(self.disk, os.fstat(source).st_size)
            if draft is None:
                return None
            try:
                draft.copy(source)
            except BaseException:
                self.drop(draft)
                raise
            closing.callback(draft.close)
            with self._ledger.open() as taken:
                if os.path.exists(self.memory.path_of(object_id)):
                    draft.publish(object_id)
                    self._unlink(self.memory, object_id, taken, closing)
                else:
                    draft.unlink()
                    taken[self.disk] -= occupied(draft.size)
            return occupied(draft.size)

    @staticmethod
    def _unlink(shelf: StorageTier, object_id: str, taken: dict[StorageTier, int], closing: ExitStack) -> bool:
        """Unlink an object.

        The kernel frees its memory when `closing` closes the file, after the lock, since that takes time.
        """
        path = shelf.path_of(object_id)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        closing.callback(os.close, file)
        os.unlink(path)
        taken[shelf] -= occupied(os.fstat(file).st_size)
        return True
