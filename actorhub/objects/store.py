"""The objects of one node: files that any process of the machine writes once and maps into its memory to read.

The node's agent makes the store and owns it; workers and clients open it by its path. There is no server: every process works
on the files itself, under locks that the kernel lets go of when a process dies. Only the node's user can read or write the
files, so nothing in them is signed.
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

ALIGN = 64  # bytes; a cache line, and what vector instructions want
_SMALL = 64 * 1024  # bytes; up to here reading is cheaper than mapping


class Stored(NamedTuple):
    """What `put` wrote; `size` is in bytes, of the value as it is stored."""

    id: str
    size: int


class Usage(NamedTuple):
    """Bytes that a store's objects take, those that are being written included."""

    memory: int
    disk: int


class ObjectStore:
    """The object store of one node: `create` makes it, `open` takes part in one that another process made.

    Safe for threads. Nothing here awaits: `put`, `begin` and `write` take as long as the bytes do, all else is quick.
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
        """Makes the store of a node, owned by this process: it is there until `close`, or until this process has ended and
        another one sweeps.

        `base` is where its directory in memory goes: by default /dev/shm, where there is one. `spill` is the same on disk.
        `capacity` is in bytes, by default 30 % of the memory that this machine or container has; `spill_capacity` is by
        default 30 % of what is free on the disk.

        Raises:
            ActorHubError: a living process has the store of that node.
        """
        return cls(*location.make(_name(prefix, node), node, base, capacity, spill, spill_capacity))

    @classmethod
    def open(cls, path: Path) -> ObjectStore:
        """The store of an agent on this machine, by its `path`.

        Raises:
            ObjectLost: it is gone.
            UntrustedPayload: somebody else than this user could have written into it.
        """
        with _there(path):
            return cls(location.find(path))

    @classmethod
    def find(cls, prefix: str, node: str) -> ObjectStore:
        """The store that `create` made on this machine with the default `base`.

        Raises:
            ValueError: there cannot be one of that name.
            ObjectLost, UntrustedPayload: as `open`.
        """
        return cls.open(location.default_path(_name(prefix, node)))

    def put(self, value: object, what: str = "the object") -> Stored:
        """Writes a value under a new id. `what` names the value in errors.

        Arrays, and all else that offers its buffers to pickle protocol 5, are copied once, from where they are into the store;
        so are large `bytes`.

        Raises:
            NotSerialisable: names the part that cannot be pickled.
            StoreFull: there is no room in memory nor on disk; nothing is left behind.
            ObjectLost: the store is gone.
        """
        return self.put_pickled(PickledParts(value, what))

    def put_pickled(self, pickled: PickledParts) -> Stored:
        """The same, where the value is pickled already.

        Raises:
            StoreFull, ObjectLost.
        """
        pieces = pickled.pieces(ALIGN)
        stored = Stored(secrets.token_hex(10), sum(piece.nbytes for piece in pieces))
        with self.begin(*stored) as writer:
            writer.write(0, *pieces)
            writer.commit()
        return stored

    def begin(self, object_id: str, size: int) -> ObjectWriter:
        """Takes the room for an object that comes from elsewhere, in pieces and under its own id.

        Raises:
            ValueError: it cannot be an id, or the size is not positive.
            StoreFull: there is no room in memory nor on disk.
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
        """The value. Its arrays are read-only views of the store, whose memory stays while any view of it lives.

        `bytes` and `str` are copied, since each has its own memory in Python.

        Raises:
            ObjectLost: it is not here.
            NotSerialisable: its classes cannot be imported here, or fail.
        """
        return unpickled(self.view(object_id), f"object {object_id}", ALIGN)

    def view(self, object_id: str) -> memoryview:
        """The object's bytes, not copied where they are many. They stay while any view of them lives, whatever becomes of it.

        Before Python 3.13 each object that is in use takes a file descriptor.

        Raises:
            ObjectLost: it is not here.
        """
        with self._opened(object_id) as file:
            size = os.fstat(file).st_size
            return memoryview(os.pread(file, size, 0) if size < _SMALL else _map(file, size))

    def read(self, object_id: str, offset: int, size: int) -> bytes:
        """A copy of a part, to be sent elsewhere; shorter than `size` at the end of the object.

        Raises:
            ObjectLost: it is not here.
        """
        with self._opened(object_id) as file:
            return os.pread(file, size, offset)

    def size(self, object_id: str) -> int:
        """Bytes of the object as it is stored.

        Raises:
            ObjectLost: it is not here.
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
        """All objects, in no particular order.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            return list({*self._room.memory.ids(), *self._room.disk.ids()})

    def free(self, object_id: str) -> bool:
        """Removes an object; False where there is none. Whoever reads it goes on, and its memory is free after that."""
        check_name("the object id", object_id)
        try:
            return self._room.remove(object_id)
        except FileNotFoundError:
            return False  # the whole store is gone

    def usage(self) -> Usage:
        """Objects that were freed or spilled but are still in use somewhere do not count.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            taken = self._room.taken()
        return Usage(taken[self._room.memory], taken[self._room.disk])

    def collect(self) -> None:
        """Removes what killed writers left half-written. The agent does so when a worker has ended.

        Raises:
            ObjectLost: the store is gone.
        """
        with _there(self.path):
            self._room.taken(recount=True)

    @contextmanager
    def pulling(self, object_id: str) -> Generator[bool, None, None]:
        """True for one process at a time, which may bring the object from elsewhere; False for all others. Does not wait.

        Raises:
            ObjectLost: the store is gone.
        """
        with ExitStack() as closing:
            with _there(self.path):
                mine = closing.enter_context(self._room.errand(check_name("the object id", object_id)))
            yield mine

    def close(self) -> None:
        """Removes the store if this process has made it. What is in use stays readable."""
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
    """An object that is being written. Nobody sees it before `commit`, and it counts for nothing if its process is killed.

    As a context manager it aborts what was not committed.
    """

    def __init__(self, store: ObjectStore, object_id: str, draft: StagedFile) -> None:
        self._store = store
        self._object_id = object_id
        self._draft: StagedFile | None = draft

    def write(self, offset: int, *pieces: memoryview) -> None:
        """One after the other from `offset`, in bytes. The calls may come in any order.

        Raises:
            ValueError: they would reach beyond the object's size.
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
        """Publishes the object in one step. If it is there already, that one stays and this one is dropped.

        Raises:
            ObjectLost: the store is gone.
        """
        draft = self._unfinished()
        with _there(self._store.path):
            self._store._room.publish(draft, self._object_id)
        self._draft = None

    def abort(self) -> None:
        """Leaves nothing behind. Does nothing after `commit`."""
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
