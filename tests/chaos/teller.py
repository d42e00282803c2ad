"""A client process of the bank: `python -m tests.chaos.teller NAME BOOK ACCOUNTS VAULTS CLERKS`.

Settings come by the environment. It obeys the words on its standard input: `pause` (it says `quiet` once nothing is
outstanding), `go`, `stop` (it ends once nothing is outstanding).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from actorhub import Hub, ask
from tests.chaos.bank import Account, Clerk, Vault
from tests.chaos.order import Order, OrderBook

WINDOWS = 5  # orders under way at once
PAUSE = 0.6  # seconds between two orders at one window, at most


class Teller:
    def __init__(self, hub: Hub, name: str, book: OrderBook, accounts: int, vaults: int, clerks: int) -> None:
        self._hub = hub
        self._name = name
        self._book = book
        self._sizes = accounts, vaults, clerks
        self._chance = random.Random(name)
        self._numbers = itertools.count(1)
        self._open = asyncio.Event()
        self._over = False
        self._busy = 0
        self._idle = asyncio.Event()

    async def find(self) -> None:
        accounts, vaults, clerks = self._sizes
        self._accounts = {f"account-{n}": await self._hub.find(Account, f"account-{n}") for n in range(accounts)}
        self._vaults = {f"vault-{n}": self._hub.at(Vault, f"vault-{n}") for n in range(vaults)}
        self._clerks = [await self._hub.find(Clerk, f"clerk-{n}") for n in range(clerks)]

    async def work(self) -> None:
        self._open.set()
        windows = [asyncio.create_task(self._window()) for _ in range(WINDOWS)]
        await self._obey()
        await asyncio.gather(*windows)

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            match (await reader.readline()).strip():
                case b"pause":
                    self._open.clear()
                    while self._busy:
                        self._idle.clear()
                        await self._idle.wait()
                    print("quiet", flush=True)
                case b"go":
                    self._open.set()
                case _:  # `stop`, or whoever started it is gone
                    self._over = True
                    self._open.set()
                    return

    async def _window(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.0, PAUSE))
            await self._open.wait()
            if self._over:
                return
            self._busy += 1
            await self._serve(*self._choose())
            self._busy -= 1
            self._idle.set()

    def _choose(self) -> tuple[Order, Awaitable[Any]]:
        """An order, and the call that has been made for it: what is written first is asked first."""
        chance = self._chance
        id, amount = f"{self._name}-{next(self._numbers)}", chance.randrange(1, 50)
        (one, first), (other, second) = chance.sample(list(self._accounts.items()), 2)
        key, vault = chance.choice(list(self._vaults.items()))
        match chance.choices(["transfer", "large", "deposit", "lock up", "unlock", "move"], [5, 1, 2, 2, 2, 2])[0]:
            case "deposit":
                return self._begun(id, "deposit", "", one, amount), ask(first.deposit, id, amount)
            case "large":
                amount *= 40
                return self._begun(id, "transfer", one, other, amount), ask(first.transfer, second, id, amount)
            case "lock up":
                return self._begun(id, "lock up", one, key, amount), ask(first.lock_up, vault, id, amount)
            case "unlock":
                return self._begun(id, "unlock", key, other, amount), ask(vault.transfer, second, id, amount)
            case "move":
                clerk = chance.choice(self._clerks)
                return self._begun(id, "move", one, other, amount), ask(clerk.move, first, second, id, amount)
            case _:
                return self._begun(id, "transfer", one, other, amount), ask(first.transfer, second, id, amount)

    def _begun(self, id: str, kind: str, source: str, target: str, amount: int) -> Order:
        order = Order(id, self._name, kind, source, target, amount)
        self._book.begin(order)
        return order

    async def _serve(self, order: Order, call: Awaitable[Any]) -> None:
        try:
            answer = await call
        except ValueError as exc:
            order.end = "refused" if "no cover" in str(exc) else repr(exc)
        except Exception as exc:  # whatever it is, it must not be
            order.end = repr(exc)
        else:
            order.end = "done"
            names = [name for name in (order.source, order.target) if name]
            order.receipts = dict(zip(names, answer if order.kind == "move" else [answer], strict=False))
        self._book.end(order)


async def main(name: str, book: str, *sizes: str) -> None:
    async with Hub() as hub:
        teller = Teller(hub, name, OrderBook(Path(book)), *map(int, sizes))
        await teller.find()
        print("ready", flush=True)
        await teller.work()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
