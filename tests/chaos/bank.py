"""Accounts that remember everything, and traders that hold them to it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from actorhub import Hub, actor, tell

OPENING = 1000
Entry = tuple[str, int]
"""What it was, and by how much it changed the balance."""


@actor(durable=True)
class Account:
    def __init__(self) -> None:
        self.balance = OPENING
        self.entries: list[Entry] = []

    async def deposit(self, amount: int, note: str) -> int:
        """How many entries there are with this one."""
        return self._enter(amount, note)

    async def transfer(self, to: Account, amount: int, note: str) -> int:
        if amount > self.balance:
            raise ValueError("not enough")
        await tell(to.deposit, amount, note)
        return self._enter(-amount, note)

    async def statement(self) -> tuple[int, list[Entry]]:
        return self.balance, self.entries

    async def count(self) -> int:
        return len(self.entries)

    def _enter(self, amount: int, note: str) -> int:
        self.balance += amount
        self.entries.append((note, amount))
        return len(self.entries)


class Trader:
    """Transfers and deposits until it is told to stop, and keeps what it was answered."""

    def __init__(self, name: str, accounts: list[Account], chance: random.Random) -> None:
        self.name = name
        self.deposited = 0
        self.transfers: list[str] = []
        self.ways: dict[str, str] = {}
        self.answers: list[tuple[int, int, Entry]] = []  # account, place in its entries, entry
        self.stopping = False
        self.doing = ""
        self._accounts = accounts
        self._chance = chance

    async def trade(self) -> None:
        number = 0
        while not self.stopping:
            number += 1
            note, amount = f"{self.name}-{number}", self._chance.randrange(1, 20)
            source, target = self._chance.sample(range(len(self._accounts)), 2)
            self.doing = f"{note}: account {source} to {target}"
            if self._chance.random() < 0.2:
                place = await self._accounts[source].deposit(amount, note)
                self.deposited += amount
                self.answers.append((source, place, (note, amount)))
            else:
                try:
                    place = await self._accounts[source].transfer(self._accounts[target], amount, note)
                except ValueError:
                    continue  # not enough
                self.transfers.append(note)
                self.ways[note] = self.doing
                self.answers.append((source, place, (note, -amount)))
            await asyncio.sleep(self._chance.random() * 0.05)


class Bank:
    """`accounts` accounts, and traders of several hubs."""

    def __init__(self, hubs: list[Hub], seed: int, *, accounts: int = 20, traders: int = 12) -> None:
        self._hubs = hubs
        self._seed = seed
        self._size = accounts
        self._count = traders
        self._accounts: list[Account] = []
        self._traders: list[Trader] = []
        self._trading: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        for number in range(self._size):
            hub = self._hubs[number % len(self._hubs)]
            account = await hub.options(name=f"account-{number}").spawn(Account)
            await account.count()
        for number in range(self._count):
            hub = self._hubs[number % len(self._hubs)]
            accounts = [await hub.find(Account, f"account-{n}") for n in range(self._size)]
            self._traders.append(Trader(f"t{number}", accounts, random.Random(f"{self._seed} {number}")))
        self._accounts = accounts
        self._trading = [asyncio.create_task(trader.trade()) for trader in self._traders]

    def check_alive(self) -> None:
        """No trader has had an error."""
        for task in self._trading:
            if task.done():
                task.result()

    async def close(self, within: float) -> int:
        """Let the traders end, wait for what they set going, and check the books. Returns how many transfers there were.

        Raises:
            TimeoutError: a call has no answer, or a tell has not arrived.
            AssertionError: the books are wrong.
        """
        for trader in self._traders:
            trader.stopping = True
        _, late = await asyncio.wait(self._trading, timeout=within)
        if late:
            waiting = [trader.doing for trader, task in zip(self._traders, self._trading, strict=True) if task in late]
            raise TimeoutError(f"calls without an answer: {waiting}")
        self.check_alive()
        entries = sum(len(trader.answers) + len(trader.transfers) for trader in self._traders)
        try:
            async with asyncio.timeout(within):
                while sum([await account.count() for account in self._accounts]) < entries:
                    await asyncio.sleep(0.1)
        except TimeoutError as exc:
            raise TimeoutError(f"not all tells have arrived: {await self._missing()}") from exc
        statements = [await account.statement() for account in self._accounts]
        self._check(statements)
        return sum(len(trader.transfers) for trader in self._traders)

    async def _missing(self) -> list[str]:
        """Transfers that are not entered on both sides, and where they should be."""
        statements = [await account.statement() for account in self._accounts]
        noted = Counter(note for _, entries in statements for note, _ in entries)
        return [
            f"{trader.ways[note]} is entered {noted[note]} times"
            for trader in self._traders
            for note in trader.transfers
            if noted[note] < 2
        ]

    def _check(self, statements: list[tuple[int, list[Entry]]]) -> None:
        deposited = sum(trader.deposited for trader in self._traders)
        total = sum(balance for balance, _ in statements)
        assert total == OPENING * self._size + deposited, f"{total - OPENING * self._size - deposited} too much"
        for balance, entries in statements:
            assert balance == OPENING + sum(amount for _, amount in entries), "a balance is not that of its entries"
        noted = Counter(note for _, entries in statements for note, _ in entries)
        transfers = {note for trader in self._traders for note in trader.transfers}
        wrong = {note: times for note, times in noted.items() if times != (2 if note in transfers else 1)}
        assert not wrong, f"entered too often, or too seldom: {wrong}"
        for trader in self._traders:
            for account, place, entry in trader.answers:
                found = statements[account][1][place - 1]
                assert tuple(found) == entry, f"account {account} was said to have {entry} at {place}, and has {found}"
