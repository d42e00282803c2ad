"""What users' editors show: checked by mypy and pyright, never run. Each ignored line must be an error, or the check fails."""

from __future__ import annotations

from typing import assert_type

from actorhub import Call, Hub, actor, ask, ref, tell
from actorhub.blocking import Hub as BlockingHub


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        return self.value + amount

    def describe(self) -> str:
        return str(self.value)

    def own(self) -> Counter:
        return ref(self)


@actor(concurrency=4, mailbox_limit=100)
class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner

    async def transfer(self, to: Account, amount: int) -> None: ...


async def right(hub: Hub) -> None:
    counter = await hub.options(name="x").spawn(Counter, 10)
    assert_type(counter, Counter)
    assert_type(await counter.add(1), int)
    assert_type(await ask(counter.describe), str)
    assert_type(ask(counter.add, 1), Call[int])
    await tell(counter.add, 1)
    assert_type(await hub.find(Counter, "x"), Counter)
    account = await hub.spawn(Account, "me")
    await account.transfer(account, 3)


async def wrong(hub: Hub, counter: Counter) -> None:
    await hub.spawn(Counter, "bad")  # type: ignore[arg-type]
    await counter.add("bad")  # type: ignore[arg-type]
    await tell(counter.add, "bad")  # type: ignore[arg-type]
    await ask(counter.describe, 3)  # type: ignore[call-overload]


def blocking(hub: BlockingHub) -> None:
    counter = hub.spawn(Counter, 10)
    assert_type(counter, Counter)
    assert_type(hub.ask(counter.add, 1), int)
    assert_type(hub.ask(counter.describe), str)
    hub.tell(counter.add, 1)
