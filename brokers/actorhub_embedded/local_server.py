"""The embedded broker as a local server: it runs in a thread of this process."""

from __future__ import annotations

import asyncio
import secrets
import threading

import uvloop

from actorhub.broker import LocalServer
from actorhub.errors import BrokerUnavailable
from actorhub_embedded.server import Server

MEMORY_LIMIT_BYTES = 1024**3
USER = "actorhub"


class EmbeddedServer(LocalServer):
    """A broker in memory: its messages are lost when the process ends.

    It listens on loopback and takes one user, whose password is new for each server.

    Args:
        memory_limit: bytes of messages past which connections that publish are blocked.
    """

    def __init__(self, *, memory_limit: int = MEMORY_LIMIT_BYTES) -> None:
        self._memory_limit = memory_limit
        self._password = secrets.token_urlsafe(16)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._server: Server | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="actorhub-embedded-broker", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise BrokerUnavailable(f"the embedded broker did not start: {self._error}") from self._error

    def stop(self) -> None:
        if self._loop is not None and self._stopped is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._loop = None

    def close_connections(self, reason: str) -> None:
        """Close every connection, as RabbitMQ does for an operator."""
        assert self._loop is not None
        assert self._server is not None
        asyncio.run_coroutine_threadsafe(self._server.close_connections(reason), self._loop).result()

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as exc:
            self._error = exc
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        server = self._server = Server(USER, self._password, memory_limit=self._memory_limit)
        port = await server.start()
        self.url = f"amqp://{USER}:{self._password}@127.0.0.1:{port}/"
        self._started.set()
        await self._stopped.wait()
        await server.stop()
