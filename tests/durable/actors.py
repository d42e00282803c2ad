"""Durable actors that several tests share, and what kills their workers."""

from __future__ import annotations

import os
import signal
from typing import Any

from actorhub import actor, ask, tell


@actor(durable=True)
class Account:
    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner, self.balance = owner, balance
        self.history: list[str] = []

    async def deposit(self, amount: int, note: str = "") -> int:
        self.balance += amount
        self.history.append(note)
        return self.balance

    async def transfer(self, to: Account, amount: int, note: str) -> int:
        self.balance -= amount
        self.history.append(note)
        await tell(to.deposit, amount, note)
        if amount < 0:
            raise ValueError(f"{amount} is no amount")
        return self.balance

    async def read(self) -> tuple[int, list[str]]:
        return self.balance, self.history

    def pid(self) -> int:
        return os.getpid()


@actor(durable=True, reads=("count_so_far", "pid"))
class Numbers:
    """A counter."""

    def __init__(self) -> None:
        self.count = 0

    async def next(self) -> int:
        self.count += 1
        return self.count

    async def count_so_far(self) -> int:
        return self.count

    async def pid(self) -> int:
        return os.getpid()

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def kill_worker(handle: Any) -> None:
    """Kill the worker of an actor, and wait until the actor runs in another one."""
    pid = await ask(handle.pid)
    os.kill(pid, signal.SIGKILL)
    assert await ask(handle.pid) != pid
