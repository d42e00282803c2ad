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
    async with Hub() as hub:  # the broker at ACTORHUB_URL, or a cluster in memory inside this process
        counter = await hub.spawn(Counter, 10)
        print(await counter.add(5))  # a call: waits for the reply, 15
        await tell(counter.add, 1)  # no reply: returns when the broker has stored the message
        print(await ask(counter.describe))  # a call of a method that is not async
        print(await asyncio.gather(*(counter.add(1) for _ in range(1000))))  # sent at once, handled in order


if __name__ == "__main__":
    asyncio.run(main())
