"""A bank's account, which keeps its money whatever crashes."""

from __future__ import annotations

import os

from actorhub import actor, tell


class InsufficientFunds(Exception):
    """The account has less than that."""


@actor(durable=True)
class Account:
    def __init__(self, owner: str, balance: int) -> None:
        self.owner, self.balance = owner, balance
        self.received = 0  # transfers

    async def transfer(self, to: Account, amount: int) -> None:
        if amount > self.balance:
            raise InsufficientFunds(f"{self.owner} has {self.balance}, and not {amount}")
        self.balance -= amount
        await tell(to.receive, amount)  # leaves with the commit, once

    async def receive(self, amount: int) -> None:
        self.balance += amount
        self.received += 1

    async def read(self) -> tuple[int, int]:
        """The balance, and how many transfers have come."""
        return self.balance, self.received

    async def pid(self) -> int:
        return os.getpid()
