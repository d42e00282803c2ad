"""History: what hubs and the command line show of a durable actor's journal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from actorhub import ActorHubError, ActorNotFound, Hub, UntrustedPayload, actor, tell
from actorhub.actors.handle import address_of
from actorhub.broker import Message, Outcome, publish_confirmed
from actorhub.durable.history import HistoryEntry, _Replay
from actorhub.durable.protocol.records import Checkpoint, Commit, Epoch, ReadMarker, Record, StateRecord, encode
from tests.waiting import until

ACTORHUB = str(Path(sys.executable).parent / "actorhub")


@actor(durable=True)
class Account:
    def __init__(self) -> None:
        self.balance = 0

    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    async def transfer(self, to: Account, amount: int) -> None:
        self.balance -= amount
        await tell(to.deposit, amount)

    async def fail(self) -> None:
        raise ValueError("no")

    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True)
class Box:
    """An actor with a state that JSON does not give back."""

    def __init__(self) -> None:
        self.things: set[str] = set()

    async def put(self, thing: str) -> None:
        self.things.add(thing)


@actor(durable=True)
class Page(BaseModel):
    title: str = ""
    text: str = "x" * 8000
    state_version: ClassVar[int] = 3

    async def name(self, title: str) -> None:
        self.title = title


@actor(durable=True, shards=1)
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []

    async def add(self, item: str) -> None:
        self.items.append(item)


@actor
class Plain:
    async def ping(self) -> None: ...


def _commits(entries: list[HistoryEntry]) -> list[HistoryEntry]:
    return [entry for entry in entries if entry.kind == "commit" and entry.verdict == "counts"]


async def test_history_lists_handled_messages_and_their_effects(hub: Hub) -> None:
    ann, bob = await hub.spawn(Account), await hub.spawn(Account)
    await ann.deposit(5)
    await ann.transfer(bob, 2)
    await tell(ann.fail)
    await ann.deposit(1)
    entries = await hub.history(ann)
    assert (entries[0].kind, entries[0].epoch) == ("epoch", 1)
    commits = _commits(entries)
    assert [commit.number for commit in commits] == list(range(1, len(commits) + 1))
    assert [method for commit in commits for method in commit.methods] == ["deposit", "transfer", "fail", "deposit"]
    assert sum(commit.answers for commit in commits) == 3
    assert (sum(commit.tells for commit in commits), sum(commit.letters for commit in commits)) == (1, 1)
    assert {(commit.epoch, commit.owner) for commit in commits} == {(1, entries[0].owner)}
    times = [commit.time for commit in commits if commit.time is not None]
    assert times == sorted(times)
    assert commits[0].state_size == len('{"balance":5}')
    assert await hub.history(ann, limit=2) == entries[-2:]


async def test_the_state_after_each_commit_can_be_shown(hub: Hub) -> None:
    account = await hub.options(name="ann").spawn(Account)
    for _ in range(3):
        await account.deposit(5)
    for who in (account, "ann", address_of(account).actor_id):
        states = [await hub.state_at(who, number) for number in (1, 2, 3)]
        assert [state.value for state in states] == [{"balance": 5}, {"balance": 10}, {"balance": 15}]
        assert (await hub.state_at(who)).number == 3
    with pytest.raises(ActorHubError, match="ann has no commit 4; it has 1 to 3"):
        await hub.state_at("ann", 4)


async def test_history_shows_takeovers_and_reading_it_disturbs_no_caller(hub: Hub) -> None:
    account = await hub.spawn(Account)
    assert await account.deposit(5) == 5
    pid = await account.pid()
    os.kill(pid, signal.SIGKILL)
    deposits = [account.deposit(1) for _ in range(200)]
    for _ in range(3):
        await hub.history(account)
    assert await asyncio.gather(*deposits) == list(range(6, 206))
    entries = await hub.history(account, limit=1000)
    assert [entry.epoch for entry in entries if entry.kind == "epoch"] == [1, 2]
    assert len({commit.owner for commit in _commits(entries)}) == 2
    assert {entry.verdict for entry in entries} == {"counts"}


async def test_history_marks_records_that_do_not_count(hub: Hub) -> None:
    account = await hub.spawn(Account)
    await account.deposit(5)
    first = (await hub.history(account))[0]
    link, names = hub._open_session().link, hub._open_session().names
    assert link is not None
    address = address_of(account)
    journal = names.journal(address.namespace, address.actor_id)
    others: list[bytes] = [
        encode(Commit(epoch=1, owner="another", seq=2)),
        encode(Commit(epoch=1, owner=first.owner, seq=1)),
        b"\0\0\0\2{}and more",
    ]
    for body in others:
        assert await publish_confirmed(link, journal, Message(body)) is Outcome.STORED
    await account.deposit(1)
    entries = await hub.history(account)
    assert [entry.verdict for entry in entries] == ["counts", "counts", "late", "repeated", "foreign", "counts"]
    assert (await hub.state_at(account)).value == {"balance": 6}


async def test_a_pickled_state_is_shown_by_its_attributes_only_with_the_secret(hub: Hub) -> None:
    box = await hub.spawn(Box)
    await box.put("tea")
    state = await hub.state_at(box, 1)
    assert (state.codec, state.value) == ("pickle", {"things": "{'tea'}"})
    async with Hub(settings=hub.settings.model_copy(update={"secret": None})) as other:
        with pytest.raises(UntrustedPayload, match="ACTORHUB_SECRET"):
            await other.state_at(box)


async def test_a_state_written_as_a_patch_is_shown_whole(hub: Hub) -> None:
    page = await hub.spawn(Page)
    await page.name("one")
    await page.name("two")
    assert [(commit.patch, commit.state_size or 0) for commit in _commits(await hub.history(page))][1] == (True, 15)
    state = await hub.state_at(page)
    assert (state.value["title"], len(state.value["text"]), state.version) == ("two", 8000, 3)


async def test_each_instance_of_a_keyed_class_has_a_state_of_its_own(hub: Hub) -> None:
    ann, bob = hub.at(Cart, "ann"), hub.at(Cart, "bob")
    for item in ("tea", "milk"):
        await ann.add(item)
    await bob.add("salt")
    commits = _commits(await hub.history(ann))
    assert [commit.keys for commit in commits] == [("ann",), ("ann",), ("bob",)]
    mailbox = address_of(ann).actor_id
    assert (
        (await hub.state_at(ann)).value == (await hub.state_at(mailbox, key="ann")).value == {"items": ["tea", "milk"]}
    )
    assert [(await hub.state_at(bob, number)).value for number in (2, 3)] == [None, {"items": ["salt"]}]
    with pytest.raises(ActorHubError, match="say which"):
        await hub.state_at(mailbox)
    assert "has nothing in hand" in (await hub.explain(ann)).text


async def test_the_error_for_an_actor_without_a_journal_names_it(hub: Hub) -> None:
    plain = await hub.options(name="plain").spawn(Plain)
    for who in (plain, "plain"):
        with pytest.raises(ActorHubError, match="plain is not durable"):
            await hub.history(who)
    with pytest.raises(ActorNotFound, match="'unknown'"):
        await hub.history("unknown")
    account = await hub.spawn(Account)
    await account.deposit(1)
    await hub.kill(account)
    await until(lambda: _is_gone(hub, account))


async def _is_gone(hub: Hub, account: Account) -> bool:
    try:
        await hub.history(account)
    except ActorNotFound:
        return True
    return False


async def test_the_command_line_shows_history_and_state(hub: Hub) -> None:
    account = await hub.options(name="ann").spawn(Account)
    await asyncio.gather(*(account.deposit(5) for _ in range(3)))
    shown = await asyncio.to_thread(_run, hub, "ann")
    assert shown.returncode == 0, shown.stderr
    for word in ("takes over", "deposit", address_of(account).actor_id):
        assert word in shown.stdout
    last = json.loads((await asyncio.to_thread(_run, hub, "ann", "--json", "--limit", "1")).stdout)[0]
    state = await asyncio.to_thread(_run, hub, address_of(account).actor_id, "--at", str(last["number"]))
    assert json.loads(state.stdout) == {"balance": 15}
    missing = await asyncio.to_thread(_run, hub, "ann", "--at", "100")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "ann has no commit 100" in missing.stderr


def _run(hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **hub.settings.to_environment(), "COLUMNS": "300"}
    return subprocess.run([ACTORHUB, "history", *arguments], env=env, check=False, capture_output=True, text=True)


def _verdicts(journal: list[Record], first: int) -> list[Any]:
    replay = _Replay()
    found = [each for at, record in enumerate(journal[first:], first) for each in replay.read(at, encode(record))]
    assert replay.waits_since is None or not found
    return [(each.offset, each.verdict) for each in found]


def test_a_journal_whose_beginning_is_dropped_is_read_from_the_first_commit_that_is_known_to_count() -> None:
    checkpoint = Checkpoint(windows={}, sent={}, lineage=0, postings=())
    whole = StateRecord(body=b"{}", size=2)
    journal: list[Record] = [
        Epoch(epoch=1, owner="a"),
        Commit(epoch=1, owner="a", seq=1, states=(whole,)),
        Commit(epoch=1, owner="zombie", seq=2, states=(whole,), image=checkpoint),  # no later record names it
        Commit(epoch=1, owner="a", seq=2, states=(whole,), image=checkpoint),
        Commit(epoch=1, owner="a", seq=3, low=3),
        ReadMarker(id="m"),
        Epoch(epoch=2, owner="b", low=3),
        Commit(epoch=1, owner="a", seq=4, low=3),
    ]
    everything = _verdicts(journal, 0)
    assert [verdict for _, verdict in everything] == [
        "counts",
        "counts",
        "late",
        "counts",
        "counts",
        "late",
        "counts",
        "late",
    ]
    assert _verdicts(journal, 1) == _verdicts(journal, 2) == _verdicts(journal, 3) == everything[3:]
    assert _verdicts(journal, 4) == [], "the commit with the checkpoint is dropped, too"
