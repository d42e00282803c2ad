"""What happens to the bank. Each fault is a coroutine that returns when it is over, or goes on beside the next ones."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.chaos.broker import Broker
from tests.chaos.cluster import Cluster
from tests.chaos.site import Agent, Site


@dataclass
class Chronicle:
    """What happened, and when, in seconds since the beginning."""

    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    loud: bool = False

    def note(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:7.2f}  {time.strftime('%H:%M:%S')}  {text}"
        self.lines.append(line)
        if self.loud:
            print(line, flush=True)


class Chaos:
    """One fault after the other, chosen by `chance`; what was frozen or killed comes back by itself. `weights` say how often
    which one comes."""

    def __init__(self, site: Site, broker: Broker, chance: random.Random, chronicle: Chronicle) -> None:
        self._site = site
        self._broker = broker
        self._chance = chance
        self._note = chronicle.note
        self._beside: set[asyncio.Task[None]] = set()
        self._generation = 1
        self.weights: dict[Callable[[], Awaitable[None]], int] = {
            self.kill_worker: 6,
            self.freeze_worker: 3,
            self.kill_agent: 2,
            self.kill_controller: 2,
            self.freeze_agent: 1,
            self.drain_agent: 1,
            self.kill_agent_of_frozen_worker: 2,
            self.kill_client: 1,
            self.kill_broker: 2,
            self.restart_broker: 1,
            self.freeze_broker: 1,
            self.close_connections: 3,
            self.refuse_connections: 1,
        }
        if isinstance(broker, Cluster):
            self.weights |= {self.kill_broker: 3, self.restart_broker: 3, self.cut_off_broker: 4}

    async def strike(self) -> None:
        [fault] = self._chance.choices(list(self.weights), list(self.weights.values()))
        await fault()

    async def calm(self) -> None:
        """Everything that goes on beside has ended, and all processes are there again."""
        while self._beside:
            await asyncio.gather(*self._beside)

    def _go_on_beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    # ---- workers

    async def kill_worker(self) -> None:
        if workers := self._site.all_workers:
            worker = self._chance.choice(workers)
            self._note(f"SIGKILL of worker {worker.pid}")
            _signal(worker, signal.SIGKILL)

    async def freeze_worker(self) -> None:
        if workers := self._site.all_workers:
            worker, seconds = self._chance.choice(workers), self._chance.uniform(1.0, 8.0)
            self._note(f"SIGSTOP of worker {worker.pid} for {seconds:.1f} s")
            _signal(worker, signal.SIGSTOP)
            self._go_on_beside(self._thaw(worker, seconds))

    async def _thaw(self, process: psutil.Process, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._note(f"SIGCONT of {process.pid}")
        _signal(process, signal.SIGCONT)

    # ---- agents

    def _an_agent(self) -> Agent | None:
        """Never the last one that is awake."""
        living = [agent for agent in self._site.agents.values() if agent.alive and not _frozen(agent)]
        return self._chance.choice(living) if len(living) > 1 else None

    async def kill_agent(self) -> None:
        if agent := self._an_agent():
            await self._kill_agent(agent, "")

    async def kill_controller(self) -> None:
        if (agent := self._site.controller) and self._an_agent():
            await self._kill_agent(agent, ", which runs control")

    async def _kill_agent(self, agent: Agent, what: str) -> None:
        seconds = self._chance.uniform(0.0, 8.0)
        self._note(f"SIGKILL of {agent.name}{what}; again in {seconds:.1f} s")
        await self._site.end_agent(agent, signal.SIGKILL)
        self._go_on_beside(self._start_agent(agent.name, seconds))

    async def _start_agent(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._note(f"{name} starts again")
        self._site.start_agent(name)

    async def freeze_agent(self) -> None:
        """For so long that control takes it for lost, while its workers go on."""
        if agent := self._an_agent():
            seconds = self._site.settings.node_timeout + self._chance.uniform(-1.0, 5.0)
            self._note(f"SIGSTOP of {agent.name} for {seconds:.1f} s")
            process = psutil.Process(agent.process.pid)
            _signal(process, signal.SIGSTOP)
            self._go_on_beside(self._thaw(process, seconds))

    async def kill_agent_of_frozen_worker(self) -> None:
        """Its actors go elsewhere; when it goes on it finds itself replaced."""
        if (agent := self._an_agent()) and (workers := agent.workers):
            worker, seconds = self._chance.choice(workers), self._chance.uniform(4.0, 12.0)
            self._note(f"SIGSTOP of worker {worker.pid} of {agent.name} for {seconds:.1f} s")
            _signal(worker, signal.SIGSTOP)
            await self._kill_agent(agent, "")
            self._go_on_beside(self._thaw(worker, seconds))

    async def drain_agent(self) -> None:
        if agent := self._an_agent():
            self._note(f"SIGTERM of {agent.name}")
            self._go_on_beside(self._drain(agent))

    async def _drain(self, agent: Agent) -> None:
        await self._site.end_agent(agent, signal.SIGTERM)
        self._note(f"{agent.name} has drained, and starts again")
        self._site.start_agent(agent.name)

    # ---- clients

    async def kill_client(self) -> None:
        client = self._chance.choice(self._site.living_clients)
        self._note(f"SIGKILL of client {client.name}")
        client.process.kill()
        await client.process.wait()
        self._generation += 1
        await self._site.start_client(f"{client.name[0]}{self._generation}")

    # ---- the broker

    async def kill_broker(self) -> None:
        self._note("SIGKILL of the broker")
        await asyncio.to_thread(self._broker.kill)
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        await asyncio.to_thread(self._broker.start)
        self._note("the broker is there again")

    async def restart_broker(self) -> None:
        self._note("the broker is restarted")
        await asyncio.to_thread(self._broker.restart)
        self._note("the broker is there again")

    async def freeze_broker(self) -> None:
        seconds = self._chance.uniform(0.5, 6.0)
        self._note(f"the broker is frozen for {seconds:.1f} s")
        await asyncio.to_thread(self._broker.freeze)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._broker.thaw)

    async def close_connections(self) -> None:
        self._note("the broker closes all connections")
        await asyncio.to_thread(self._broker.close_connections)

    async def refuse_connections(self) -> None:
        seconds = self._chance.uniform(0.5, 5.0)
        self._note(f"the broker closes all connections and takes none for {seconds:.1f} s")
        await asyncio.to_thread(self._broker.refuse)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._broker.accept)

    async def cut_off_broker(self) -> None:
        assert isinstance(self._broker, Cluster)
        seconds = self._chance.uniform(2.0, 20.0)
        self._note(f"a node of the broker is cut off from the others for {seconds:.1f} s")
        await asyncio.to_thread(self._broker.cut_off)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._broker.join)
        self._note("the broker is whole again")


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """It may have ended; psutil knows when its number belongs to another."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _frozen(agent: Agent) -> bool:
    try:
        return psutil.Process(agent.process.pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
