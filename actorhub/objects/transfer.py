"""Transfer of objects between nodes: copies an object from its owner, or from remote storage, into the local store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from actorhub.actors.service import stub
from actorhub.errors import ActorNotFound, CallTimeout, ObjectLost, RemoteError
from actorhub.messaging.context import EMPTY_CONTEXT, call_context
from actorhub.messaging.session import Session
from actorhub.objects.reference import ObjectRef
from actorhub.objects.remote_storage import RemoteStorage
from actorhub.objects.server import ObjectService
from actorhub.objects.store import ObjectStore, ObjectWriter

SHARED_TRANSFER_POLL_SECONDS = 0.02
"""Between looks at the transfer of another process of this node."""
CHUNK_TIMEOUT_SECONDS = 1.0
"""Without a chunk, after which the broker is asked whether the owner still consumes."""
MAX_FRUITLESS_ATTEMPTS = 3
"""In a row that bring nothing, before the object is lost."""
READ_BYTES = 4 * 1024 * 1024
"""Of one read from remote storage."""


@dataclass(frozen=True)
class LocalStore:
    """The store that a process writes into, and the queue of its server."""

    store: ObjectStore
    queue: str


class ObjectTransfer:
    """Transfers of one process.

    Args:
        session: reaches the owners of objects.
        find_local_store: finds the store that copies go into.
    """

    def __init__(self, session: Session, find_local_store: Callable[[], Awaitable[LocalStore]]) -> None:
        self._session = session
        self._find_local_store = find_local_store
        self._fetching: dict[str, asyncio.Task[BaseException | None]] = {}

    async def fetch(self, ref: ObjectRef[Any]) -> None:
        """Bring an object into this process's store; all callers that wait for it share one transfer.

        Raises:
            ObjectLost: no store has the object any more.
            StoreFull: this store has no room for a copy.
            CallTimeout: the deadline of the surrounding call passed; the transfer goes on.
        """
        fetching = self._fetching.get(ref.id)
        if fetching is None:
            fetching = self._fetching[ref.id] = self._session.spawn_task(self._bring(ref), f"actorhub-fetch-{ref.id}")
            fetching.add_done_callback(lambda _: self._fetching.pop(ref.id, None))
        until = call_context.get().deadline
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - time.time())):
                error = await asyncio.shield(fetching)
        except TimeoutError as exc:
            raise CallTimeout(f"{ref!r} did not arrive before the deadline; the transfer goes on") from exc
        if error is not None:
            raise error

    async def _bring(self, ref: ObjectRef[Any]) -> BaseException | None:
        call_context.set(EMPTY_CONTEXT)
        try:
            store = (await self._find_local_store()).store
            while not store.contains(ref.id):
                with store.pulling(ref.id) as mine:
                    if mine and not store.contains(ref.id):
                        await self._copy(ref, store)
                        return None
                await asyncio.sleep(SHARED_TRANSFER_POLL_SECONDS)  # another process of this node brings it
        except Exception as exc:
            return exc
        return None

    async def _copy(self, ref: ObjectRef[Any], store: ObjectStore) -> None:
        with await asyncio.to_thread(store.begin, ref.id, ref.size) as writer:
            try:
                await self._pull(ref, writer)
            except ObjectLost:
                if self.remote_storage is None:
                    raise
                await asyncio.to_thread(_read, self.remote_storage, ref, writer)
            writer.commit()

    async def _pull(self, ref: ObjectRef[Any], writer: ObjectWriter) -> None:
        """Receive an object from its owner. After a silence the transfer resumes where it stopped."""
        home = await self._find_local_store()
        if home.queue == ref.queue:
            raise _lost(ref, "it was freed, or its last reference expired")
        service, done, failures = stub(self._session, ref.queue, ObjectService), 0, 0
        while done < ref.size:
            before = done
            stream = service.chunks(ref.id, done, home.queue)
            try:
                async for chunk in self._with_server_check(ref, stream):
                    writer.write(done, chunk)
                    done += chunk.nbytes
            except ActorNotFound as exc:
                raise _lost(ref, "that node is gone") from exc
            except ObjectLost as exc:
                raise _lost(ref, "it was freed, or its last reference expired") from exc
            except (RemoteError, TimeoutError) as exc:
                failures = failures + 1 if done == before else 0
                if failures >= MAX_FRUITLESS_ATTEMPTS:
                    raise _lost(ref, "that node does not answer") from exc
            finally:
                await stream.aclose()

    async def _with_server_check(self, ref: ObjectRef[Any], stream: AsyncIterator[Any]) -> AsyncIterator[memoryview]:
        """Pass on the chunks of a stream. While none comes, ask the broker whether the server still consumes its queue.

        Raises:
            ActorNotFound: the server is gone.
            TimeoutError: the server consumes but sends nothing.
        """
        patience = self._session.settings.node_timeout
        silent = absent = 0.0
        while True:
            try:
                async with asyncio.timeout(CHUNK_TIMEOUT_SECONDS):
                    chunk = await anext(stream, None)
            except TimeoutError:
                silent += CHUNK_TIMEOUT_SECONDS
                state = await (await self._session.live_link()).state(ref.queue)
                absent = 0.0 if state is not None and state.consumers else absent + CHUNK_TIMEOUT_SECONDS
                if state is None or absent >= patience:
                    raise ActorNotFound(f"no server has consumed {ref.queue} for {absent:.0f} s") from None
                if silent >= 2 * patience:
                    raise
                continue
            if chunk is None:
                return
            silent = absent = 0.0
            yield memoryview(chunk)

    @cached_property
    def remote_storage(self) -> RemoteStorage | None:
        """Copies of objects at ACTORHUB_OBJECTS_URL; None without that setting."""
        url = self._session.settings.objects_url
        return RemoteStorage(url) if url is not None else None


def _read(remote: RemoteStorage, ref: ObjectRef[Any], writer: ObjectWriter) -> None:
    """Copy an object whose node is gone from remote storage into the writer."""
    try:
        if remote.size(ref.id) != ref.size:
            raise _lost(ref, f"what {remote.url} has of it is not whole")
        for offset in range(0, ref.size, READ_BYTES):
            writer.write(offset, memoryview(remote.read(ref.id, offset, READ_BYTES)))
    except ObjectLost as exc:
        raise _lost(ref, f"its node does not have it, and neither does {remote.url}") from exc


def _lost(ref: ObjectRef[Any], why: str) -> ObjectLost:
    return ObjectLost(
        f"object {ref.id} of {ref.size:,} bytes on {ref.node} is lost: {why}; create it again, "
        "and keep a reference to it for as long as it is needed"
    )
