"""The first actor of the README."""

from __future__ import annotations

import asyncio

from actorhub import Hub, actor, ask, tell


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def describe(self) -> str:  # runs in a thread
        return f"the value is {self.value}"


async def main() -> None:
    async with Hub() as hub:  # ACTORHUB_URL, or a whole cluster in memory, inside this process
        counter = await hub.spawn(Counter, 10)
        print(await counter.add(5))  # ask: 15
        await tell(counter.add, 1)  # returns when the broker has it
        print(await ask(counter.describe))  # ask for a method that is not async
        print(await asyncio.gather(*(counter.add(1) for _ in range(1000))))  # sent at once, answered in order


if __name__ == "__main__":
    asyncio.run(main())
