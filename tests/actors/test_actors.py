"""Actors on a real RabbitMQ, in real worker processes: calls, streams, options, errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from actorhub import (
    ActorDied,
    ActorInitFailed,
    ActorNotFound,
    CallTimeout,
    DeadlockDetected,
    Hub,
    InvalidArguments,
    InvalidResult,
    MailboxFull,
    MethodNotFound,
    NameTaken,
    NotSerialisable,
    PayloadTooLarge,
    PlacementInfeasible,
    RemoteError,
    actor,
    ask,
    backpressure,
    deadline,
    ref,
    tell,
)
from tests.waiting import until


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def describe(self) -> str:
        return f"the value is {self.value}"

    async def where(self) -> int:
        return threading.get_native_id()

    def thread(self) -> int:
        return threading.get_native_id()

    async def fail(self, message: str) -> None:
        raise Unlucky(message, 13)

    def first(self, numbers: list[int]) -> int:
        return next(iter(numbers))

    async def lie(self) -> int:
        return "not a number"  # type: ignore[return-value]

    async def _secret(self) -> int:
        return self.value


class Unlucky(Exception):
    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.number = number


async def test_an_ask_is_answered_and_state_is_kept(hub: Hub) -> None:
    counter = await hub.spawn(Counter, 10)
    assert await counter.add(5) == 15
    assert await ask(counter.describe) == "the value is 15"


async def test_a_thousand_calls_at_once_are_handled_in_order(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    assert await asyncio.gather(*(counter.add(1) for _ in range(1000))) == list(range(1, 1001))


async def test_tells_and_asks_of_one_sender_are_handled_in_the_order_of_sending(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    tells = [asyncio.ensure_future(tell(counter.add, 1)) for _ in range(500)]
    await asyncio.sleep(0)
    assert await counter.add(0) == 500
    await asyncio.gather(*tells)


async def test_def_methods_run_in_a_thread_and_async_ones_on_the_loop(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    assert await counter.where() == await counter.where()
    assert await ask(counter.thread) != await counter.where()


async def test_a_def_method_that_raises_stop_iteration_fails_and_the_actor_goes_on(hub: Hub) -> None:
    """No future takes that exception: the call must end all the same, and so must those behind it."""
    counter = await hub.spawn(Counter, 1)
    calls = [ask(counter.first, numbers) for numbers in ([], [7])]
    with pytest.raises(RuntimeError, match="the method raised StopIteration") as caught:
        await calls[0]
    assert "in first" in "".join(caught.value.__notes__)
    assert await calls[1] == 7


async def test_arguments_are_checked_before_anything_is_sent(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    with pytest.raises(InvalidArguments, match=r"Counter.add: amount: .*integer"):
        counter.add("many")  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match="takes 1 positional"):
        counter.add(1, 2)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments, match=r"start: .*got 'x'"):
        await hub.spawn(Counter, "x")  # type: ignore[arg-type]
    assert await counter.add(0) == 0


async def test_a_wrong_result_is_an_error_at_the_caller_and_the_actor_goes_on(hub: Hub) -> None:
    counter = await hub.spawn(Counter, 1)
    with pytest.raises(InvalidResult, match=r"the result of Counter.lie"):
        await counter.lie()
    assert await counter.add(1) == 2


async def test_an_exception_comes_back_as_its_own_type_with_the_remote_traceback(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    with pytest.raises(Unlucky) as caught:
        await counter.fail("no luck")
    assert (caught.value.args, caught.value.number) == (("no luck", 13), 13)
    assert any("in fail" in note and "remote traceback" in note for note in caught.value.__notes__)


async def test_unknown_and_private_methods_cannot_be_called(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    with pytest.raises(MethodNotFound, match="it has: add, describe"):
        counter.subtract(1)  # type: ignore[attr-defined]
    with pytest.raises(MethodNotFound, match="private"):
        await counter._secret()


async def test_unknown_and_private_methods_are_refused_by_the_actor_too(hub: Hub) -> None:
    await hub.options(name="c").spawn(Counter)
    with pytest.raises(MethodNotFound, match="no public method '_secret'"):
        await hub.call_by_name("c", "_secret", {})
    with pytest.raises(MethodNotFound, match="no public method 'subtract'"):
        await hub.call_by_name("c", "subtract", {"amount": 1})
    with pytest.raises(InvalidArguments, match="amount"):
        await hub.call_by_name("c", "add", {"amount": "many"})
    assert await hub.call_by_name("c", "add", {"amount": 2}) == 2


# ---- life


@actor
class Fragile:
    def __init__(self, reason: str) -> None:
        raise Unlucky(reason, 1)

    async def ping(self) -> str:
        return "pong"


@actor
class Lively:
    def __init__(self) -> None:
        self.log = ["made"]

    async def started(self) -> None:
        self.log.append("started")

    async def history(self) -> list[str]:
        return self.log


async def test_a_constructor_that_raises_fails_every_call_with_its_error(hub: Hub) -> None:
    fragile = await hub.spawn(Fragile, "a bad day")
    for _ in range(2):
        with pytest.raises(ActorInitFailed, match="a bad day"):
            await fragile.ping()
    [info] = await hub.actors()
    assert (info.state, info.died_at_birth) == ("dead", True)


async def test_started_runs_before_the_first_call_and_is_no_message(hub: Hub) -> None:
    lively = await hub.spawn(Lively)
    assert await lively.history() == ["made", "started"]
    with pytest.raises(MethodNotFound):
        await lively.started()


async def test_calls_to_a_killed_actor_fail_with_the_cause(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    assert await counter.add(1) == 1
    assert await hub.kill(counter) is True
    assert "killed by" in await until(lambda: _death_of(counter))
    assert await hub.kill(counter) is False


async def _death_of(counter: Counter) -> str:
    """Calls that were sent before it ended may still be answered."""
    try:
        await counter.add(1)
    except ActorDied as died:
        return str(died)
    return ""


@actor
class Sleeper:
    def __init__(self) -> None:
        self.cancelled = 0

    async def sleep(self, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "slept"

    def doze(self, seconds: float) -> str:
        time.sleep(seconds)
        return "dozed"

    async def count(self) -> int:
        return self.cancelled

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251


async def test_waiting_callers_of_a_killed_actor_are_told_and_its_tells_are_kept(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    calls = [sleeper.sleep(60), sleeper.sleep(60)]
    await tell(sleeper.sleep, 61)
    await hub.kill(sleeper)
    for call in calls:
        with pytest.raises(ActorDied):
            await call
    letters = await until(hub.dead)
    assert [(letter.reason, letter.method) for letter in letters] == [("actor died", "sleep")]


async def test_a_session_s_actors_end_with_it_and_detached_ones_stay(hub: Hub) -> None:
    async with Hub(settings=hub.settings) as other:
        await other.options(name="mine").spawn(Counter)
        await other.options(name="everybody-s", lifetime="detached").spawn(Counter, 7)
    with pytest.raises(ActorNotFound, match="'mine'"):
        await hub.find(Counter, "mine")
    kept = await hub.find(Counter, "everybody-s")
    assert await kept.add(0) == 7
    await hub.kill(kept)


@actor
class Parent:
    async def have_child(self, name: str) -> Counter:
        return await Hub.current().options(name=name).spawn(Counter, 1)


async def test_an_actor_spawns_children_that_end_with_it(hub: Hub) -> None:
    parent = await hub.spawn(Parent)
    child = await parent.have_child("child")
    assert await child.add(1) == 2
    assert child == await hub.find(Counter, "child")
    await hub.kill(parent)
    assert "its parent" in await until(lambda: _death_of(child))


# ---- names, namespaces, options


async def test_a_name_belongs_to_one_living_actor_of_a_namespace(hub: Hub) -> None:
    first = await hub.options(name="visits").spawn(Counter, 1)
    with pytest.raises(NameTaken, match="'visits' is taken"):
        await hub.options(name="visits").spawn(Counter)
    same = await hub.options(name="visits", get_if_exists=True).spawn(Counter, 99)
    assert same == first
    assert await same.add(0) == 1
    assert await hub.find(Counter, "visits") == first
    other = await hub.options(name="visits", namespace="elsewhere").spawn(Counter, 5)
    assert await other.add(0) == 5
    assert (await hub.options(namespace="elsewhere").find(Counter, "visits")) == other
    await hub.kill(first)
    assert await (await hub.options(name="visits").spawn(Counter, 3)).add(0) == 3


async def test_names_are_claimed_once_by_many_at_the_same_time(hub: Hub) -> None:
    view = hub.options(name="one", get_if_exists=True)
    handles = await asyncio.gather(*(view.spawn(Counter) for _ in range(20)))
    assert len(set(handles)) == 1
    assert await handles[0].add(1) == 1


async def test_an_actor_of_another_class_is_not_found_by_name(hub: Hub) -> None:
    await hub.options(name="visits").spawn(Counter)
    with pytest.raises(TypeError, match=r"is a .*Counter, not a .*Lively"):
        await hub.find(Lively, "visits")


@actor(resources={"gpu": 1})
class NeedsGpu:
    async def ping(self) -> str:
        return "pong"


async def test_what_no_node_can_run_fails_at_once(hub: Hub) -> None:
    with pytest.raises(PlacementInfeasible, match=r"resources \{'gpu': 1.0\}"):
        await hub.spawn(NeedsGpu)
    with pytest.raises(PlacementInfeasible, match="node 'nowhere'"):
        await hub.options(node="nowhere").spawn(Counter)


# ---- handles as values


@actor
class Registry:
    def __init__(self, first: Counter | None = None) -> None:
        self.counters = [first] if first is not None else []

    async def register(self, counter: Counter) -> None:
        self.counters.append(counter)

    async def add_to_all(self, amount: int) -> list[int]:
        return [await counter.add(amount) for counter in self.counters]

    async def last(self) -> Counter:
        return self.counters[-1]

    async def everything(self) -> dict[str, list[Counter]]:
        return {"all": self.counters}

    async def me(self) -> Registry:
        return ref(self)

    def me_from_a_thread(self) -> Registry:
        return ref(self)


async def test_handles_travel_as_arguments_results_and_inside_containers(hub: Hub) -> None:
    counter, other = await hub.spawn(Counter, 1), await hub.spawn(Counter, 100)
    registry = await hub.spawn(Registry, counter)
    await registry.register(other)
    assert await registry.add_to_all(1) == [2, 101]
    assert await (await registry.last()).add(1) == 102
    assert await registry.everything() == {"all": [counter, other]}
    assert await registry.me() == registry
    assert await ask(registry.me_from_a_thread) == registry


async def test_a_handle_of_the_wrong_class_is_refused(hub: Hub) -> None:
    registry = await hub.spawn(Registry)
    with pytest.raises(InvalidArguments, match=r"counter: .*handle of .*Registry, not of Counter"):
        registry.register(registry)  # type: ignore[arg-type]


# ---- deadlines and cancellation


async def test_a_deadline_bounds_a_call(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    with pytest.raises(CallTimeout, match=r"Sleeper.sleep"), deadline(0.2):
        await sleeper.sleep(60)
    assert await sleeper.count() == 1, "the actor was told"


@actor
class Boss:
    def __init__(self, worker: Sleeper) -> None:
        self.worker = worker

    async def delegate(self, seconds: float) -> str:
        return await self.worker.sleep(seconds)


async def test_a_deadline_travels_with_the_calls_that_a_call_makes(hub: Hub) -> None:
    worker = await hub.spawn(Sleeper)
    boss = await hub.spawn(Boss, worker)
    with pytest.raises(CallTimeout), deadline(0.3):
        await boss.delegate(60)
    assert await until(worker.count) == 1


async def test_what_comes_after_its_deadline_is_not_run(hub: Hub) -> None:
    sleeper, counter = await hub.spawn(Sleeper), await hub.spawn(Counter)
    with deadline(0.2):
        late = sleeper.sleep(0)
    busy = ask(sleeper.doze, 0.5)
    with pytest.raises(CallTimeout), deadline(0.1):
        await sleeper.sleep(0)
    assert await busy == "dozed"
    assert await late == "slept"
    assert await counter.add(0) == 0


async def test_asyncio_timeout_cancels_the_call_at_the_actor(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sleeper.sleep(60)
    assert await sleeper.count() == 1


async def test_a_cancelled_call_frees_the_actor_whether_it_ran_or_waited(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    running, waiting = sleeper.sleep(60), sleeper.sleep(60)
    await asyncio.sleep(0.1)
    waiting.cancel()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await sleeper.count() == 1, "the one that waited never ran"


# ---- streams


@actor
class Logs:
    def __init__(self) -> None:
        self.sent = 0
        self.closed = 0

    async def tail(self, count: int) -> AsyncIterator[str]:
        try:
            for number in range(count):
                self.sent = number + 1
                yield f"line {number}"
        finally:
            self.closed += 1

    def squares(self, count: int) -> Iterator[int]:
        for number in range(count):
            yield number * number

    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise Unlucky("in the middle", 2)

    async def state(self) -> tuple[int, int]:
        return self.sent, self.closed


async def test_generators_stream_in_order(hub: Hub) -> None:
    logs = await hub.spawn(Logs)
    assert [line async for line in logs.tail(1000)] == [f"line {number}" for number in range(1000)]
    squares: Any = ask(logs.squares, 100)
    assert [square async for square in squares] == [number * number for number in range(100)]


async def test_a_slow_reader_slows_the_actor_down(hub: Hub) -> None:
    logs = await hub.spawn(Logs)
    stream: Any = logs.tail(100_000)
    async for _ in stream:
        break
    await asyncio.sleep(0.3)
    await stream.aclose()
    sent, closed = await logs.state()
    assert sent <= 200
    assert closed == 1


async def test_leaving_the_loop_frees_the_actor(hub: Hub) -> None:
    logs = await hub.spawn(Logs)
    async for _ in logs.tail(100_000):
        break
    _, closed = await logs.state()
    assert closed == 1


async def test_an_error_in_a_stream_comes_after_its_items(hub: Hub) -> None:
    logs = await hub.spawn(Logs)
    items = []

    async def read() -> None:
        async for item in logs.broken():
            items.append(item)

    with pytest.raises(Unlucky, match="in the middle"):
        await read()
    assert items == [1]


# ---- concurrency, reentrancy, deadlock


@actor(concurrency=10)
class Concurrent:
    def __init__(self) -> None:
        self.now = self.most = 0

    async def work(self) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        return self.most


async def test_concurrency_bounds_the_calls_at_once(hub: Hub) -> None:
    concurrent = await hub.spawn(Concurrent)
    assert max(await asyncio.gather(*(concurrent.work() for _ in range(50)))) == 10


@actor
class Ping:
    async def start(self, pong: Pong) -> str:
        return await pong.bounce(ref(self))

    async def start_without_waiting(self, pong: Pong) -> str:
        call = pong.bounce(ref(self))
        await asyncio.sleep(0.3)
        return await call

    async def hit(self) -> str:
        return "hit"

    async def call_myself(self) -> str:
        return await ref(self).hit()


@actor(reentrant=True)
class ReentrantPing(Ping):
    pass


@actor
class Pong:
    async def bounce(self, ping: Ping) -> str:
        return await ping.hit()


async def test_a_call_that_comes_back_to_a_waiting_actor_fails_at_once_and_names_the_cycle(hub: Hub) -> None:
    ping, pong = await hub.spawn(Ping), await hub.spawn(Pong)
    with pytest.raises(DeadlockDetected, match=r"ping-\w+ -> pong-\w+ -> ping-\w+"):
        await ping.start(pong)
    with pytest.raises(DeadlockDetected, match=r"ping-\w+ -> ping-\w+"):
        await ping.call_myself()
    with pytest.raises(DeadlockDetected):
        await ping.start_without_waiting(pong)
    assert await ping.hit() == "hit"


async def test_a_reentrant_actor_takes_the_call_that_comes_back(hub: Hub) -> None:
    ping, pong = await hub.spawn(ReentrantPing), await hub.spawn(Pong)
    assert await ping.start(pong) == "hit"
    assert await ping.call_myself() == "hit"


# ---- mailbox limits


@actor(mailbox_limit=5)
class Small:
    def __init__(self) -> None:
        self.done: list[int] = []

    async def work(self, number: int, seconds: float) -> list[int]:
        await asyncio.sleep(seconds)
        self.done.append(number)
        return self.done


async def test_a_full_mailbox_refuses_and_loses_nothing_that_it_took(hub: Hub) -> None:
    small = await hub.spawn(Small)
    results = await asyncio.gather(*(small.work(number, 0.05) for number in range(40)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, MailboxFull)]
    taken = [number for number, result in enumerate(results) if isinstance(result, list)]
    assert refused
    assert len(refused) + len(taken) == 40
    assert await small.work(99, 0) == [*taken, 99]


async def test_backpressure_waits_for_room_in_order(hub: Hub) -> None:
    small = await hub.spawn(Small)
    with backpressure():
        results = await asyncio.gather(*(small.work(number, 0.01) for number in range(40)))
    assert results[-1] == list(range(40))


# ---- payloads


class Opaque:
    def __init__(self, inside: object) -> None:
        self.inside = inside


@actor
class Mirror:
    async def reflect(self, value: Any) -> Any:
        return value

    async def size(self, data: bytes) -> int:
        return len(data)


async def test_what_json_cannot_express_travels_as_signed_pickle(hub: Hub) -> None:
    mirror = await hub.spawn(Mirror)
    for value in [(1, 2), {3, 4}, 5 + 6j, b"\x00\xff", {"a": (1,)}, {1: 2}]:
        assert await mirror.reflect(value) == value
    assert (await mirror.reflect(Opaque(7))).inside == 7


async def test_what_cannot_be_sent_is_named_by_its_path(hub: Hub) -> None:
    mirror = await hub.spawn(Mirror)
    with pytest.raises(NotSerialisable, match=r"inside.*lock"):
        mirror.reflect(Opaque({"a": [threading.Lock()]}))


async def test_an_oversized_payload_is_refused_before_it_is_sent(hub: Hub) -> None:
    mirror = await hub.spawn(Mirror)
    assert await mirror.size(b"x" * 3_000_000) == 3_000_000
    session = hub._open_session()
    assert session.link is not None
    with pytest.raises(PayloadTooLarge, match="bytes"):
        mirror.size(b"x" * session.link.max_message)


@actor
class Raiser:
    async def exotic(self) -> None:
        class Local(Exception):
            def __str__(self) -> str:
                raise ValueError("even its message raises")

        raise Local

    async def leave(self) -> None:
        raise SystemExit(3)

    async def ping(self) -> str:
        return "pong"


async def test_exotic_exceptions_still_come_back(hub: Hub) -> None:
    raiser = await hub.spawn(Raiser)
    with pytest.raises((RemoteError, Exception)):
        await raiser.exotic()
    with pytest.raises(RemoteError, match="SystemExit"):
        await raiser.leave()
    assert await raiser.ping() == "pong"


async def test_a_failed_tell_is_kept_with_its_traceback(hub: Hub) -> None:
    counter = await hub.spawn(Counter)
    await tell(counter.fail, "nobody hears")
    [letter] = await until(hub.dead)
    assert (letter.reason, letter.method) == ("exception", "fail")
    assert "nobody hears" in letter.error
    assert await counter.add(1) == 1


@actor(on_error="restart", max_restarts=2)
class Phoenix:
    def __init__(self) -> None:
        self.value = 0

    async def add(self, amount: int) -> int:
        if amount < 0:
            raise ValueError("negative")
        self.value += amount
        return self.value


async def test_on_error_restart_makes_the_instance_anew_up_to_a_limit(hub: Hub) -> None:
    phoenix = await hub.spawn(Phoenix)
    assert await phoenix.add(1) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            await phoenix.add(-1)
        assert await phoenix.add(1) == 1
    with pytest.raises(ValueError, match="negative"):
        await phoenix.add(-1)
    with pytest.raises(ActorDied, match="restarted 2 times"):
        await until(lambda: phoenix.add(1))
