"""The parts that can be hurt: a broker, agents in processes of their own, and their workers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from actorhub import Settings
from actorhub_rabbitmq import PrivateNode


class Cluster:
    """Agents `a0`, `a1` and so on over one private RabbitMQ; each has two workers and writes its log into `directory`."""

    def __init__(self, broker: PrivateNode, prefix: str, directory: Path, *, agents: int = 2) -> None:
        self.broker = broker
        self.settings = Settings(
            url=broker.url, secret="chaos", prefix=prefix, heartbeat=0.5, node_timeout=5.0, connect_timeout=60.0
        )  # type: ignore[arg-type]
        self._directory = directory
        self._agents: list[subprocess.Popen[bytes] | None] = [None] * agents
        self._stopped: set[int] = set()

    def start(self) -> None:
        for number in range(len(self._agents)):
            self.start_agent(number)

    def start_agent(self, number: int) -> None:
        command = [sys.executable, "-m", "actorhub", "node", "tests.chaos.bank", "--workers", "2", "--slots", "0"]
        environment = {**os.environ, **self.settings.to_environment()}
        with (self._directory / f"a{number}.log").open("ab") as log:
            self._agents[number] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill_agent(self, number: int) -> str:
        agent = self._agents[number]
        assert agent is not None
        agent.kill()
        agent.wait()
        return f"killed agent a{number} (pid {agent.pid})"

    @property
    def agents(self) -> int:
        return len(self._agents)

    def workers(self) -> list[int]:
        """Pids of the workers that there are."""
        found = []
        for agent in self._agents:
            with suppress(psutil.Error):
                if agent is not None and agent.poll() is None:
                    leaves = [c for c in psutil.Process(agent.pid).children(recursive=True) if not c.children()]
                    found += [
                        child.pid for child in leaves if "multiprocessing.forkserver" in " ".join(child.cmdline())
                    ]
        return found

    def kill_worker(self, pid: int) -> str:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return f"killed worker {pid}"

    async def pause_worker(self, pid: int, seconds: float) -> str:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)
            await asyncio.sleep(seconds)
            self._continue(pid)
        return f"paused worker {pid} for {seconds:.1f} s"

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        for pid in list(self._stopped):
            self._continue(pid)
        for agent in self._agents:
            if agent is not None and agent.poll() is None:
                agent.terminate()
        for agent in self._agents:
            if agent is not None:
                try:
                    agent.wait(15.0)
                except subprocess.TimeoutExpired:
                    agent.kill()
                    agent.wait()
