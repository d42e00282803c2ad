"""Worker process: configuration, and life until SIGTERM or the end of its agent."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, TypedDict

import uvloop
from pydantic import BaseModel, ConfigDict, Field

from actorhub.control_api.task_status import TaskStatusReport
from actorhub.core import logging_setup
from actorhub.core.in_flight import InFlightRecorder
from actorhub.node.event_loop_monitor import EventLoopMonitor
from actorhub.objects.location import remove_if_owner_is_gone
from actorhub.settings import Settings

log = logging.getLogger(__name__)

# Threads for `def` methods; each is created when it is needed.
MAX_THREADS = 256


class WorkerConfig(BaseModel):
    """Configuration that an agent gives to a worker process."""

    model_config = ConfigDict(frozen=True)

    worker: str
    node: str
    modules: list[str]
    recorder: Path
    store: Path | None = None
    """Directory of the node's object store."""
    kind: Literal["actors", "task"] = "actors"
    actor_id: str | None = None
    """The isolated actor that it is for; None for a shared worker."""
    queues: list[str] = Field(default_factory=list)
    """Task queues of a slot."""
    placed: bool = False
    """True for a dedicated slot, which control has placed for one queue; it ends when no task comes."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that are added to the environment of the process."""
    task_statuses: TaskStatusReport = TaskStatusReport()
    """Statuses of single tasks, for a slot."""


class WorkerOptions(TypedDict, total=False):
    """Fields of a `WorkerConfig` that depend on what the worker is for."""

    store: Path | None
    kind: Literal["actors", "task"]
    actor_id: str | None
    queues: list[str]
    placed: bool
    environment: dict[str, str]
    task_statuses: TaskStatusReport


class WorkerRuntime(Protocol):
    """Runtime of a worker process: it hosts actors or runs tasks."""

    recorder: InFlightRecorder

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def run_worker(make: Callable[[], WorkerRuntime], config: WorkerConfig, settings: Settings) -> None:
    """Import the node's modules, start the runtime, and stop it on SIGTERM or when the agent is gone. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    logging_setup.configure_logging(settings.log_format, settings.log_level, node=config.node, worker=config.worker)
    os.environ.update({"ACTORHUB_NODE": config.node, **config.environment})  # for user code
    for module in config.modules:
        importlib.import_module(module)
    # Imported objects stay: the collector need not visit them again and again.
    gc.freeze()
    uvloop.run(_serve(make, config))


async def _serve(make: Callable[[], WorkerRuntime], config: WorkerConfig) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="actorhub"))
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    agent = multiprocessing.parent_process()
    if agent is not None:
        loop.add_reader(agent.sentinel, stop.set)
    served = make()
    watch = EventLoopMonitor(served.recorder)
    await served.start()
    await stop.wait()
    await served.stop()
    watch.stop()
    if config.store is not None:
        # The last worker of a killed agent removes the store: no other process would.
        remove_if_owner_is_gone(config.store)
    logging.shutdown()
    # A `def` method that never returns must not keep the process: its message goes back to the queue.
    os._exit(0)
