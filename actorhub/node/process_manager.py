"""Worker processes of a node: forked from a server process that has loaded everything, watched, and ended.

The server is `multiprocessing`'s forkserver: one more worker takes tens of milliseconds, and shares the memory of the
modules that the server has loaded.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Unpack

from actorhub.core import in_flight
from actorhub.core.addressing import new_id
from actorhub.core.owned_directory import OwnedDirectory, remove_all_abandoned
from actorhub.node import actor_worker, task_worker
from actorhub.node.worker_process import WorkerConfig, WorkerOptions
from actorhub.settings import Settings

# Seconds between two attempts to start a process.
RETRY_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(eq=False)
class WorkerProcess:
    """Worker process, as its agent knows it."""

    config: WorkerConfig
    process: ForkServerProcess
    began: float
    ready: bool = False
    stopping: bool = False
    replaced: bool = False
    """True once another process has taken its place."""
    killed: bool = False
    """True if its agent killed it for a task."""

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    @property
    def pid(self) -> int:
        return self.process.pid or 0


@dataclass(frozen=True)
class WorkerExit:
    """End of a worker process."""

    worker: WorkerProcess
    cause: str
    in_hand: list[in_flight.InFlightCall]
    """Calls that it was running."""
    meant: bool = False
    """True if a slot ended itself, or its agent ended it for a task.

    Another slot takes its place, and its other running tasks are not blamed for the end."""


class ProcessManager:
    """Manager of a node's worker processes; calls `on_exit` on the event loop as soon as one has ended."""

    knows_everything = False
    """True if its workers know every actor class that is defined in the process that spawns."""

    def __init__(
        self,
        node: str,
        modules: Sequence[str],
        preload: Sequence[str],
        settings: Settings,
        on_exit: Callable[[WorkerExit], None],
    ) -> None:
        self._node = node
        self._modules = list(modules)
        self._settings = settings
        self._on_exit = on_exit
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([actor_worker.__name__, task_worker.__name__, *preload])
        base = Path(tempfile.gettempdir())
        remove_all_abandoned(base)  # by agents that were killed
        self._claim = OwnedDirectory.make(base, f"workers-{new_id()}")
        self._running: dict[str, WorkerProcess] = {}
        self._starting: dict[str, asyncio.Future[None]] = {}

    @property
    def running(self) -> list[WorkerProcess]:
        return list(self._running.values())

    def get(self, worker_id: str) -> WorkerProcess | None:
        return self._running.get(worker_id)

    async def find(self, worker_id: str) -> WorkerProcess | None:
        """Find a worker; wait for one that is starting: it may report readiness before its start is known here."""
        starting = self._starting.get(worker_id)
        if starting is not None:
            await asyncio.shield(starting)
        return self._running.get(worker_id)

    def holds(self, calls: Collection[str]) -> bool:
        """True if a slot runs one of these calls, or ran it when it died and its death has not been noticed yet."""
        slots = (each for each in self.running if each.config.kind == "task")
        return any(task.call in calls for slot in slots for task in in_flight.read_in_flight(slot.config.recorder))

    async def start(self, worker_id: str, **more: Unpack[WorkerOptions]) -> WorkerProcess:
        """Start a worker process; `more` are further fields of its configuration.

        Raises:
            OSError: the machine cannot start another process.
        """
        config = self._configure(worker_id, **more)
        main = task_worker.main if config.kind == "task" else actor_worker.main
        process = self._context.Process(target=main, args=(config, self._settings), name=worker_id)
        loop = asyncio.get_running_loop()
        known = self._starting[worker_id] = loop.create_future()
        try:
            try:
                await asyncio.to_thread(process.start)
            except EOFError as exc:
                raise OSError("the server that forks them has ended") from exc
            started = self._running[worker_id] = WorkerProcess(config, process, time.monotonic())
            loop.add_reader(process.sentinel, self._ended, started)
        finally:
            del self._starting[worker_id]
            known.set_result(None)
        return started

    def _configure(self, worker_id: str, **more: Unpack[WorkerOptions]) -> WorkerConfig:
        path = self._claim.path / worker_id
        in_flight.InFlightRecorder.create(path)
        return WorkerConfig(worker=worker_id, node=self._node, modules=self._modules, recorder=path, **more)

    def _ended(self, started: WorkerProcess) -> None:
        asyncio.get_running_loop().remove_reader(started.process.sentinel)
        started.process.join()
        self._running.pop(started.config.worker, None)
        path = started.config.recorder
        in_hand = in_flight.read_in_flight(path)
        path.unlink(missing_ok=True)
        meant = started.killed or started.process.exitcode == task_worker.EXIT_REPLACED
        self._on_exit(WorkerExit(started, _cause(started), in_hand, meant))

    def terminate(self, worker_id: str) -> None:
        """Ask a worker to drain and end."""
        found = self._running.get(worker_id)
        if found is not None:
            found.stopping = True
            found.process.terminate()

    async def end(self, worker_id: str, timeout: float) -> None:
        """Ask a worker to drain and end; kill it after `timeout` seconds: its event loop may be blocked."""
        self.terminate(worker_id)
        until = asyncio.get_running_loop().time() + timeout
        while worker_id in self._running and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)
        self._kill_late(self._running.get(worker_id), timeout)

    def _kill_late(self, late: WorkerProcess | None, timeout: float) -> None:
        if late is not None:
            log.warning("worker %s did not end in %.0f s and is killed", late.config.worker, timeout)
            late.process.kill()

    def kill(self, worker_id: str) -> None:
        """Kill a worker at once."""
        found = self._running.get(worker_id)
        if found is not None:
            found.killed = True
            found.process.kill()

    async def stop(self, timeout: float) -> None:
        """Drain all workers; kill those that have not ended in `timeout` seconds."""
        until = asyncio.get_running_loop().time() + timeout
        while self._running and asyncio.get_running_loop().time() < until:
            for each in self.running:  # one may still have been on its way
                if not each.stopping:
                    self.terminate(each.config.worker)
            await asyncio.sleep(0.01)
        for late in self.running:
            self._kill_late(late, timeout)
        while self._running:
            await asyncio.sleep(0.01)
        self._claim.remove()


async def retry_until_started(start: Callable[[], Awaitable[None]]) -> None:
    """Call `start` again until the machine can start another process."""
    while True:
        try:
            return await start()
        except OSError as exc:
            log.warning("no process can be started: %s; trying again", exc)
            await asyncio.sleep(RETRY_SECONDS)


_NOUNS = {"actors": "worker", "task": "slot"}


def _cause(started: WorkerProcess) -> str:
    code = started.process.exitcode
    who = f"{_NOUNS[started.config.kind]} {started.config.worker} (pid {started.pid})"
    if code is None or code >= 0:
        return f"{who} exited with code {code}"
    name = signal.Signals(-code).name if -code in {int(known) for known in signal.Signals} else f"signal {-code}"
    hint = "; out of memory, or somebody killed it" if -code == signal.SIGKILL else ""
    return f"{who} was ended by {name}{hint}"
