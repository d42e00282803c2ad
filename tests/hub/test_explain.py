"""Why something waits: what `hub.explain` says of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time

import pytest

from actorhub import Hub, Settings, actor, ask, task, tell
from actorhub.actors.handle import address_of
from actorhub.actors.spec import ActorOptions
from actorhub.control.placement import NodeEntry, PlacementRequest, WorkerEntry, waits_for
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.resources import units
from actorhub.hub import explain
from actorhub.hub.explain import Explanation
from tests.conftest import QUICK
from tests.durable.test_history import ACTORHUB, Account
from tests.waiting import until


@actor
class Sleeper:
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251


@task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _says(hub: Hub, what: object, *words: str) -> Explanation | None:
    found = await hub.explain(what)
    return found if all(word in found.text for word in words) else None


async def test_a_busy_actor_is_explained_by_what_it_does_and_what_waits_behind_it(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    assert await until(lambda: _says(hub, sleeper, "is running on worker", "It has nothing in hand."))
    calls = [sleeper.sleep(60) for _ in range(4)]
    for what in (sleeper, address_of(sleeper).actor_id, calls[2]):
        found = await until(lambda what=what: _says(hub, what, "It handles sleep for", "3 messages wait behind that"))
        assert found.doing is not None
        assert [method for method, _ in found.doing.running] == ["sleep"]
    assert found.text.startswith("Sleeper.sleep has no reply yet.")
    for call in calls:
        call.cancel()
    assert (await hub.explain(calls[0])).text == "the call was cancelled."


async def test_a_blocked_event_loop_is_named(hub: Hub) -> None:
    sleeper = await hub.spawn(Sleeper)
    await sleeper.sleep(0)
    call = sleeper.block(8)
    assert await until(lambda: _says(hub, sleeper, "Its worker does not answer"))
    await call


async def test_of_a_durable_actor_it_says_who_owns_it_and_since_when_the_last_commit_is(hub: Hub) -> None:
    account = await hub.options(name="ann").spawn(Account)
    assert "no message has come yet" in (await hub.explain(account)).text
    await account.deposit(5)
    for what in (account, "ann"):
        found = await hub.explain(what)
        assert found.epoch is not None
        assert found.commit is not None
        assert f"{found.commit.owner} owns its journal, by epoch 1; the last commit is number 1, of 20" in found.text


async def test_what_is_not_there_is_said_not_to_be(hub: Hub) -> None:
    assert "no actor is called 'nobody'" in (await hub.explain("nobody")).text
    account = await hub.spawn(Account)
    await hub.kill(account)
    assert "is dead: killed by hub.kill" in (await hub.explain(account)).text
    with pytest.raises(TypeError, match="17 is not a handle, the name of an actor"):
        await hub.explain(17)


async def test_a_broker_that_does_not_reply_ends_no_explanation(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant: a slow broker is itself the explanation."""

    async def state(queue: str) -> None:
        await asyncio.sleep(60)

    sleeper = await hub.spawn(Sleeper)
    call, result = sleeper.sleep(60), hub.submit(nap, 60)
    assert await until(lambda: _says(hub, result, "of tasks in"))
    monkeypatch.setattr(explain, "REPLY_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(hub._open_session().link, "state", state)
    for what in (sleeper, call, result):
        assert "The broker did not say" in (await hub.explain(what)).text
    assert "is running on worker" in (await hub.explain(sleeper)).text
    call.cancel()
    result.cancel()


async def test_an_actor_whose_node_is_gone_waits_for_it(broker_url: str, prefix: str) -> None:
    settings = Settings(url=broker_url, secret="s", prefix=prefix, **QUICK)  # type: ignore[arg-type]
    async with Hub.local(nodes=2, workers=1, modules=[__name__], settings=settings) as hub:
        sleeper = await hub.options(node="node-2", name="far").spawn(Sleeper)
        await sleeper.sleep(0)
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-2", signal.SIGKILL)
        assert await until(lambda: _says(hub, "far", "no worker takes them"))  # its worker has ended, too
        await tell(sleeper.sleep, 0)
        found = await until(lambda: _says(hub, "far", "asks for node 'node-2'; there are: node-1", "1 message waits"))
        assert found is not None
        assert (found.waiting, found.consumers) == (1, 0)
        await hub._cluster.stop_node("node-1", signal.SIGKILL)
        assert await until(lambda: _says(hub, sleeper, "Control does not answer: does a node run?", "1 message waits"))


async def test_without_any_node_it_says_so(broker_url: str, prefix: str) -> None:
    async with Hub(settings=Settings(url=broker_url, secret="s", prefix=prefix)) as hub:
        assert "no node has run yet" in (await hub.explain("nobody")).text


async def test_what_waits_since_no_node_runs_is_in_the_log_once_and_goes_on_with_the_next_node(
    broker_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(url=broker_url, secret="s", prefix=prefix, **QUICK)  # type: ignore[arg-type]
    async with Hub.local(workers=1, modules=[__name__], settings=settings) as hub:
        assert hub._cluster is not None
        await hub._cluster.stop_node("node-1")
        spawned = [asyncio.ensure_future(hub.spawn(Sleeper)) for _ in range(3)]
        assert await until(lambda: "spawn has had no reply for 5 s: does a node run?" in caplog.text)
        hub._cluster.start_node("node-1")
        for sleeper in await asyncio.gather(*spawned):
            await sleeper.sleep(0)
    assert caplog.text.count("has had no reply") == 1


async def test_the_command_explains(hub: Hub) -> None:
    sleeper = await hub.options(name="sleepy").spawn(Sleeper)
    call = ask(sleeper.sleep, 60)
    await until(lambda: _says(hub, sleeper, "It handles sleep"))
    shown = await asyncio.to_thread(_run, hub, "sleepy")
    assert shown.returncode == 0, shown.stderr
    assert "sleepy is running on worker" in shown.stdout
    assert json.loads((await asyncio.to_thread(_run, hub, "sleepy", "--json")).stdout)["doing"]["waiting"] == 0
    call.cancel()


def _run(hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    namespace = hub.settings.namespace
    env = {**os.environ, **hub.settings.to_environment()}
    command = [ACTORHUB, "explain", *arguments, "--namespace", namespace]
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True)


def test_who_waits_for_a_place_hears_what_is_missing() -> None:
    plan = SpawnSpec(actor_id="a", namespace="n", class_name="m:C", options=ActorOptions(resources={"disk": 1}))
    ask = PlacementRequest.for_actor(plan)
    node = _node("n1", disk=2.0)
    assert waits_for([], "it", ask) == "a node"
    assert waits_for([node], "it", ask) == "a worker process on n1"
    node.workers["w"] = WorkerEntry("w", "n1", 1)
    assert waits_for([node], "it", ask) == "others that have waited for longer, and ask for the same resources"
    node.reserve(units({"disk": 2}))
    assert waits_for([node], "it", ask) == "it asks for resources {'disk': 1.0}, and free are: {'n1': {'disk': 0.0}}"
    node.leaving = True
    assert waits_for([node], "it", ask) == "the nodes that could run it are leaving: n1"
    assert "the most that any node has: {'disk': 0.0}" in waits_for([_node("n2", disk=0.0)], "it", ask)


def _node(id_: str, disk: float) -> NodeEntry:
    return NodeEntry(id_, "host", 1, "1", labels={}, total=units({"disk": disk}), classes=frozenset(["m:C"]), seen=0.0)
