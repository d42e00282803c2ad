"""The bank's actors. Each account keeps a history of all that it ever did: the truth inside the cluster."""

from __future__ import annotations

from typing import ClassVar

from actorhub import actor, tell

OPENING = 1000

Entry = list[str | int]
"""The order's id, and what it changed."""
Receipt = tuple[int, int]
"""The place of the entry in the history, from 1 on, and the balance after it."""


class Book:
    opening: ClassVar[int] = OPENING

    def __init__(self) -> None:
        self.balance = self.opening
        self.history: list[Entry] = []

    def _enter(self, order: str, amount: int) -> Receipt:
        self.balance += amount
        self.history.append([order, amount])
        return len(self.history), self.balance

    def _check_cover(self) -> None:
        """Called last: what was done before must be undone, and what was told must not leave."""
        if self.balance < 0:
            raise ValueError(f"no cover: the balance would be {self.balance}")

    async def deposit(self, order: str, amount: int) -> Receipt:
        return self._enter(order, amount)

    async def withdraw(self, order: str, amount: int) -> Receipt:
        receipt = self._enter(order, -amount)
        self._check_cover()
        return receipt

    async def read(self) -> tuple[int, list[Entry]]:
        return self.balance, self.history


@actor(durable=True)
class Account(Book):
    async def transfer(self, to: Account, order: str, amount: int) -> Receipt:
        receipt = self._enter(order, -amount)
        await tell(to.deposit, order, amount)
        self._check_cover()
        return receipt

    async def lock_up(self, to: Vault, order: str, amount: int) -> Receipt:
        receipt = self._enter(order, -amount)
        await tell(to.deposit, order, amount)
        self._check_cover()
        return receipt


@actor(durable=True, shards=2)
class Vault(Book):
    """One of many behind a few mailboxes."""

    async def transfer(self, to: Account, order: str, amount: int) -> Receipt:
        receipt = self._enter(order, -amount)
        await tell(to.deposit, order, amount)
        self._check_cover()
        return receipt


@actor(durable=True)
class Clerk:
    """Moves money by questions, which it asks again under the same ids should its worker die between them."""

    def __init__(self) -> None:
        self.moves = 0

    async def move(self, source: Account, target: Account, order: str, amount: int) -> tuple[Receipt, Receipt]:
        taken = await source.withdraw(order, amount)
        given = await target.deposit(order, amount)
        self.moves += 1
        return taken, given
