"""Durable actors: each message changes the state once, and its reply and tells are sent once, whatever crashes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from actorhub import ActorHubError, ActorInitFailed, Hub, NotSerialisable, PayloadTooLarge, actor, ask, ref, step, tell
from actorhub.actors.handle import address_of
from actorhub.broker import Delivery, Message, Outcome, Queue
from actorhub.core.futures import resolver_of
from tests.waiting import until


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
class Forgetful:
    """Its worker dies once in each method, after the method has had an effect on others."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = 0

    def _die_once(self, word: str) -> None:
        path = Path(f"{self.path}-{word}")
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    async def call_and_die(self, numbers: Numbers) -> list[int]:
        self.calls += 1
        replies = [await numbers.next(), await numbers.next()]
        self._die_once("called")
        return replies

    async def charge_and_die(self) -> int:
        self.calls += 1

        def charge(key: str) -> None:
            with Path(self.path).open("a") as file:
                file.write(f"{key}\n")

        await step("charge", charge)
        self._die_once("charged")
        return self.calls


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


async def _kill(handle: Any) -> None:
    """Kill the worker of an actor, and wait until the actor runs in another one."""
    pid = await ask(handle.pid)
    os.kill(pid, signal.SIGKILL)
    assert await ask(handle.pid) != pid


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


async def test_state_survives_a_killed_worker(hub: Hub) -> None:
    account = await hub.spawn(Account, "ann")
    await account.deposit(7, "a")
    await _kill(account)
    assert await account.read() == (7, ["a"])
    assert await account.deposit(1, "b") == 8


async def test_each_call_is_applied_once_and_replied_to_once_while_workers_are_killed(hub: Hub) -> None:
    """Invariant: the replies to n calls are 1 to n, in the order of the calls."""
    numbers = await hub.spawn(Numbers)
    replies: list[int] = []

    async def count() -> None:
        for _ in range(40):
            replies.extend(await asyncio.gather(*(numbers.next() for _ in range(50))))
            await asyncio.sleep(0.02)

    counting = asyncio.create_task(count())
    for _ in range(4):
        await asyncio.sleep(0.3)
        os.kill(await numbers.pid(), signal.SIGKILL)
    await counting
    assert replies == list(range(1, 2001))


async def test_a_read_sees_only_committed_state_and_all_earlier_replies(hub: Hub) -> None:
    """Invariant: a read returns at least what was replied before it was called, and nothing that could be lost."""
    numbers = await hub.spawn(Numbers)
    read: list[int] = []
    highest = 0

    async def look() -> None:
        while highest < 1000:
            before = highest
            read.append(await numbers.count_so_far())
            assert read[-1] >= before

    looking = asyncio.create_task(look())
    for number in range(1, 1001, 10):
        assert await asyncio.gather(*(numbers.next() for _ in range(10))) == list(range(number, number + 10))
        highest = number + 9
        if number % 300 == 1:
            os.kill(await numbers.pid(), signal.SIGKILL)
    await looking
    assert read == sorted(read)
    entries = await hub.history(numbers, limit=10_000)
    assert sum(entry.answers for entry in entries) == 1000, "replies of methods that only read are not in the journal"
    assert sum(entry.methods.count("count_so_far") for entry in entries) >= len(read)


async def _foreign_client(hub: Hub, numbers: Numbers) -> tuple[Callable[[str], None], asyncio.Queue[int]]:
    """A function that sends a message of a foreign client, always under the same id, and the replies that come."""
    link = hub._open_session().link
    assert link is not None
    replies: asyncio.Queue[int] = asyncio.Queue()
    queue = address_of(numbers).queue
    reply_to = f"{queue}.replies"
    await link.declare(Queue(reply_to, expires=60))

    def take(delivery: Delivery) -> None:
        replies.put_nowait(json.loads(delivery.message.body)["payload"])
        delivery.ack()

    await link.consume(reply_to, take, lambda reason: None, prefetch=10)

    def send(method: str) -> None:
        body = json.dumps({"method": method, "payload": {}}).encode()
        message = Message(body, "application/json", message_id="the same", reply_to=reply_to)
        link.publish(queue, message, lambda outcome: None)

    return send, replies


async def test_a_repeated_read_is_run_again(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    send, replies = await _foreign_client(hub, numbers)
    for count in (1, 2):
        assert await numbers.next() == count
        send("count_so_far")
        assert await replies.get() == count


async def test_the_next_owner_after_a_clean_stop_sends_no_reply_again(hub: Hub) -> None:
    """Invariant: a foreign client, which cannot tell a reply from its copy, gets one."""
    numbers = await hub.spawn(Numbers)
    send, replies = await _foreign_client(hub, numbers)
    pid = await numbers.pid()
    send("next")
    assert await replies.get() == 1
    os.kill(pid, signal.SIGTERM)
    await until(lambda: not Path(f"/proc/{pid}").exists())  # so that it has ended before the next owner begins
    assert await numbers.next() == 2
    assert replies.empty(), "inherited effects would have been sent before the other reply"


def test_reads_must_be_methods_of_a_durable_actor() -> None:
    with pytest.raises(ValueError, match="durable=True"):
        actor(reads=("next",))(type("Plain", (Numbers,), {}))
    with pytest.raises(TypeError, match="'gone'"):
        actor(durable=True, reads=("gone",))(type("Other", (Numbers,), {}))


async def test_no_money_appears_or_disappears_while_workers_are_killed(hub: Hub) -> None:
    """Invariant: the sum of all balances stays, and each accepted transfer is once in the history of both accounts."""
    chance = random.Random(7)
    accounts = [await hub.spawn(Account, f"a{n}", 1000) for n in range(6)]
    notes: list[str] = []

    async def trade(trader: int) -> None:
        for n in range(60):
            source, target = chance.sample(accounts, 2)
            note = f"{trader}-{n}"
            await source.transfer(target, chance.randrange(1, 10), note)
            notes.append(note)

    trading = asyncio.gather(*(trade(n) for n in range(10)))
    for _ in range(4):
        await asyncio.sleep(0.3)
        os.kill(await ask(chance.choice(accounts).pid), signal.SIGKILL)
    await trading
    await until(lambda: _all_arrived(accounts, 2 * len(notes)))
    states = [await account.read() for account in accounts]
    assert sum(balance for balance, _ in states) == 6000
    histories = [note for _, history in states for note in history]
    assert sorted(histories) == sorted([*notes, *notes])
    assert all(len(set(history)) == len(history) for _, history in states)


async def _all_arrived(accounts: list[Account], count: int) -> bool:
    return sum([len((await account.read())[1]) for account in accounts]) >= count


async def test_a_call_that_is_repeated_after_a_crash_gets_the_same_reply(hub: Hub, tmp_path: Path) -> None:
    forgetful, numbers = await hub.spawn(Forgetful, str(tmp_path / "file")), await hub.spawn(Numbers)
    assert await forgetful.call_and_die(numbers) == [1, 2]
    assert await forgetful.call_and_die(numbers) == [3, 4]
    assert await numbers.next() == 5


async def test_a_step_that_is_repeated_after_a_crash_has_the_same_key(hub: Hub, tmp_path: Path) -> None:
    forgetful = await hub.spawn(Forgetful, str(tmp_path / "file"))
    assert [await forgetful.charge_and_die(), await forgetful.charge_and_die()] == [1, 2]
    keys = (tmp_path / "file").read_text().split()
    assert (len(keys), len(set(keys))) == (3, 2), "one charge was made twice, under one key"


async def test_a_step_outside_of_a_durable_actor_is_an_error() -> None:
    with pytest.raises(ActorHubError, match="durable"):
        await step("charge", lambda key: key)


async def test_a_durable_timer_fires_once_though_workers_are_killed(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    await hub.after(1.0, numbers.next)
    await _kill(numbers)
    await until(lambda: _count_is(numbers, 1))
    await _kill(numbers)
    assert await numbers.count_so_far() == 1


async def test_a_recurring_timer_continues_on_another_worker_until_it_is_cancelled(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    timer = await hub.every(0.2, numbers.next)
    await until(lambda: _count_is(numbers, 2))
    await _kill(numbers)
    await until(lambda: _count_is(numbers, 4))
    await timer.cancel()
    count = await numbers.count_so_far()
    await asyncio.sleep(0.6)
    assert await numbers.count_so_far() == count


async def test_a_method_that_fails_sets_no_timer(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    with pytest.raises(ValueError, match="no alarm"):
        await sleeper.set_alarm(fail=True)
    await sleeper.set_alarm(fail=False)
    await until(sleeper.alarms)
    await asyncio.sleep(0.3)
    assert await sleeper.alarms() == 1


async def _count_is(numbers: Numbers, least: int) -> bool:
    return await numbers.count_so_far() >= least


async def test_the_state_of_a_model_is_its_fields(hub: Hub) -> None:
    cart = await hub.spawn(Cart)
    await cart.add("tea", 2)
    await cart.write("a gift")
    with pytest.raises(ValueError, match="no count"):
        await cart.add("milk", -1)
    await _kill(cart)
    assert await cart.show() == ({"tea": 2}, "a gift")
    await cart.add("tea", 1)
    await _kill(cart)
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
    ticket = address_of(numbers)
    journal = ticket.queue.replace(".durable.", ".journal.")
    settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    link.publish(journal, Message(b"\0\0\0\2{}and more"), resolver_of(settled))
    assert await settled is Outcome.STORED
    await _kill(numbers)
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


@actor(durable=True)
class Slow:
    """Its method still runs when its worker is told to end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.done = 0

    async def work(self) -> int:
        await asyncio.to_thread(Path(self.path).touch)
        await asyncio.sleep(0.5)
        self.done += 1
        return self.done

    async def pid(self) -> int:
        return os.getpid()


async def test_a_call_that_runs_when_its_worker_is_told_to_end_is_in_the_state(hub: Hub, tmp_path: Path) -> None:
    slow = await hub.spawn(Slow, str(tmp_path / "begun"))
    pid = await slow.pid()
    working = slow.work()
    await until((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGTERM)
    assert await working == 1
    await until(lambda: _lives_elsewhere(slow, pid))
    assert await slow.work() == 2


async def _lives_elsewhere(slow: Slow, pid: int) -> bool:
    return await slow.pid() != pid


async def test_calls_that_wait_for_their_commit_when_a_worker_ends_are_in_the_state(hub: Hub) -> None:
    """Invariant: the replies to n calls are 1 to n, though workers are told to end while commits are in flight."""
    numbers = await hub.spawn(Numbers)
    replies: list[int] = []

    async def count() -> None:
        for _ in range(60):
            replies.append(await numbers.next())
            await asyncio.sleep(random.uniform(0.0, 0.03))  # so that some arrive while others are committed

    counting = asyncio.gather(*(count() for _ in range(40)))
    for rounds in (1, 2, 3):
        await until(lambda at=rounds * 500: len(replies) >= at)  # type: ignore[misc]
        os.kill(await numbers.pid(), signal.SIGTERM)
    await counting
    assert sorted(replies) == list(range(1, 2401))
