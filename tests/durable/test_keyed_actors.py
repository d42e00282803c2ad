"""Keyed actors: many durable instances behind a few mailboxes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from actorhub import ActorHubError, ActorInitFailed, Hub, Settings, actor, ask, ref, tell
from actorhub.broker import LocalServer
from actorhub.core.addressing import new_id
from tests.conftest import QUICK
from tests.waiting import until

lives: list[str] = []


@actor(durable=True, shards=4)
class Cart:
    def __init__(self, key: str) -> None:
        self.key = key
        self.items: list[str] = []

    async def started(self) -> None:
        lives.append(self.key)

    async def add(self, item: str) -> int:
        self.items.append(item)
        if item == "poison":
            raise ValueError("not this")
        return len(self.items)

    async def give(self, to: Cart, item: str) -> None:
        self.items.remove(item)
        await tell(to.add, item)

    async def show(self) -> tuple[str, list[str]]:
        return self.key, self.items

    async def myself(self) -> Cart:
        return ref(self)

    async def pid(self) -> int:
        return os.getpid()

    async def fill(self, size: int) -> None:
        self.items = ["x" * size]


@actor(durable=True, shards=2)
class Plain:
    """A class whose constructor takes no key."""

    def __init__(self) -> None:
        self.count = 0

    async def next(self) -> int:
        self.count += 1
        return self.count


@actor(durable=True, shards=1)
class Broken:
    def __init__(self, key: str) -> None:
        if key == "broken":
            raise ValueError("not this key")

    async def ping(self) -> str:
        return "pong"


async def test_instances_are_created_by_their_first_call_and_have_separate_states(hub: Hub) -> None:
    carts = [hub.at(Cart, f"customer-{n}") for n in range(20)]
    await asyncio.gather(*(cart.add(str(n)) for n, cart in enumerate(carts)))
    assert [await cart.show() for cart in carts] == [(f"customer-{n}", [str(n)]) for n in range(20)]
    assert hub.at(Cart, "customer-3") == carts[3]
    assert await hub.at(Plain, "a").next() == 1


async def test_a_failing_call_is_undone_in_its_own_instance_only(hub: Hub) -> None:
    good, bad = hub.at(Cart, "good"), hub.at(Cart, "bad")
    await bad.add("tea")
    results = await asyncio.gather(good.add("milk"), bad.add("poison"), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    assert [await good.show(), await bad.show()] == [("good", ["milk"]), ("bad", ["tea"])]


async def test_an_instance_that_cannot_be_created_fails_its_calls_and_no_others(hub: Hub) -> None:
    with pytest.raises(ActorInitFailed, match="not this key"):
        await hub.at(Broken, "broken").ping()
    assert await hub.at(Broken, "whole").ping() == "pong"


async def test_handles_of_instances_can_be_sent(hub: Hub) -> None:
    cart, other = hub.at(Cart, "from"), hub.at(Cart, "to")
    await cart.add("tea")
    await cart.give(other, "tea")
    await until(lambda: _has(other, ["tea"]))
    assert await cart.show() == ("from", [])
    assert await cart.myself() == cart
    assert await (await cart.myself()).show() == ("from", [])


async def _has(cart: Cart, items: list[str]) -> bool:
    return (await cart.show())[1] == items


async def test_no_item_appears_or_disappears_while_workers_are_killed(hub: Hub) -> None:
    """Invariant: each item is in exactly one cart."""
    chance = random.Random(3)
    carts = [hub.at(Cart, f"k{n}") for n in range(30)]
    all_items = [str(n) for n in range(60)]
    await asyncio.gather(*(carts[n % 30].add(item) for n, item in enumerate(all_items)))

    async def trade() -> None:
        for _ in range(40):
            source, target = chance.sample(carts, 2)
            _, items = await source.show()
            if items:
                await asyncio.gather(source.give(target, items[0]), return_exceptions=True)

    trading = asyncio.gather(*(trade() for _ in range(8)))
    for _ in range(3):
        await asyncio.sleep(0.3)
        os.kill(await ask(chance.choice(carts).pid), signal.SIGKILL)
    await trading
    await until(lambda: _hold_all(carts, sorted(all_items)))


async def _hold_all(carts: list[Cart], items: list[str]) -> bool:
    held = [item for cart in carts for item in (await cart.show())[1]]
    assert len(set(held)) == len(held), "no item is in two carts"
    return sorted(held) == items


@pytest.fixture
async def small(broker: LocalServer) -> AsyncIterator[Hub]:
    """A cluster that passivates instances soon, and whose journals are as small as possible."""
    settings = Settings(
        url=broker.url, secret="s", prefix=f"t{new_id(6)}", passivate_after=0.3, journal_retention=1024 * 1024, **QUICK
    )  # type: ignore[arg-type]
    async with Hub.local(workers=1, modules=[__name__], settings=settings) as hub:
        yield hub


@actor(durable=True, shards=1)
class Counted:
    lives = 0

    def __init__(self) -> None:
        self.text = ""

    async def started(self) -> None:
        type(self).lives += 1

    async def write(self, text: str) -> int:
        self.text = text
        return type(self).lives

    async def read(self) -> tuple[str, int]:
        return self.text, type(self).lives


async def test_an_idle_instance_is_passivated_and_comes_back_as_it_was(small: Hub) -> None:
    counted = small.at(Counted, "a")
    assert await counted.write("word") == 1
    await asyncio.sleep(2.5)
    assert await counted.read() == ("word", 2)


async def test_a_timer_reaches_the_instance_for_which_it_was_set(hub: Hub) -> None:
    cart, other = hub.at(Cart, "a"), hub.at(Cart, "b")
    await other.add("tea")
    await hub.after(0.2, cart.add, "later")
    await until(lambda: _has_item(cart, "later"))
    assert [await cart.show(), await other.show()] == [("a", ["later"]), ("b", ["tea"])]


async def _has_item(cart: Cart, item: str) -> bool:
    return item in (await cart.show())[1]


async def test_timers_that_do_not_fit_into_a_record_are_refused_and_the_others_stay(hub: Hub) -> None:
    """Each timer is set or becomes a dead letter, and the instance goes on."""
    cart = hub.at(Cart, "a")
    await asyncio.gather(*(hub.after(3600.0, cart.add, f"{n}{'x' * 100_000}") for n in range(200)))
    await cart.add("tea")
    assert await cart.show() == ("a", ["tea"])
    refused = await hub.dead()
    assert {(letter.method, letter.reason) for letter in refused} <= {("add", "invalid")}
    assert len(refused) < 200


async def test_an_instance_is_not_passivated_while_a_call_runs(small: Hub) -> None:
    """The running call is replied to, and its change is in the state, though a timer is set meanwhile."""
    slow = small.at(Slow, "a")
    assert await slow.work(0.0) == 1
    working = ask(slow.work, 4.0)
    await small.after(60.0, slow.work, 0.0)
    async with asyncio.timeout(30.0):
        assert await working == 2
    assert await slow.work(0.0) == 3


@actor(durable=True, shards=1)
class Slow:
    def __init__(self) -> None:
        self.done = 0

    async def work(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.done += 1
        return self.done


@actor(durable=True, shards=1)
class Form(BaseModel):
    """Fields that change separately, in a state so large that commits of an unkeyed actor would hold only the changed ones."""

    items: list[str] = []
    note: str = ""
    padding: str = "x" * 8000

    async def add(self, item: str) -> None:
        self.items.append(item)

    async def write(self, note: str) -> None:
        self.note = note

    async def show(self) -> tuple[list[str], str]:
        return self.items, self.note


async def test_a_model_comes_back_with_all_of_its_fields(small: Hub) -> None:
    form = small.at(Form, "a")
    await form.add("tea")
    await form.write("a gift")
    await asyncio.sleep(2.5)
    assert await form.show() == (["tea"], "a gift")


async def test_a_state_survives_when_the_broker_drops_the_record_that_held_it(small: Hub) -> None:
    """Invariant: instances keep their old states, though the journal has been filled several times since."""
    await asyncio.gather(*(small.at(Counted, f"cold-{n}").write(f"word {n}") for n in range(50)))
    hot = small.at(Counted, "hot")
    for n in range(150):
        await hot.write(str(n) * 10_000)
    assert [(await small.at(Counted, f"cold-{n}").read())[0] for n in range(50)] == [f"word {n}" for n in range(50)]
    (node,) = await small.nodes()
    os.kill(next(worker.pid for worker in node.workers if worker.kind == "shared"), signal.SIGKILL)
    assert [(await small.at(Counted, f"cold-{n}").read())[0] for n in range(50)] == [f"word {n}" for n in range(50)]
    assert (await hot.read())[0] == "149" * 10_000


@actor(durable=True)
class Verbose:
    def __init__(self) -> None:
        self.count = 0

    async def say(self, size: int) -> tuple[int, str]:
        self.count += 1
        return self.count, "x" * size

    async def pid(self) -> int:
        return os.getpid()


async def test_replies_larger_than_the_journal_all_reach_their_callers(small: Hub) -> None:
    """Invariant: all of many simultaneous calls are replied to, in order, and all their changes are in the state."""
    verbose = await small.spawn(Verbose)
    replies = await asyncio.gather(*(verbose.say(50_000) for _ in range(200)))
    assert [count for count, _ in replies] == list(range(1, 201))
    os.kill(await verbose.pid(), signal.SIGKILL)
    assert await verbose.say(1) == (201, "x")


async def test_invalid_keys_are_refused(hub: Hub) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        hub.at(Cart, "")
    with pytest.raises(TypeError, match="a key must be a str"):
        hub.at(Cart, 7)  # type: ignore[arg-type]
    with pytest.raises(ActorHubError, match="cannot be killed"):
        await hub.kill(hub.at(Cart, "a"))


def test_a_keyed_class_must_be_durable() -> None:
    with pytest.raises(ValueError, match="durable=True"):

        @actor(shards=2)
        class Fleeting:
            async def ping(self) -> None: ...
