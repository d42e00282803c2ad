"""Durable actors: state, effects and failures of their messages."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from actorhub import ActorInitFailed, Hub, NotSerialisable, PayloadTooLarge, actor, ref, tell
from actorhub.actors.handle import address_of
from actorhub.broker import Message, Outcome
from actorhub.core.futures import resolver_of
from tests.durable.actors import Account, Numbers, kill_worker
from tests.waiting import until


@actor(durable=True)
class Cart(BaseModel):
    items: dict[str, int] = {}
    note: str = ""
    padding: str = "x" * 8000

    async def add(self, item: str, count: int) -> dict[str, int]:
        self.items[item] = self.items.get(item, 0) + count
        if count < 0:
            raise ValueError(f"{count} is no count")
        return self.items

    async def write(self, note: str) -> None:
        self.note = note

    async def show(self) -> tuple[dict[str, int], str]:
        return self.items, self.note

    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True)
class Unkeepable:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def keep_a_lock(self) -> None:
        self.values["lock"] = threading.Lock()

    async def keep_much(self) -> None:
        self.values["much"] = "x" * (100 * 1024 * 1024)

    async def names(self) -> list[str]:
        return sorted(self.values)


@actor(durable=True)
class FailsToStart:
    def __init__(self) -> None:
        raise ValueError("not today")

    async def ping(self) -> None:
        pass


@actor
class Witness:
    """A plain actor that remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def hear(self, word: str) -> None:
        self.heard.append(word)

    async def all(self) -> list[str]:
        return self.heard


@actor(durable=True)
class Speaker:
    state_version: ClassVar[int] = 1

    def __init__(self) -> None:
        self.said = 0

    async def say(self, to: Witness, word: str) -> int:
        self.said += 1
        await tell(to.hear, word)
        return self.said


@actor(durable=True)
class Sleeper:
    def __init__(self) -> None:
        self.rung = 0

    async def set_alarm(self, *, fail: bool) -> None:
        await Hub.current().after(0.1, ref(self).ring)
        if fail:
            raise ValueError("no alarm")

    async def ring(self) -> None:
        self.rung += 1

    async def alarms(self) -> int:
        return self.rung


async def test_a_durable_actor_is_called_like_any_other(hub: Hub) -> None:
    account = await hub.spawn(Account, "ann")
    assert [await account.deposit(5, "a"), await account.deposit(5, "b")] == [5, 10]
    assert await account.read() == (10, ["a", "b"])


async def test_a_failing_method_is_undone_and_its_tells_are_not_sent(hub: Hub) -> None:
    ann, bob = await hub.spawn(Account, "ann", 10), await hub.spawn(Account, "bob")
    with pytest.raises(ValueError, match="no amount"):
        await ann.transfer(bob, -5, "theft")
    assert await ann.read() == (10, [])
    await ann.transfer(bob, 4, "rent")
    await until(lambda: _balance_is(bob, 4))
    assert await ann.read() == (6, ["rent"])
    assert await bob.read() == (4, ["rent"])


async def _balance_is(account: Account, balance: int) -> bool:
    return (await account.read())[0] == balance


def test_reads_must_be_methods_of_a_durable_actor() -> None:
    with pytest.raises(ValueError, match="durable=True"):
        actor(reads=("next",))(type("Plain", (Numbers,), {}))
    with pytest.raises(TypeError, match="'gone'"):
        actor(durable=True, reads=("gone",))(type("Other", (Numbers,), {}))


async def test_a_method_that_fails_sets_no_timer(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    with pytest.raises(ValueError, match="no alarm"):
        await sleeper.set_alarm(fail=True)
    await sleeper.set_alarm(fail=False)
    await until(sleeper.alarms)
    await asyncio.sleep(0.3)
    assert await sleeper.alarms() == 1


async def test_the_state_of_a_model_is_its_fields(hub: Hub) -> None:
    cart = await hub.spawn(Cart)
    await cart.add("tea", 2)
    await cart.write("a gift")
    with pytest.raises(ValueError, match="no count"):
        await cart.add("milk", -1)
    await kill_worker(cart)
    assert await cart.show() == ({"tea": 2}, "a gift")
    await cart.add("tea", 1)
    await kill_worker(cart)
    assert await cart.show() == ({"tea": 3}, "a gift")


async def test_a_state_that_cannot_be_kept_fails_the_call_and_the_actor_goes_on(hub: Hub) -> None:
    unkeepable = await hub.spawn(Unkeepable)
    with pytest.raises(NotSerialisable, match=r"Unkeepable\['values'\]\['lock'\].* lock"):
        await unkeepable.keep_a_lock()
    with pytest.raises(PayloadTooLarge, match="the state of Unkeepable has 1048"):
        await unkeepable.keep_much()
    assert await unkeepable.names() == []


async def test_calls_of_a_durable_actor_whose_constructor_raised_fail_with_the_cause(hub: Hub) -> None:
    broken = await hub.spawn(FailsToStart)
    with pytest.raises(ActorInitFailed, match="not today"):
        await broken.ping()


async def test_a_message_that_kills_its_worker_becomes_one_dead_letter_and_the_actor_goes_on(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    assert await numbers.next() == 1
    await tell(numbers.die)
    assert await numbers.next() == 2
    letters = [letter for letter in await hub.dead() if letter.method == "die"]
    assert [letter.reason for letter in letters] == ["poison"]


async def test_foreign_records_in_a_journal_are_skipped(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    assert await numbers.next() == 1
    link = hub._open_session().link
    assert link is not None
    address = address_of(numbers)
    journal = address.queue.replace(".durable.", ".journal.")
    settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    link.publish(journal, Message(b"\0\0\0\2{}and more"), resolver_of(settled))
    assert await settled is Outcome.STORED
    await kill_worker(numbers)
    assert await numbers.next() == 2


async def test_a_foreign_message_with_an_id_is_applied_once(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    link = hub._open_session().link
    assert link is not None
    queue = address_of(numbers).queue
    for _ in range(3):
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        message = Message(
            b'{"kind": "tell", "method": "next", "payload": {}}', "application/json", message_id="only once"
        )
        link.publish(queue, message, resolver_of(settled))
        await settled
    assert await numbers.next() == 2


async def test_a_killed_durable_actor_leaves_nothing_at_the_broker(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    await numbers.next()
    await hub.kill(numbers)
    link = hub._open_session().link
    assert link is not None
    queue = address_of(numbers).queue
    for name in (queue, queue.replace(".durable.", ".journal.")):
        await until(lambda name=name: _is_gone(link, name))


async def _is_gone(link: Any, queue: str) -> bool:
    return await link.state(queue) is None


async def test_a_tell_of_a_durable_actor_to_a_dead_one_becomes_a_dead_letter(hub: Hub) -> None:
    witness, speaker = await hub.spawn(Witness), await hub.spawn(Speaker)
    await hub.kill(witness)
    assert await speaker.say(witness, "into the void") == 1
    await until(hub.dead)
    assert [(letter.method, letter.reason) for letter in await hub.dead()] == [("hear", "actor died")]


async def test_tells_of_a_durable_actor_to_a_plain_one_arrive_in_order(hub: Hub) -> None:
    witness, speaker = await hub.spawn(Witness), await hub.spawn(Speaker)
    await asyncio.gather(*(speaker.say(witness, str(n)) for n in range(300)))
    await until(lambda: _has_heard(witness, 300))
    assert await witness.all() == [str(n) for n in range(300)]


async def _has_heard(witness: Witness, count: int) -> bool:
    return len(await witness.all()) >= count


def test_a_durable_actor_cannot_have_concurrency() -> None:
    with pytest.raises(ValueError, match="one message after the other"):

        @actor(durable=True, concurrency=2)
        class Several:
            async def ping(self) -> None: ...
