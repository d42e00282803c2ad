"""The processes of the bank: agents with their workers, and clients. Each has a log of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from actorhub import Settings
from tests.waiting import until

READY = 60.0  # seconds that a process may take to be ready on a busy machine
_RUNS_CONTROL = re.compile(r"^(\S+) .* runs control$", re.M)


@dataclass(eq=False)
class Agent:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def workers(self) -> list[psutil.Process]:
        """Those processes that the agent's fork server has made."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [one for one in found if one.ppid() != self.process.pid]
        except psutil.NoSuchProcess:
            return []

    @property
    def took_control(self) -> str:
        """The time at which it said so last; empty where it never did."""
        return max(_RUNS_CONTROL.findall(self.log.read_text(errors="replace")), default="")


@dataclass(eq=False)
class Client:
    name: str
    process: asyncio.subprocess.Process
    book: Path
    is_ready: bool = False

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())

    async def ready(self) -> None:
        """It knows the accounts, and works."""
        if not self.is_ready:
            await self.hear("ready")
            self.is_ready = True

    async def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        heard = await self.process.stdout.readline()
        assert heard.decode().strip() == word, f"{self.name} said {heard!r} instead of {word!r}; see its log"


@dataclass
class Site:
    """Agents and clients are spread over `urls`, of one broker. `directory` is for logs and books; `sizes`: how many accounts,
    vaults and clerks there are."""

    settings: Settings
    urls: list[str]
    directory: Path
    workers: int
    sizes: tuple[int, int, int]
    homes: dict[str, str] = field(default_factory=dict)
    """The URL of each agent and client, by name."""
    agents: dict[str, Agent] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)
    """Living and dead ones."""
    orphans: list[psutil.Process] = field(default_factory=list)
    """Workers of agents that were killed."""

    def start_agent(self, name: str) -> None:
        command = [sys.executable, "-m", "actorhub", "node", "--workers", str(self.workers), "--slots", "0"]
        log = self.directory / f"{name}.log"
        with log.open("ab") as file:
            # it ends when its standard input does, at the latest with this process
            process = subprocess.Popen(
                [*command, "--id", name, "--with-parent", "tests.chaos.bank"],
                env=self._environment(name),
                stdin=subprocess.PIPE,
                stderr=file,
            )
        self.agents[name] = Agent(name, process, log)

    async def start_client(self, name: str) -> Client:
        book = self.directory / f"{name}.orders"
        with (self.directory / f"{name}.log").open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "tests.chaos.teller", name, str(book), *map(str, self.sizes)],
                env=self._environment(name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        client = Client(name, process, book)
        self.clients.append(client)
        return client

    @property
    def living_clients(self) -> list[Client]:
        return [client for client in self.clients if client.process.returncode is None]

    @property
    def all_workers(self) -> list[psutil.Process]:
        return [worker for agent in self.agents.values() if agent.alive for worker in agent.workers]

    @property
    def controller(self) -> Agent | None:
        """The agent that runs control, as the logs say."""
        living = [agent for agent in self.agents.values() if agent.alive and agent.took_control]
        return max(living, key=lambda agent: agent.took_control, default=None)

    async def end_agent(self, agent: Agent, number: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        if number == signal.SIGKILL:
            self.orphans += agent.workers
        agent.process.send_signal(number)
        await asyncio.to_thread(agent.process.wait)
        if agent.process.stdin is not None:
            agent.process.stdin.close()

    async def stop(self) -> None:
        for client in self.living_clients:
            client.process.kill()
            await client.process.wait()
        await asyncio.gather(*(self.end_agent(agent, signal.SIGTERM) for agent in self.agents.values() if agent.alive))
        for orphan in self.orphans:
            if orphan.is_running():
                orphan.kill()

    async def until_orphans_end(self, within: float) -> None:
        await until(lambda: not [one for one in self.orphans if one.is_running()], within=within)

    def _environment(self, name: str) -> dict[str, str]:
        url = self.homes.setdefault(name, self.urls[len(self.homes) % len(self.urls)])
        settings = self.settings.model_copy(update={"url": url}).to_environment()
        return {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
