"""A worker process: what its agent tells it, and its life until SIGTERM or its agent's end."""

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

from actorhub import logs
from actorhub.blackbox import BlackBox
from actorhub.fates import TaskFates
from actorhub.loopwatch import LoopWatch
from actorhub.objects.site import remove_if_owner_is_gone
from actorhub.settings import Settings

THREADS = 256  # for `def` methods; made when they are needed


class WorkerConfig(BaseModel):
    """What an agent tells a worker that it starts. For slots: the task queues, and what is known of single tasks."""

    model_config = ConfigDict(frozen=True)

    worker: str
    node: str
    modules: list[str]
    blackbox: Path
    store: Path | None = None
    """Of the node's objects."""
    kind: Literal["actors", "task"] = "actors"
    actor_id: str | None = None
    """The only actor it is for, where that one is isolated."""
    queues: list[str] = Field(default_factory=list)
    placed: bool = False
    """A slot that control has placed for its queue alone: it ends when nothing comes."""
    environment: dict[str, str] = Field(default_factory=dict)
    """What the process's has besides."""
    fates: TaskFates = TaskFates()


class WorkerOptions(TypedDict, total=False):
    """Fields of a `WorkerConfig` that depend on what the worker is for."""

    store: Path | None
    kind: Literal["actors", "task"]
    actor_id: str | None
    queues: list[str]
    placed: bool
    environment: dict[str, str]
    fates: TaskFates


class Served(Protocol):
    """What lives in the process."""

    blackbox: BlackBox

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def serve(make: Callable[[], Served], config: WorkerConfig, settings: Settings) -> None:
    """Import the node's modules, start it, and stop it when the agent says so or is gone. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    logs.configure(settings.log_format, settings.log_level, node=config.node, worker=config.worker)
    os.environ.update({"ACTORHUB_NODE": config.node, **config.environment})  # for user code
    for module in config.modules:
        importlib.import_module(module)
    gc.freeze()  # what was imported stays: the collector need not look at it again and again
    uvloop.run(_serve(make, config))


async def _serve(make: Callable[[], Served], config: WorkerConfig) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="actorhub"))
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    agent = multiprocessing.parent_process()
    if agent is not None:
        loop.add_reader(agent.sentinel, stop.set)
    served = make()
    watch = LoopWatch(served.blackbox)
    await served.start()
    await stop.wait()
    await served.stop()
    watch.stop()
    if config.store is not None:
        remove_if_owner_is_gone(config.store)  # nobody else would, if this was the last of a killed agent's workers
    logging.shutdown()
    os._exit(0)  # a `def` method that never returns must not keep the process: its message goes back to the queue
