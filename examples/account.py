"""A bank account as a durable actor: it keeps its money whatever crashes."""

from __future__ import annotations

import os

from actorhub import actor, tell


class InsufficientFunds(Exception):
    """The balance is lower than the amount to transfer."""


@actor(durable=True)
class Account:
    def __init__(self, owner: str, balance: int) -> None:
        self.owner, self.balance = owner, balance
        self.received = 0  # number of transfers

    async def transfer(self, to: Account, amount: int) -> None:
        if amount > self.balance:
            raise InsufficientFunds(f"{self.owner} has {self.balance}, less than the {amount} to transfer")
        self.balance -= amount
        await tell(to.receive, amount)  # sent once, with the commit

    async def receive(self, amount: int) -> None:
        self.balance += amount
        self.received += 1

    async def read(self) -> tuple[int, int]:
        """Return the balance and the number of transfers received."""
        return self.balance, self.received

    async def pid(self) -> int:
        return os.getpid()
