"""Calls of durable actors that fail before they start, kill their worker, or have effects too large for a record."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from actorhub import CallTimeout, DeadlockDetected, Hub, PayloadTooLarge, actor, ask, deadline, ref, tell
from tests.waiting import until


@actor(durable=True)
class Pair:
    """Two numbers that are equal after each message."""

    def __init__(self) -> None:
        self.first = 0
        self.second = 0

    async def both(self, seconds: float) -> None:
        self.first += 1
        await asyncio.sleep(seconds)
        self.second += 1

    async def call_itself(self) -> str:
        self.first += 1
        try:
            await ask(ref(self).show)
        except DeadlockDetected as exc:
            error = type(exc).__name__
        self.second += 1
        return error

    async def show(self) -> tuple[int, int]:
        return self.first, self.second

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def test_a_call_that_is_cancelled_before_it_starts_undoes_nothing_of_the_running_one(hub: Hub) -> None:
    """Invariant: both changes of the running call are in the state, or none is."""
    pair = await hub.spawn(Pair)
    running = ask(pair.both, 1.0)
    with pytest.raises(CallTimeout), deadline(0.3):
        await pair.both(0.0)
    await running
    assert await pair.show() == (1, 1)


async def test_a_method_that_would_deadlock_on_its_own_actor_keeps_its_changes(hub: Hub) -> None:
    """The inner call fails, and the method continues with the state that it had."""
    pair = await hub.spawn(Pair)
    assert await pair.call_itself() == "DeadlockDetected"
    assert await pair.show() == (1, 1)


async def test_a_timer_that_kills_its_worker_becomes_one_dead_letter_and_the_actor_goes_on(hub: Hub) -> None:
    pair = await hub.spawn(Pair)
    await hub.after(0.0, pair.die)
    [letter] = await until(hub.dead)
    assert (letter.method, letter.reason) == ("die", "poison")
    assert await pair.show() == (0, 0)
    assert len(await hub.dead()) == 1


@actor(durable=True)
class Strict:
    """Refuses large arguments, and sends many tells."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self, word: str) -> None:
        self.count += 1
        raise ValueError("too large")

    async def tell_many(self, to: Strict, times: int) -> None:
        for _ in range(times):
            await tell(to.next)

    async def next(self) -> int:
        self.count += 1
        return self.count


async def test_many_large_tells_that_fail_become_dead_letters_and_the_actor_goes_on(hub: Hub) -> None:
    """Together they do not fit into one record. Each becomes one dead letter."""
    strict = await hub.spawn(Strict)
    await asyncio.gather(*(tell(strict.take, "x" * 40_000) for _ in range(1000)))
    assert await strict.next() == 1
    assert [(letter.method, letter.reason) for letter in await hub.dead(2000)] == [("take", "exception")] * 1000


async def test_a_very_large_tell_that_fails_becomes_a_dead_letter_without_arguments_and_the_actor_goes_on(
    hub: Hub,
) -> None:
    """With its arguments the dead letter would not fit into a record."""
    strict = await hub.spawn(Strict)
    await tell(strict.take, "x" * 14_000_000)
    assert await strict.next() == 1
    [letter] = await hub.dead()
    assert (letter.method, letter.reason) == ("take", "exception")


async def test_a_method_whose_tells_do_not_fit_into_a_record_fails_and_the_actor_goes_on(hub: Hub) -> None:
    """Either all tells are sent, or none, and the method fails."""
    strict, other = await hub.spawn(Strict), await hub.spawn(Strict)
    times = 100_000
    try:
        await strict.tell_many(other, times)
    except PayloadTooLarge:
        times = 0
    assert await strict.next() == 1
    await until(lambda: _has_counted(other, times))


async def _has_counted(strict: Strict, least: int) -> bool:
    return await strict.next() > least
