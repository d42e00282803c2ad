"""Server of one object store: sends objects to other nodes, and frees those whose leases have ended.

An agent serves its node's store. A client on a machine without a node serves a store of its own.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from pickle import PickleBuffer
from typing import Any

from actorhub.actors.handle import tell
from actorhub.actors.service import ServiceEndpoint, service, stub
from actorhub.errors import ActorHubError, ObjectLost
from actorhub.messaging.session import Session
from actorhub.objects.store import ObjectStore

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
"""Bytes of an object in one message."""


@service(concurrency=10_000)
class ObjectService(ABC):
    """Interface of an object server: transfer, leases and removal."""

    @abstractmethod
    async def chunks(self, object_id: str, offset: int, copy_at: str) -> AsyncGenerator[Any, None]:
        """Stream an object.

        Args:
            object_id: the object.
            offset: the byte to begin at.
            copy_at: queue of the server whose store receives the copy.
        """
        yield b""

    @abstractmethod
    async def renew(self, object_ids: list[str]) -> None:
        """Renew the leases of objects that a process refers to."""

    @abstractmethod
    async def free(self, object_ids: list[str]) -> None:
        """Remove objects here and wherever copies exist."""


class LeaseTable:
    """Leases of objects, counted in rounds. Pure.

    Rounds instead of seconds, so that a server that was suspended for a while frees nothing because of that.
    """

    ROUNDS = 4
    """Rounds of a new or renewed lease; it lasts at least three whole ones."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def renew(self, object_ids: Iterable[str]) -> None:
        self._left.update(dict.fromkeys(object_ids, self.ROUNDS))

    def overdue(self, object_ids: Iterable[str]) -> list[str]:
        """End a round, and return the objects whose lease is over. An object without a lease gets a new one.

        Args:
            object_ids: all objects of the store.
        """
        self._left = {id_: self._left.get(id_, self.ROUNDS + 1) - 1 for id_ in object_ids}
        return [id_ for id_, left in self._left.items() if left <= 0]


class ObjectServer:
    """Server of one store, from `open` to `close`.

    Args:
        session: receives the requests.
        store: the store that it serves.
        owner: id of the node, or of the client, that owns the store.
    """

    def __init__(self, session: Session, store: ObjectStore, owner: str) -> None:
        self.queue = session.names.objects(owner)
        self._session = session
        self._store = store
        self._leases = LeaseTable()
        # queues of the servers that have copies, by object
        self._copies: dict[str, set[str]] = {}
        # the queue expires soon after its server is killed, which shows others that the server is gone
        expires = session.settings.node_timeout
        self._endpoint = ServiceEndpoint(
            session, self.queue, ObjectService, lambda: _StoreServiceActor(self), expires=expires
        )
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._endpoint.open()
        self._watching = self._session.spawn_task(self._watch(), "actorhub-leases")

    async def close(self) -> None:
        """Stop serving. A client that requests an object from now on finds it lost."""
        if self._watching is None:
            return
        self._watching.cancel()
        await self._endpoint.close()
        if self._session.link is not None:
            try:
                await self._session.link.delete(self.queue)
            except (ActorHubError, OSError):
                log.debug("%s stays until it expires", self.queue, exc_info=True)

    # ---- requests

    async def chunks(self, object_id: str, offset: int, copy_at: str) -> AsyncGenerator[Any, None]:
        self._copies.setdefault(object_id, set()).add(copy_at)
        while data := await asyncio.to_thread(self._store.read, object_id, offset, CHUNK_BYTES):
            yield PickleBuffer(data)
            offset += len(data)
            self._leases.renew([object_id])

    def renew(self, object_ids: Iterable[str]) -> None:
        self._leases.renew(object_ids)

    async def free(self, object_ids: Iterable[str]) -> None:
        for object_id in object_ids:
            await asyncio.to_thread(self._store.free, object_id)
            for queue in self._copies.pop(object_id, ()):
                self._session.spawn_task(self._free_copy(queue, object_id), "actorhub-free")

    async def _free_copy(self, queue: str, object_id: str) -> None:
        try:
            await tell(stub(self._session, queue, ObjectService).free, [object_id])
        except ActorHubError:
            log.debug("the copy of object %s at %s is gone, or ends with its lease", object_id, queue, exc_info=True)

    # ---- leases

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._session.settings.object_lease / 3)
            try:
                present = await asyncio.to_thread(self._store.ids)
            except ObjectLost:
                return
            if self._session.link is None:
                self._leases.renew(present)  # without a broker no client can renew
                continue
            await self.free(self._leases.overdue(present))
            for gone in self._copies.keys() - set(present):
                del self._copies[gone]


class _StoreServiceActor(ObjectService):
    def __init__(self, keeper: ObjectServer) -> None:
        self._lease_check = keeper

    async def chunks(self, object_id: str, offset: int, copy_at: str) -> AsyncGenerator[Any, None]:
        async for chunk in self._lease_check.chunks(object_id, offset, copy_at):
            yield chunk

    async def renew(self, object_ids: list[str]) -> None:
        self._lease_check.renew(object_ids)

    async def free(self, object_ids: list[str]) -> None:
        await self._lease_check.free(object_ids)
