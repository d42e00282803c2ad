"""Cluster inside the process: the embedded broker, and a node whose worker shares the node's event loop.

Two threads, each with an event loop of its own, so that an actor that blocks holds up neither the caller nor the
broker. There are no worker processes: actors with `isolation="process"` share this process, and a warning says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Unpack

import uvloop
from pydantic import SecretStr

from actorhub.broker import LocalServer, open_server
from actorhub.core.addressing import new_id
from actorhub.errors import BrokerUnavailable
from actorhub.node.actor_worker import ActorWorker
from actorhub.node.agent import NodeAgent, NodeConfig
from actorhub.node.process_manager import ProcessManager, WorkerExit, WorkerProcess
from actorhub.node.task_worker import TaskWorker
from actorhub.node.worker_process import MAX_THREADS, WorkerConfig, WorkerOptions, WorkerRuntime
from actorhub.settings import Settings

log = logging.getLogger(__name__)


class InProcessCluster:
    """Cluster inside the process. `start` returns the settings of its hub. Everything in it ends with the process."""

    size = 1
    workers = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: LocalServer | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None

    async def start(self) -> Settings:
        self._server = open_server("embedded")
        await asyncio.to_thread(self._server.start)
        secret = self._settings.secret or SecretStr(secrets.token_urlsafe(32))
        self._settings = self._settings.model_copy(update={"url": self._server.url, "secret": secret})
        self._thread = threading.Thread(target=self._run, name="actorhub-node", daemon=True)
        self._thread.start()
        return self._settings

    def check(self) -> None:
        """Check that the cluster runs.

        Raises:
            BrokerUnavailable: the node inside could not start.
        """
        if self._error is not None:
            raise BrokerUnavailable(f"the cluster inside this process did not start: {self._error}") from self._error

    async def stop(self) -> None:
        if self._thread is not None:
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join)
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as exc:
            self._error = exc

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="actorhub"))
        config = NodeConfig(workers=1, slots=1, node_id=f"inside-{new_id(6)}")
        node = NodeAgent(config, self._settings, processes=_InProcessWorkers)
        try:
            await node.start()
            await self._stop.wait()
        finally:
            await node.stop()


class _Inside(WorkerProcess):
    """Worker on the node's event loop, without a process of its own."""

    def __init__(self, worker: WorkerRuntime, config: WorkerConfig) -> None:
        self.worker = worker
        self.config = config
        self.ready = False
        self.stopping = False
        self.replaced = False
        self.killed = False

    @property
    def age(self) -> float:
        return 0.0

    @property
    def pid(self) -> int:
        return os.getpid()


class _InProcessWorkers(ProcessManager):
    """Manager of workers that live on the node's event loop."""

    knows_everything = True

    @cached_property
    def _ending(self) -> dict[str, asyncio.Task[None]]:
        return {}

    async def start(self, worker_id: str, **more: Unpack[WorkerOptions]) -> WorkerProcess:
        config = self._configure(worker_id, **more)
        if config.actor_id is not None:
            log.warning(
                "%s is declared with its own process and shares this one; use Hub.local() for processes",
                config.actor_id,
            )
        served: WorkerRuntime = ActorWorker(config, self._settings)
        if config.kind == "task":
            served = TaskWorker(config, self._settings, is_process=False)
        inside = _Inside(served, config)
        self._running[worker_id] = inside
        await inside.worker.start()
        return inside

    def terminate(self, worker_id: str) -> None:
        found = self._running.get(worker_id)
        if isinstance(found, _Inside) and not found.stopping:
            found.stopping = True
            self._ending[worker_id] = asyncio.get_running_loop().create_task(self._end(found))

    kill = terminate

    async def _end(self, inside: _Inside) -> None:
        try:
            await inside.worker.stop()
        finally:
            self._running.pop(inside.config.worker, None)
            self._ending.pop(inside.config.worker, None)
            self._on_exit(WorkerExit(inside, "", []))
