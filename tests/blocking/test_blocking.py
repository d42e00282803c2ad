"""The hub without an event loop: threads, forks, and the `def` methods of actors."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import actorhub
from actorhub import (
    ActorHubError,
    BrokerUnavailable,
    CallTimeout,
    HubClosed,
    InvalidArguments,
    Settings,
    actor,
    deadline,
)
from actorhub.blocking import Hub
from actorhub.broker import LocalServer
from tests.conftest import QUICK


@actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def describe(self) -> str:
        return f"the value is {self.value}"

    async def count_to(self, last: int) -> AsyncIterator[int]:
        for number in range(last):
            yield number

    async def sleep(self) -> None:
        await asyncio.sleep(60)

    async def fail(self) -> None:
        raise RuntimeError("as told")


@actor
class Teller:
    """Calls another actor from `def` methods, which run in threads."""

    def relay(self, to: Counter, amount: int) -> int:
        return Hub.current().ask(to.add, amount)

    def child(self) -> int:
        hub = Hub.current()
        return hub.ask(hub.spawn(Counter, 30).add, 1)

    async def wrongly(self) -> None:
        Hub.current()


@pytest.fixture(scope="module")
def hub(broker: LocalServer) -> Iterator[Hub]:
    settings = Settings(url=broker.url, secret="s", prefix="blocking", **QUICK)  # type: ignore[arg-type]
    os.environ.update(settings.to_environment())
    try:
        with Hub.local(workers=2, modules=[__name__]) as hub:
            yield hub
    finally:
        for name in settings.to_environment():
            del os.environ[name]


def test_dead_letters_are_read_sent_again_and_dropped(hub: Hub) -> None:
    counter = hub.spawn(Counter, 10)
    hub.tell(counter.fail)
    while not (letters := hub.dead()):
        pass
    assert hub.dead_letter(0) == letters[0]
    assert hub.replay(letters[0]).replayed == hub.dead_letter(0).replayed
    while len(hub.dead()) < 2:
        pass
    assert hub.purge_dead() == 2
    assert hub.dead(limit=1, after=0) == []


def test_a_timer_comes_and_is_cancelled(hub: Hub) -> None:
    counter = hub.spawn(Counter, 0)
    hub.after(0.05, counter.add, 1)
    while not hub.ask(counter.add, 0):
        pass
    hub.every(3600, counter.add, 1).cancel()
    assert hub.ask(counter.add, 0) == 1


def test_asks_tells_streams_and_calls_on_their_way(hub: Hub) -> None:
    counter = hub.spawn(Counter, 10)
    assert hub.ask(counter.add, 5) == 15
    hub.tell(counter.add, 1)
    assert hub.ask(counter.describe) == "the value is 16"
    calls = [hub.send(counter.add, 1) for _ in range(200)]
    assert [call.result(10) for call in calls] == list(range(17, 217))
    assert list(hub.stream(counter.count_to, 200)) == list(range(200))
    for number in hub.stream(counter.count_to, 1000):
        if number == 3:
            break
    assert hub.ask(counter.add, 0) == 216, "the generator that was left is closed, and the actor free"
    assert hub.kill(counter)
    with pytest.raises(ActorHubError, match="killed"):
        hub.ask(counter.add, 1)


def test_options_names_and_lists(hub: Hub) -> None:
    counter = hub.options(name="visits", namespace="shop").spawn(Counter)
    assert hub.options(namespace="shop").find(Counter, "visits") == counter
    assert [info.name for info in hub.options(namespace="shop").actors()] == ["visits"]
    assert len([worker for worker in hub.nodes()[0].workers if worker.kind == "shared"]) == 2


def test_bad_arguments_and_deadlines_raise_here(hub: Hub) -> None:
    counter = hub.spawn(Counter)
    with pytest.raises(InvalidArguments, match="amount"):
        hub.ask(counter.add, "x")  # type: ignore[arg-type]
    with pytest.raises(CallTimeout), deadline(0.1):
        hub.ask(counter.sleep)
    call = hub.send(counter.sleep)
    with pytest.raises(TimeoutError):
        call.result(0.05)
    call.cancel()
    assert hub.ask(counter.add, 1) == 1
    with pytest.raises(TypeError, match="not the method of a handle"):
        hub.ask(lambda: 3)


def test_many_threads_share_one_hub(hub: Hub) -> None:
    counter = hub.spawn(Counter)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: hub.ask(counter.add, 1), range(400)))
    assert sorted(answers) == list(range(1, 401))


def test_def_methods_call_by_their_worker_s_hub(hub: Hub) -> None:
    counter, teller = hub.spawn(Counter), hub.spawn(Teller)
    assert hub.ask(teller.relay, counter, 7) == 7
    assert hub.ask(teller.child) == 31
    with pytest.raises(ActorHubError, match="must not block its event loop"):
        hub.ask(teller.wrongly)
    with pytest.raises(ActorHubError, match="inside `def` methods of actors"):
        Hub.current()


def test_a_handle_called_from_another_thread_says_how_to_do_it(hub: Hub) -> None:
    counter = hub.spawn(Counter)
    with pytest.raises(ActorHubError, match=r"was called from a thread.*actorhub\.blocking"):
        actorhub.ask(counter.add, 1)


def test_after_a_fork_the_child_connects_anew_and_the_parent_goes_on(hub: Hub) -> None:
    """Invariant: both processes' calls are answered, each its own; the counter has seen each once."""
    counter = hub.spawn(Counter)
    assert hub.ask(counter.add, 1) == 1
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str([hub.ask(counter.add, 10) for _ in range(5)]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        mine = [hub.ask(counter.add, 1) for _ in range(20)]
        theirs = eval(pipe.read())
    os.waitpid(child, 0)
    assert len(theirs) == 5
    assert not set(mine) & set(theirs)
    assert hub.ask(counter.add, 0) == 1 + 20 + 50


def test_a_hub_that_is_not_open_or_was_closed_says_so(broker_url: str) -> None:
    hub = Hub(broker_url)
    with pytest.raises(HubClosed, match=r"with Hub\(\) as hub"):
        hub.nodes()
    with hub:
        assert hub.nodes is not None
    with pytest.raises(HubClosed):
        hub.nodes()


def test_a_broker_that_is_not_there_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORHUB_CONNECT_TIMEOUT", "0.3")
    before = threading.active_count()
    with pytest.raises(BrokerUnavailable), Hub("amqp://guest:wrong@localhost:1/"):
        pass
    assert threading.active_count() == before
