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
        self._local: LocalStore | None = None
        self._finding = asyncio.Lock()
        self._has_no_node = True
        self._server: ObjectServer | None = None
        self._own_store: ObjectStore | None = None
        self._other_stores: dict[str, ObjectStore] = {}  # stores of other nodes and clients on this machine
        self._transfer = ObjectTransfer(session, self._local_store)

    def open(self, path: Path | None = None, node: str = "") -> None:
        """Open the client, and begin to renew the leases of objects that this process refers to.

        A worker gives the `path` of its node's store, and the id of its `node`.

        Raises:
            ObjectLost: that store is gone.
        """
        if path is not None:
            self._local = LocalStore(ObjectStore.open(path), self._session.names.objects(node))
            self._has_no_node = False
        self._session.spawn_task(self._renew_leases(), "actorhub-renewing")

    async def close(self) -> None:
        """Close the client, and remove its own store if it made one."""
        if self._server is not None:
            await self._server.close()
        if self._own_store is not None:
            self._own_store.close()

    # ---- putting

    async def put(self, value: object) -> ObjectRef[Any]:
        """Store a value, and return a reference to it.

        Raises:
            NotSerialisable, StoreFull: as `ObjectStore.put`.
            ObjectLost: this process's node has ended.
        """
        pickled = PickledParts(value, "the object")
        local = await self._local_store()
        try:
            ref = await self._in_thread_if_large(pickled.size, lambda: self._put(local, pickled))
        except ObjectLost:
            if not self._has_no_node:
                raise
            local = new = await self._local_store()  # the store of another node, or its own
            ref = await self._in_thread_if_large(pickled.size, lambda: self._put(new, pickled))
        if self._transfer.remote_storage is not None:
            await asyncio.to_thread(self._transfer.remote_storage.write, ref.id, [local.store.view(ref.id)])
        return ref

    def store_result(self, pickled: PickledParts) -> tuple[bytes, Codec]:
        """Keep a large result in the node's store, and return the payload of its placeholder, and the codec.

        If the store is full or gone, the payload is the result itself, as long as the broker takes it. Safe for threads.

        Raises:
            StoreFull, ObjectLost: the result is too large for a message.
        """
        signer, link = self._session.signer, self._session.link
        try:
            assert self._local is not None, "slots know their node's store"
            stand_in = ValuePlaceholder(self._put(self._local, pickled))
            with placeholders_allowed():
                return signer.dumps(stand_in, "a reference"), Codec.STORED
        except (StoreFull, ObjectLost) as exc:
            if link is not None and pickled.size > link.max_message - HEADER_ROOM_BYTES:
                raise
            log.warning("a result of %d bytes travels in the reply itself: %s", pickled.size, exc)
            return signer.seal(pickled), Codec.PICKLE

    @staticmethod
    def _put(local: LocalStore, pickled: PickledParts) -> ObjectRef[Any]:
        stored = local.store.put_pickled(pickled)
        return ObjectRef(stored.id, stored.size, local.store.node, local.queue)

    @staticmethod
    async def _in_thread_if_large(size: int, action: Callable[[], T]) -> T:
        return action() if size <= SMALL_OBJECT_BYTES else await asyncio.to_thread(action)

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
            local = await self._local_store()
            while True:
                await self._transfer.fetch(ref)
                with suppress(ObjectLost):  # freed at this moment: fetch again
                    return cast(T, local.store.get(ref.id))
        finally:
            current_session.reset(token)

    async def get_result(self, ref: ObjectRef[Any], signature: Signature) -> Any:
        """Return the value of a task's stored result, validated by the task's signature."""
        return signature.accept_result(await self.get(ref))

    async def with_values(self, given: Any) -> Any:
        """Replace the placeholders among arguments by their values.

        Raises:
            ObjectLost, StoreFull: as `get`.
        """
        refs = {part.ref.id: part.ref for part in parts_of(given, (ValuePlaceholder,))}
        values = dict(zip(refs, await asyncio.gather(*map(self.get, refs.values())), strict=True))
        return replaced(given, lambda part: values[part.ref.id] if isinstance(part, ValuePlaceholder) else part)

    def with_values_in_thread(self, given: Any) -> Any:
        """Replace placeholders as `with_values` does, in a thread. The event loop is used only for values not on this node."""
        refs = [part.ref for part in parts_of(given, (ValuePlaceholder,))]
        if self._local is not None and all(self._local.store.contains(ref.id) for ref in refs):
            store = self._local.store
            with suppress(ObjectLost):
                return replaced(
                    given, lambda part: store.get(part.ref.id) if isinstance(part, ValuePlaceholder) else part
                )
        return asyncio.run_coroutine_threadsafe(self.with_values(given), self._session.loop).result()

    def _stores_here(self, ref: ObjectRef[Any]) -> Iterator[ObjectStore]:
        """Stores on this machine that may hold an object: a client reads all of them, a node's processes only their own,
        so that they copy objects which they often use."""
        if self._local is not None:
            yield self._local.store
        if self._has_no_node and (self._local is None or self._local.queue != ref.queue):
            with suppress(ObjectLost, UntrustedPayload, ValueError):
                if ref.node not in self._other_stores:
                    self._other_stores[ref.node] = ObjectStore.find(self._session.names.prefix, ref.node)
                yield self._other_stores[ref.node]

    # ---- freeing

    async def free(self, ref: ObjectRef[Any]) -> None:
        """Free an object everywhere. Returns when the owner is certain to do so, or is gone."""
        for store in self._stores_here(ref):
            await asyncio.to_thread(store.free, ref.id)
        with suppress(ActorNotFound):
            await tell(stub(self._session, ref.queue, ObjectService).free, [ref.id])
        if self._transfer.remote_storage is not None:
            await asyncio.to_thread(self._transfer.remote_storage.delete, ref.id)

    async def _renew_leases(self) -> None:
        call_context.set(EMPTY_CONTEXT)
        while True:
            pause = self._session.settings.object_lease / 3
            await asyncio.sleep(pause)
            await asyncio.gather(*(self._renew(queue, ids, pause) for queue, ids in self._leases_to_renew().items()))

    def _leases_to_renew(self) -> dict[str, list[str]]:
        """Ids of the objects that this process refers to, by the queue of their server. Not part of a coroutine, whose
        local variable would itself keep the last object while it waits."""
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for ref in held(self._session.names.objects("")):
            ids[ref.queue].append(ref.id)
            if self._local is not None and self._local.queue != ref.queue:
                ids[self._local.queue].append(ref.id)  # this store may have a copy
        return ids

    async def _renew(self, queue: str, ids: list[str], patience: float) -> None:
        service = stub(self._session, queue, ObjectService)
        try:
            async with asyncio.timeout(patience):
                for begin in range(0, len(ids), LEASES_PER_MESSAGE):
                    await tell(service.renew, ids[begin : begin + LEASES_PER_MESSAGE])
        except (TimeoutError, ActorHubError):
            log.debug("the leases of %d objects at %s cannot be renewed", len(ids), queue, exc_info=True)

    # ---- the store of this process

    async def _local_store(self) -> LocalStore:
        async with self._finding:
            if self._local is None or (self._has_no_node and not self._local.store.path.exists()):
                self._local = await self._store_of_a_node() or await self._make_own_store()
            return self._local

    async def _store_of_a_node(self) -> LocalStore | None:
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

    async def _make_own_store(self) -> LocalStore:
        session = self._session
        owner = f"client-{session.id}"
        if self._own_store is None:
            settings = session.settings
            self._own_store = ObjectStore.create(
                session.names.prefix,
                owner,
                capacity=settings.store_capacity,
                spill_capacity=settings.store_spill_capacity,
            )
            self._server = ObjectServer(session, self._own_store, owner)
            await self._server.open()
        return LocalStore(self._own_store, session.names.objects(owner))
