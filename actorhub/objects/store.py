"""Object store of one node: files that any process of the machine writes once and reads by mapping them into its memory.

The node's agent makes the store and owns it; workers and clients open it by its path. Every process works on the files itself,
without a server, under locks that the kernel releases when a process dies. Only the node's user can read or write the files,
so they are not signed.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from actorhub.core.addressing import check_name
from actorhub.core.owned_directory import OwnedDirectory
from actorhub.errors import ObjectLost, StoreFull
from actorhub.objects import location
from actorhub.objects.location import StoreLocation
from actorhub.objects.tier import StagedFile, touch
from actorhub.wire.codec import PickledParts, unpickled

ALIGNMENT_BYTES = 64
"""Bytes to which buffers are aligned: a cache line, and the width of vector instructions."""
_SMALL = 64 * 1024
"""Bytes below which reading a file is cheaper than mapping it."""


class Stored(NamedTuple):
    """Result of `put`."""

    id: str
    size: int
    """Bytes of the stored object."""


class Usage(NamedTuple):
    """Bytes that a store's objects occupy, including those that are being written."""

    memory: int
    disk: int


class ObjectStore:
    """Object store of one node: `create` makes it, `open` opens a store that another process made.

    Safe for threads. All methods are synchronous: `put`, `begin` and `write` take time by the bytes, all others are quick.
    """

    def __init__(self, where: StoreLocation, claims: Sequence[OwnedDirectory] = ()) -> None:
        self.node = where.node
        self.path = where.memory
        self._site = where
        self._room = where.room()
        self._claims = claims

    @classmethod
    def create(
        cls,
        prefix: str,
        node: str,
        *,
        base: Path | None = None,
        capacity: int | None = None,
        spill: Path | None = None,
        spill_capacity: int | None = None,
    ) -> ObjectStore:
        """Make the store of a node, owned by this process.

        It exists until `close`, or until this process has ended and another one sweeps.

        Args:
            prefix: the cluster's prefix of names.
            node: id of the node, or of the client.
            base: parent of its directory in memory; by default /dev/shm where that exists.
            capacity: bytes in memory; by default 30 % of the memory of this machine or container.
            spill: parent of its directory on disk; by default /var/tmp.
            spill_capacity: bytes on disk; by default 30 % of the free space.

        Raises:
            ActorHubError: a living process owns the store of that node.
        """
        return cls(*location.make(_name(prefix, node), node, base, capacity, spill, spill_capacity))

    @classmethod
    def open(cls, path: Path) -> ObjectStore:
        """Open the store of an agent on this machine, by its `path`.

        Raises:
            ObjectLost: the store is gone.
            UntrustedPayload: another user could have written into the store.
        """
        with _there(path):
            return cls(location.find(path))

    @classmethod
    def find(cls, prefix: str, node: str) -> ObjectStore:
        """Open the store that `create` made on this machine with the default `base`.

        Raises:
            ValueError: the prefix or the node is not a valid name.
            ObjectLost, UntrustedPayload: as `open`.
        """
        return cls.open(location.default_path(_name(prefix, node)))

    def put(self, value: object, what: str = "the object") -> Stored:
        """Write a value under a new id. `what` names the value in errors.

        Arrays, other values that offer their buffers to pickle protocol 5, and large `bytes` are copied once, directly into
        the store.

        Raises:
            NotSerialisable: names the part that cannot be pickled.
            StoreFull: neither memory nor disk has room; nothing is left behind.
            ObjectLost: the store is gone.
        """
        return self.put_pickled(PickledParts(value, what))

    def put_pickled(self, pickled: PickledParts) -> Stored:
        """Write a value that is pickled already, as `put` does.

        Raises:
            StoreFull, ObjectLost.
        """
        pieces = pickled.pieces(ALIGNMENT_BYTES)
        stored = Stored(secrets.token_hex(10), sum(piece.nbytes for piece in pieces))
        with self.begin(*stored) as writer:
            writer.write(0, *pieces)
            writer.commit()
        return stored

    def begin(self, object_id: str, size: int) -> ObjectWriter:
        """Reserve `size` bytes for an object that comes from elsewhere, in pieces and under its own id.

        Raises:
            ValueError: the id is not valid, or the size is not positive.
            StoreFull: neither memory nor disk has room.
            ObjectLost: the store is gone.
        """
        check_name("the object id", object_id)
        if size <= 0:
            raise ValueError(f"object {object_id} cannot have {size} bytes; give the size as `put` returned it")
        with _there(self.path):
            draft = self._room.draft(size)
            if draft is None:
                raise self._full(size)
        return ObjectWriter(self, object_id, draft)

    def get(self, object_id: str) -> Any:
        """Read a value. Its arrays are read-only views of the store, whose memory stays while any view of it lives.

        `bytes` and `str` are copied, since each has its own memory in Python.

        Raises:
            ObjectLost: the object is not in this store.
            NotSerialisable: its classes cannot be imported here, or fail.
        """
        return unpickled(self.view(object_id), f"object {object_id}", ALIGNMENT_BYTES)

    def view(self, object_id: str) -> memoryview:
        """View the bytes of an object; large objects are not copied. The bytes stay while any view lives, even after `free`.

        Before Python 3.13 each object in use occupies a file descriptor.

        Raises:
            ObjectLost: the object is not in this store.
        """
        with self._opened(object_id) as file:
            size = os.fstat(file).st_size
            return memoryview(os.pread(file, size, 0) if size < _SMALL else _map(file, size))

    def read(self, object_id: str, offset: int, size: int) -> bytes:
        """Copy up to `size` bytes from byte `offset` on, to send them elsewhere; fewer at the end of the object.

        Raises:
            ObjectLost: the object is not in this store.
        """
        with self._opened(object_id) as file:
            return os.pread(file, size, offset)

    def size(self, object_id: str) -> int:
        """Bytes of a stored object.

        Raises:
            ObjectLost: the object is not in this store.
        """
        for path in self._paths(object_id):
            try:
                return os.stat(path).st_size
            except FileNotFoundError:
                continue
        raise self._lost(object_id)

    def contains(self, object_id: str) -> bool:
        return any(map(os.path.exists, self._paths(object_id)))

    def ids(self) -> list[str]:
        """Ids of all objects, in no particular order.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            return list({*self._room.memory.ids(), *self._room.disk.ids()})

    def free(self, object_id: str) -> bool:
        """Remove an object; False if it does not exist.

        Readers keep their views, and its memory is free after the last one.
        """
        check_name("the object id", object_id)
        try:
            return self._room.remove(object_id)
        except FileNotFoundError:
            return False  # the whole store is gone

    def usage(self) -> Usage:
        """Bytes in use. Objects that were freed or spilled but are still being read do not count.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            taken = self._room.taken()
        return Usage(taken[self._room.memory], taken[self._room.disk])

    def collect(self) -> None:
        """Remove the unfinished files of writers that were killed. The agent calls this when a worker has ended.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            self._room.taken(recount=True)

    @contextmanager
    def pulling(self, object_id: str) -> Generator[bool, None, None]:
        """Lock the transfer of an object: yields True to the one process that may bring it, False to others. Does not wait.

        Raises:
            ObjectLost: the store is gone.
        """
        with ExitStack() as closing:
            with _there(self.path):
                mine = closing.enter_context(self._room.errand(check_name("the object id", object_id)))
            yield mine

    def close(self) -> None:
        """Remove the store if this process made it. Objects in use stay readable."""
        for claim in self._claims:
            claim.remove()

    @contextmanager
    def _opened(self, object_id: str) -> Generator[int, None, None]:
        for path in self._paths(object_id):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                touch(file)
                yield file
            finally:
                os.close(file)
            return
        raise self._lost(object_id)

    def _paths(self, object_id: str) -> tuple[str, str]:
        return self._room.paths(check_name("the object id", object_id))

    def _lost(self, object_id: str) -> ObjectLost:
        return ObjectLost(
            f"object {object_id} is not on node {self.node}: it was freed, or the node has started anew; "
            "make it again, and keep a reference to it for as long as it is needed"
        )

    def _full(self, size: int) -> StoreFull:
        taken, where = self.usage(), self._site
        return StoreFull(
            f"{size:,} bytes do not fit the object store of node {self.node}: {taken.memory:,} of {where.capacity:,} bytes are "
            f"taken in memory, and {taken.disk:,} of {where.spill_capacity:,} on disk, or the disk itself is full; "
            "free objects, or start the node with a larger capacity or spill_capacity"
        )


class ObjectWriter:
    """Writer of one object. The object is invisible before `commit`, and vanishes if the writing process is killed.

    As a context manager it aborts an object that was not committed.
    """

    def __init__(self, store: ObjectStore, object_id: str, draft: StagedFile) -> None:
        self._store = store
        self._object_id = object_id
        self._draft: StagedFile | None = draft

    def write(self, offset: int, *pieces: memoryview) -> None:
        """Write pieces one after the other from byte `offset` on. Calls may come in any order.

        Raises:
            ValueError: the pieces would reach beyond the object's size.
        """
        draft = self._unfinished()
        end = offset + sum(piece.nbytes for piece in pieces)
        if offset < 0 or end > draft.size:
            raise ValueError(
                f"bytes {offset:,} to {end:,} are not within object {self._object_id} of {draft.size:,} bytes; "
                "begin it with its whole size"
            )
        draft.write(offset, pieces)

    def commit(self) -> None:
        """Publish the object in one step. If the object exists already, it stays and this one is dropped.

        Raises:
            ObjectLost: the store is gone.
        """
        draft = self._unfinished()
        with _there(self._store.path):
            self._store._room.publish(draft, self._object_id)
        self._draft = None

    def abort(self) -> None:
        """Discard the object, leaving nothing behind. Does nothing after `commit`."""
        if self._draft is not None:
            self._store._room.drop(self._draft)
            self._draft = None

    def _unfinished(self) -> StagedFile:
        if self._draft is None:
            raise ValueError(f"object {self._object_id} was committed or aborted already; begin it again")
        return self._draft

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def _name(prefix: str, node: str) -> str:
    return f"{check_name('the prefix', prefix)}-{check_name('the node', node)}"


@contextmanager
def _there(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise ObjectLost(
            f"the object store {path} is gone, and its objects with it: the agent of its node has ended; "
            "make them again on a node that lives"
        ) from exc


def _map(file: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(file, size, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(file, size, access=mmap.ACCESS_READ)
