"""One trial: the bank opens, chaos strikes for some minutes; every now and then all is quiet, and the books are audited."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from actorhub import Hub, Settings
from actorhub.core.addressing import SYSTEM, new_id
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from tests.chaos import audit, order, postmortem
from tests.chaos.audit import Accounts
from tests.chaos.bank import Account, Clerk, Vault
from tests.chaos.broker import Broker
from tests.chaos.faults import Chaos, Chronicle
from tests.chaos.order import Order
from tests.chaos.site import READY, Site
from tests.conftest import QUICK
from tests.waiting import SETTLED, until

ACCOUNTS, VAULTS, CLERKS = 20, 6, 3
PATIENCE = 90.0  # seconds within which every call is answered, and every tell applied, once chaos has stopped
EVIDENCE = 300.0  # seconds that collecting it may take
PAUSE = 4.0  # seconds between two faults, at most


@dataclass(frozen=True)
class Plan:
    seconds: float
    seed: int
    agents: int = 3
    workers: int = 2
    quiet_every: float = 40.0
    clients: tuple[str, ...] = ("a1", "b1")
    loud: bool = False


class Trial:
    """`run` raises AssertionError with the seed, all events and what differs where something does not hold."""

    def __init__(self, plan: Plan, broker: Broker, directory: Path | None = None) -> None:
        self._plan = plan
        self._broker = broker
        self._chronicle = Chronicle(loud=plan.loud)
        directory = directory or Path(tempfile.mkdtemp(prefix="actorhub-chaos-"))
        given = {**QUICK, "journal_retention": 4 * 1024 * 1024, "prefix": f"chaos-{new_id(6)}"}
        self._settings = Settings(url=broker.urls[0], secret=SecretStr("a bank's secret"), **given)  # type: ignore[arg-type]
        self._site = Site(self._settings, broker.urls, directory, plan.workers, (ACCOUNTS, VAULTS, CLERKS))
        self._chance = random.Random(plan.seed)
        self._found: list[str] = []
        self._note = self._chronicle.note
        self.chaos = Chaos(self._site, broker, self._chance, self._chronicle)

    async def run(self) -> str:
        """Returns what was done, in words."""
        self._note(f"seed {self._plan.seed}, {self._broker.name}, logs in {self._site.directory}")
        for number in range(self._plan.agents):
            self._site.start_agent(f"node-{number + 1}")
        try:
            async with Hub(settings=self._settings) as hub:
                await self._open(hub)
                end = time.monotonic() + self._plan.seconds
                while time.monotonic() < end:
                    await self._strike(min(end, time.monotonic() + self._plan.quiet_every))
                    await self._audit(hub)
                await self._close(hub)
        except Exception as exc:
            await self._keep_evidence()
            raise AssertionError(self._report(exc)) from exc
        finally:
            await self.chaos.calm()
            await self._site.stop()
        return f"{len(self._orders)} orders, {len(self._chronicle.lines)} events, and all is as it should be"

    # ---- the bank's days

    async def _open(self, hub: Hub) -> None:
        await until(lambda: self._all_agents_are_ready(hub), within=READY)
        for number in range(ACCOUNTS):
            await hub.options(name=f"account-{number}").spawn(Account)
        for number in range(CLERKS):
            await hub.options(name=f"clerk-{number}").spawn(Clerk)
        await self._read(hub)
        await asyncio.sleep(SETTLED)
        for name in self._plan.clients:
            await (await self._site.start_client(name)).ready()
        self._note("the bank is open")

    async def _all_agents_are_ready(self, hub: Hub) -> bool:
        try:
            async with asyncio.timeout(2.0):
                nodes = await hub.nodes()
        except Exception:  # there is no control yet
            return False
        return len(nodes) == self._plan.agents and all(len(node.workers) == self._plan.workers for node in nodes)

    async def _strike(self, end: float) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(self._chance.uniform(0.2, PAUSE))
            await self.chaos.strike()
        await self.chaos.calm()

    async def _audit(self, hub: Hub) -> None:
        began, clients = time.monotonic(), self._site.living_clients
        async with asyncio.timeout(PATIENCE):
            for client in clients:
                await client.ready()
                client.say("pause")
            for client in clients:
                await client.hear("quiet")
        await self._until_none(lambda: self._differences(hub))
        self._note(f"all {len(self._orders)} orders agree, {time.monotonic() - began:.1f} s after chaos stopped")
        for client in clients:
            client.say("go")

    async def _close(self, hub: Hub) -> None:
        clients = self._site.living_clients
        async with asyncio.timeout(PATIENCE):
            for client in clients:
                client.say("stop")
            for client in clients:
                assert await client.process.wait() == 0, f"{client.name} ended badly; see its log"
        await self._until_none(lambda: self._differences(hub))
        await self._until_none(self._left_in_inboxes)
        await self._until_none(lambda: self._dead_letters(hub))
        await self._until_none(self._orphans)

    # ---- what must hold

    async def _differences(self, hub: Hub) -> list[str]:
        return audit.differences(await self._read(hub), self._orders, self._dead)

    @property
    def _dead(self) -> frozenset[str]:
        """Clients that were killed."""
        return frozenset({one.name for one in self._site.clients} - {one.name for one in self._site.living_clients})

    async def _read(self, hub: Hub) -> Accounts:
        accounts = {f"account-{n}": await hub.find(Account, f"account-{n}") for n in range(ACCOUNTS)}
        vaults = {f"vault-{n}": hub.at(Vault, f"vault-{n}") for n in range(VAULTS)}
        return {name: await book.read() for name, book in (*accounts.items(), *vaults.items())}

    @property
    def _orders(self) -> list[Order]:
        return order.read([client.book for client in self._site.clients if client.book.exists()])

    async def _left_in_inboxes(self) -> list[str]:
        found = await asyncio.to_thread(self._broker.messages)
        inboxes = {
            name: count for name, count in found.items() if name.startswith(f"{self._settings.prefix}.default.durable.")
        }
        return [f"{count} messages stay in {name}" for name, count in inboxes.items() if count]

    async def _dead_letters(self, hub: Hub) -> list[str]:
        services = DeadLetterQueue(hub._open_session(), SYSTEM)
        return [f"a dead letter: {letter}" for letter in [*await hub.dead(), *await services.read()]]

    async def _orphans(self) -> list[str]:
        return [f"{process} outlives its killed agent" for process in self._site.orphans if process.is_running()]

    # ---- waiting

    async def _until_none(self, look: Callable[[], Awaitable[list[str]]]) -> None:
        self._found = ["nobody answered"]
        async with asyncio.timeout(PATIENCE):
            while found := await look():
                self._found = found
                await asyncio.sleep(0.5)
        self._found = []

    def _report(self, error: Exception) -> str:
        unanswered = [
            one for one in self._orders if one.end not in ("done", "refused") and one.client not in self._dead
        ]
        lines = [f"seed {self._plan.seed}: {error!r}; logs and journals are in {self._site.directory}"]
        lines += [*self._chronicle.lines, *self._found]
        lines += [
            f"{one.kind} {one.id} of {one.source or one.target} is {one.end or 'not answered'}" for one in unanswered
        ]
        return "\n".join(lines)

    async def _keep_evidence(self) -> None:
        try:
            async with asyncio.timeout(EVIDENCE), Hub(settings=self._settings) as hub:
                names = {info.id: info.name or info.id for info in await hub.actors()}
                counts = await asyncio.to_thread(self._broker.messages)
                mine = {
                    queue: count for queue, count in counts.items() if queue.startswith(f"{self._settings.prefix}.")
                }
                await postmortem.keep(self._broker.urls[0], self._site.directory, mine, names)
        except Exception as exc:
            self._note(f"there is no evidence: {exc!r}")
