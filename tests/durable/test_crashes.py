"""Durable actors while workers are killed or told to end: each message is applied once, each reply and effect sent once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from actorhub import ActorHubError, Hub, actor, ask, step
from actorhub.actors.handle import address_of
from actorhub.broker import Delivery, LocalServer, Message, Queue
from actorhub.core.addressing import new_id
from actorhub.settings import Settings
from tests.conftest import QUICK
from tests.durable.actors import Account, Numbers, kill_worker
from tests.waiting import until


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


async def test_state_survives_a_killed_worker(hub: Hub) -> None:
    account = await hub.spawn(Account, "ann")
    await account.deposit(7, "a")
    await kill_worker(account)
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


@actor(durable=True)
class Page:
    def __init__(self) -> None:
        self.text = ""

    async def fill(self, letter: str) -> None:
        self.text = letter * 30_000

    async def first_letter(self) -> str:
        return self.text[:1]

    async def pid(self) -> int:
        return os.getpid()


async def test_no_state_is_lost_by_a_clean_stop_at_any_moment_between_two_checkpoints(broker: LocalServer) -> None:
    """Invariant: every actor has its last state after a clean stop and two crashes. A checkpoint is due after five states of
    this size: an actor that is stopped just then must not write one without its state."""
    settings = Settings(url=broker.url, secret="s", prefix=f"t{new_id(6)}", journal_retention=1024 * 1024, **QUICK)  # type: ignore[arg-type]
    async with Hub.local(workers=1, modules=[__name__], settings=settings) as hub:
        pages = [await hub.spawn(Page) for _ in range(8)]
        for count, page in enumerate(pages, 1):
            for letter in "abcdefgh"[:count]:
                await page.fill(letter)
        os.kill(await ask(pages[0].pid), signal.SIGTERM)
        for _ in range(2):
            assert "".join([await ask(page.first_letter) for page in pages]) == "abcdefgh"
            await kill_worker(pages[0])
        assert "".join([await ask(page.first_letter) for page in pages]) == "abcdefgh"


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
    await kill_worker(numbers)
    await until(lambda: _count_is(numbers, 1))
    await kill_worker(numbers)
    assert await numbers.count_so_far() == 1


async def test_a_recurring_timer_continues_on_another_worker_until_it_is_cancelled(hub: Hub) -> None:
    numbers = await hub.spawn(Numbers)
    timer = await hub.every(0.2, numbers.next)
    await until(lambda: _count_is(numbers, 2))
    await kill_worker(numbers)
    await until(lambda: _count_is(numbers, 4))
    await timer.cancel()
    count = await numbers.count_so_far()
    await asyncio.sleep(0.6)
    assert await numbers.count_so_far() == count


async def _count_is(numbers: Numbers, least: int) -> bool:
    return await numbers.count_so_far() >= least


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
