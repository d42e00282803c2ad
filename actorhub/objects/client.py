"""Client of object stores: puts objects, gets them from any node, and renews the leases of those it refers to."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from actorhub.actors.handle import tell
from actorhub.actors.service import stub
from actorhub.control_api.client import control_client
from actorhub.errors import (
    ActorHubError,
    ActorNotFound,
    ObjectLost,
    StoreFull,
    UntrustedPayload,
)
from actorhub.messaging.context import EMPTY_CONTEXT, call_context
from actorhub.messaging.sender import HEADER_ROOM_BYTES
from actorhub.messaging.session import Session, current_session
from actorhub.objects.reference import ObjectRef, ValuePlaceholder, held, parts_of, placeholders_allowed, replaced
from actorhub.objects.server import ObjectServer, ObjectService
from actorhub.objects.store import ObjectStore
from actorhub.objects.transfer import LocalStore, ObjectTransfer
from actorhub.wire.codec import PickledParts
from actorhub.wire.envelope import Codec
from actorhub.wire.method_signature import Signature

log = logging.getLogger(__name__)

T = TypeVar("T")
SMALL_OBJECT_BYTES = 1024 * 1024
"""Up to this size an object is written on the event loop, without a thread."""
LEASES_PER_MESSAGE = 10_000
NODE_POLL_SECONDS = 0.1
"""Between looks whether a node has reported to control."""


class ObjectClient:
    """Client of the object stores. One for a session; the session's owner opens it.

    A worker is given its node's store. A client process uses the store of a node on its machine; without one it makes and
    serves a store of its own.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._home: LocalStore | None = None
        self._finding = asyncio.Lock()
        self._is_guest = True
        self._keeper: ObjectServer | None = None
        self._own: ObjectStore | None = None
        self._neighbours: dict[str, ObjectStore] = {}  # stores of other nodes and clients on this machine
        self._transfer = ObjectTransfer(session, self._find_home)

    def open(self, path: Path | None = None, node: str = "") -> None:
        """Open the client, and begin to renew the leases of objects that this process refers to.

        A worker gives the `path` of its node's store, and the id of its `node`.

        Raises:
            ObjectLost: that store is gone.
        """
        if path is not None:
            self._home = LocalStore(ObjectStore.open(path), self._session.names.objects(node))
            self._is_guest = False
        self._session.spawn_task(self._keep_renewing(), "actorhub-renewing")

    async def close(self) -> None:
        """Close the client, and remove its own store if it made one."""
        if self._keeper is not None:
            await self._keeper.close()
        if self._own is not None:
            self._own.close()

    # ---- putting

    async def put(self, value: object) -> ObjectRef[Any]:
        """Store a value, and return a reference to it.

        Raises:
            NotSerialisable, StoreFull: as `ObjectStore.put`.
            ObjectLost: this process's node has ended.
        """
        pickled = PickledParts(value, "the object")
        home = await self._find_home()
        try:
            ref = await self._quick(pickled.size, lambda: self._put(home, pickled))
        except ObjectLost:
            if not self._is_guest:
                raise
            home = new = await self._find_home()  # the store of another node, or its own
            ref = await self._quick(pickled.size, lambda: self._put(new, pickled))
        if self._transfer.remote_storage is not None:
            await asyncio.to_thread(self._transfer.remote_storage.write, ref.id, [home.store.view(ref.id)])
        return ref

    def keep_result(self, pickled: PickledParts) -> tuple[bytes, Codec]:
        """Keep a large result in the node's store, and return the payload of its placeholder, and the codec.

        If the store is full or gone, the payload is the result itself, as long as the broker takes it. Safe for threads.

        Raises:
            StoreFull, ObjectLost: the result is too large for a message.
        """
        signer, link = self._session.signer, self._session.link
        try:
            assert self._home is not None, "slots know their node's store"
            stand_in = ValuePlaceholder(self._put(self._home, pickled))
            with placeholders_allowed():
                return signer.dumps(stand_in, "a reference"), Codec.STORED
        except (StoreFull, ObjectLost) as exc:
            if link is not None and pickled.size > link.max_message - HEADER_ROOM_BYTES:
                raise
            log.warning("a result of %d bytes travels in its answer: %s", pickled.size, exc)
            return signer.seal(pickled), Codec.PICKLE

    @staticmethod
    def _put(home: LocalStore, pickled: PickledParts) -> ObjectRef[Any]:
        stored = home.store.put_pickled(pickled)
        return ObjectRef(stored.id, stored.size, home.store.node, home.queue)

    @staticmethod
    async def _quick(size: int, work: Callable[[], T]) -> T:
        return work() if size <= SMALL_OBJECT_BYTES else await asyncio.to_thread(work)

    # ---- getting

    async def get(self, ref: ObjectRef[T]) -> T:
        """Return the value of an object, from wherever it is.

        Its arrays are read-only views of memory that all processes of the machine share.

        Raises:
            ObjectLost: no store has the object any more; names the object and its node.
            StoreFull: the object is elsewhere, and this store has no room for a copy.
            CallTimeout: the deadline of the surrounding call passed meanwhile.
        """
        token = current_session.set(self._session)  # handles in the value belong to this session
        try:
            for store in self._stores_here(ref):
                with suppress(ObjectLost):
                    return cast(T, store.get(ref.id))
            home = await self._find_home()
            while True:
                await self._transfer.fetch(ref)
                with suppress(ObjectLost):  # freed at this moment, or its lease ended: fetch again, the owner knows
                    return cast(T, home.store.get(ref.id))
        finally:
            current_session.reset(token)

    async def get_result(self, ref: ObjectRef[Any], signature: Signature) -> Any:
        """Return the value of a task's stored result, validated by the task's signature."""
        return signature.accept_result(await self.get(ref))

    async def fill(self, given: Any) -> Any:
        """Replace the placeholders among arguments by their values.

        Raises:
            ObjectLost, StoreFull: as `get`.
        """
        refs = {part.ref.id: part.ref for part in parts_of(given, (ValuePlaceholder,))}
        values = dict(zip(refs, await asyncio.gather(*map(self.get, refs.values())), strict=True))
        return replaced(given, lambda part: values[part.ref.id] if isinstance(part, ValuePlaceholder) else part)

    def fill_in_thread(self, given: Any) -> Any:
        """Replace placeholders as `fill` does, in a thread. The event loop is used only for values not on this node."""
        refs = [part.ref for part in parts_of(given, (ValuePlaceholder,))]
        if self._home is not None and all(self._home.store.contains(ref.id) for ref in refs):
            store = self._home.store
            with suppress(ObjectLost):
                return replaced(
                    given, lambda part: store.get(part.ref.id) if isinstance(part, ValuePlaceholder) else part
                )
        return asyncio.run_coroutine_threadsafe(self.fill(given), self._session.loop).result()

    def _stores_here(self, ref: ObjectRef[Any]) -> Iterator[ObjectStore]:
        """Stores on this machine that may hold an object: a client reads all of them, a node's processes only their own,
        so that they copy objects which they often use."""
        if self._home is not None:
            yield self._home.store
        if self._is_guest and (self._home is None or self._home.queue != ref.queue):
            with suppress(ObjectLost, UntrustedPayload, ValueError):
                if ref.node not in self._neighbours:
                    self._neighbours[ref.node] = ObjectStore.find(self._session.names.prefix, ref.node)
                yield self._neighbours[ref.node]

    # ---- freeing

    async def free(self, ref: ObjectRef[Any]) -> None:
        """Free an object everywhere. Returns when the owner is certain to do so, or is gone."""
        for store in self._stores_here(ref):
            await asyncio.to_thread(store.free, ref.id)
        with suppress(ActorNotFound):
            await tell(stub(self._session, ref.queue, ObjectService).free, [ref.id])
        if self._transfer.remote_storage is not None:
            await asyncio.to_thread(self._transfer.remote_storage.delete, ref.id)

    async def _keep_renewing(self) -> None:
        call_context.set(EMPTY_CONTEXT)
        while True:
            pause = self._session.settings.object_lease / 3
            await asyncio.sleep(pause)
            await asyncio.gather(*(self._renew(queue, ids, pause) for queue, ids in self._needed().items()))

    def _needed(self) -> dict[str, list[str]]:
        """Ids of the objects that this process refers to, by the queue of their server. Not part of a coroutine, whose
        local variable would itself keep the last object while it waits."""
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for ref in held(self._session.names.objects("")):
            ids[ref.queue].append(ref.id)
            if self._home is not None and self._home.queue != ref.queue:
                ids[self._home.queue].append(ref.id)  # this store may have a copy
        return ids

    async def _renew(self, queue: str, ids: list[str], patience: float) -> None:
        service = stub(self._session, queue, ObjectService)
        try:
            async with asyncio.timeout(patience):
                for begin in range(0, len(ids), LEASES_PER_MESSAGE):
                    await tell(service.renew, ids[begin : begin + LEASES_PER_MESSAGE])
        except (TimeoutError, ActorHubError):
            log.debug("nobody renews the leases of %d objects at %s", len(ids), queue, exc_info=True)

    # ---- the store of this process

    async def _find_home(self) -> LocalStore:
        async with self._finding:
            if self._home is None or (self._is_guest and not self._home.store.path.exists()):
                self._home = await self._of_a_node_here() or await self._of_its_own()
            return self._home

    async def _of_a_node_here(self) -> LocalStore | None:
        session = self._session
        control = control_client(session)
        try:
            async with asyncio.timeout(session.settings.node_timeout):
                while not (nodes := await control.nodes()):  # control has just started: no node has reported
                    await asyncio.sleep(NODE_POLL_SECONDS)
        except (TimeoutError, ActorHubError):
            return None
        for node in nodes:
            if node.store is not None and node.host == socket.gethostname() and not node.leaving:
                with suppress(ObjectLost, UntrustedPayload):
                    store = ObjectStore.open(Path(node.store))
                    if store.node == node.id:
                        return LocalStore(store, session.names.objects(node.id))
        return None

    async def _of_its_own(self) -> LocalStore:
        session = self._session
        owner = f"client-{session.id}"
        if self._own is None:
            settings = session.settings
            self._own = ObjectStore.create(
                session.names.prefix,
                owner,
                capacity=settings.store_capacity,
                spill_capacity=settings.store_spill_capacity,
            )
            self._keeper = ObjectServer(session, self._own, owner)
            await self._keeper.open()
        return LocalStore(self._own, session.names.objects(owner))
