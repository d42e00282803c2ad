"""Delayed delivery: the ladder's arithmetic, and messages on it on real brokers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub import Settings
from actorhub.broker import Link, Message, Outcome, Queue, QueueKind, open_broker
from actorhub.core.addressing import QueueNames
from actorhub.messaging.delayed_delivery import (
    HIGHEST,
    LOWEST,
    TOLERANCE_SECONDS,
    DelayedMessage,
    DelayedPublisher,
    DelayForwarder,
    next_rung,
)
from actorhub.messaging.session import Session
from actorhub.testing import Probe
from actorhub_rabbitmq import PrivateNode
from tests.waiting import SETTLED, until

# ---- arithmetic


@given(delay=st.floats(0.0, 3e9), slow=st.floats(0.0, 0.5))
def test_any_delay_ends_after_few_hops_and_is_never_early_by_more_than_the_tolerance(delay: float, slow: float) -> None:
    """`slow`: how much longer than its rung each hop takes."""
    passed, hops = 0.0, 0
    while (rung := next_rung(delay - passed)) is not None:
        assert LOWEST <= rung <= HIGHEST
        passed += 2.0**rung + slow
        hops += 1
        assert hops <= HIGHEST - LOWEST + 1 + delay / 2**HIGHEST, "one for each rung, and what the highest takes more"
    assert passed >= delay - TOLERANCE_SECONDS
    assert passed <= delay + TOLERANCE_SECONDS + slow, "only the last hop's slowness is left"


@given(st.floats(TOLERANCE_SECONDS, 2.0 ** (HIGHEST + 1), exclude_min=True, exclude_max=True))
def test_the_rung_is_the_longest_that_is_not_longer_than_what_remains(remaining: float) -> None:
    rung = next_rung(remaining)
    assert rung is not None
    assert 2.0**rung <= max(remaining, 2.0**LOWEST) < 2.0 ** (rung + 1)


@pytest.mark.parametrize(
    ("remaining", "rung"), [(-5, None), (TOLERANCE_SECONDS, None), (0.05, -4), (1, 0), (63.9, 5), (1e12, 25)]
)
def test_rungs(remaining: float, rung: int | None) -> None:
    assert next_rung(remaining) == rung


MESSAGES = st.builds(
    Message,
    st.binary(max_size=20),
    content_type=st.none() | st.text(),
    persistent=st.booleans(),
    message_id=st.none() | st.text(),
    correlation_id=st.none() | st.text(),
    reply_to=st.none() | st.text(),
    type=st.none() | st.text(),
    priority=st.none() | st.integers(0, 255),
    expiration=st.none() | st.floats(0, 1e6),
    headers=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), st.integers() | st.text(), min_size=1),
)


@given(message=MESSAGES, due=st.floats(0, 1e11), target=st.text())
def test_a_message_comes_off_the_ladder_as_it_went_on_it(message: Message, due: float, target: str) -> None:
    laden = DelayedMessage(message, target, due).on_the_ladder()
    assert (laden.priority, laden.expiration) == (None, None), (
        "they would upset the order in which a rung's messages die"
    )
    died = replace(laden, headers={**(laden.headers or {}), "x-first-death-queue": "q", "x-delivery-count": 3})
    assert DelayedMessage.of(died) == DelayedMessage(message, target, due)


@pytest.mark.parametrize("target", [None, 7, "q"])
@pytest.mark.parametrize("due", [None, "noon", "nan", "inf", ["1.0"]])
def test_a_message_that_does_not_say_where_and_when_is_malformed(target: Any, due: Any) -> None:
    said = {"x-target": target, "x-due": due}
    headers = {name: value for name, value in said.items() if value is not None}
    with pytest.raises(ValueError, match="x-target is"):
        DelayedMessage.of(Message(b"", headers=headers or None))


# ---- on brokers


class Ladder:
    """A session with the ladder of a cluster of its own, a forwarder, and the queue `target`, which a probe consumes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.delays = DelayedPublisher(session.names)
        self.unroutable: list[tuple[str | None, Message]] = []
        self.forwarder = DelayForwarder(session, self.delays, self.give_up)
        self.target = f"{session.names.prefix}.target"
        self.probe = Probe()

    @property
    def link(self) -> Link:
        assert self.session.link is not None
        return self.session.link

    async def give_up(self, target: str | None, message: Message) -> None:
        self.unroutable.append((target, message))

    async def waiting(self, queue: str) -> int:
        state = await self.link.state(queue)
        return 0 if state is None else state.messages

    async def put(self, delay: float, body: bytes, target: str | None = None) -> Outcome:
        return await self.delays.put(self.link, target or self.target, Message(body), time.time() + delay)

    async def clear(self) -> None:
        names: QueueNames = self.session.names
        for queue in (self.target, names.due, *(names.delay(rung) for rung in range(LOWEST, HIGHEST + 1))):
            await self.link.delete(queue)


@asynccontextmanager
async def ladder(url: str, prefix: str, *, clear: bool = True) -> AsyncIterator[Ladder]:
    session = Session(Settings(url=url, prefix=prefix))
    await session.open()
    found = Ladder(session)
    try:
        await found.link.declare(Queue(found.target))
        await found.probe.consume(found.link, found.target, prefetch=0)
        await found.forwarder.open()
        yield found
        await found.forwarder.close()
        if clear:
            await found.clear()
    finally:
        await session.close()


async def test_delayed_messages_come_in_the_order_of_their_times_and_not_early(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as found:
        begun = time.time()
        delays = [1.3, 0.1, 0.7, 0.0, 1.0, 0.4, -3.0]
        outcomes = await asyncio.gather(*(found.put(delay, b"%.1f" % delay) for delay in delays))
        assert outcomes == [Outcome.STORED] * len(delays)
        came: list[float] = []
        while len(came) < len(delays):
            await found.probe.get(len(came) + 1)
            came.append(time.time() - begun)
        assert found.probe.bodies[2:] == [b"0.1", b"0.4", b"0.7", b"1.0", b"1.3"]
        assert all(at >= due - TOLERANCE_SECONDS for at, due in zip(came, sorted(delays), strict=True)), came
        assert not found.unroutable


async def test_a_message_comes_as_it_was_put(broker_url: str, prefix: str) -> None:
    sent = Message(
        b"\x00body",
        content_type="application/json",
        persistent=False,
        message_id="id",
        correlation_id="correlation",
        reply_to="reply",
        type="type",
        priority=7,
        expiration=3600.0,
        headers={"word": "w", "number": 7},
    )
    async with ladder(broker_url, prefix) as found:
        assert await found.delays.put(found.link, found.target, sent, time.time() + 0.3) is Outcome.STORED
        [delivery] = await found.probe.get(1)
        assert delivery.message == sent


async def test_a_thousand_waiting_messages_are_in_nobody_s_hands(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as found:
        names, day = found.session.names, 24 * 3600
        outcomes = await asyncio.gather(*(found.put(number % 2 * 366 * day + day, b"x") for number in range(1000)))
        assert outcomes == [Outcome.STORED] * 1000

        async def all_wait() -> bool:
            return [await found.waiting(names.delay(rung)) for rung in (16, 24)] == [500, 500]

        await until(all_wait)
        states = [await found.link.state(queue) for queue in (names.delay(16), names.delay(24), names.due)]
        assert [state and (state.messages, state.consumers) for state in states] == [(500, 0), (500, 0), (0, 1)]


async def test_rungs_are_made_once_however_many_miss_them_at_once(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as one, ladder(broker_url, prefix, clear=False) as two:
        putting = [each.put(3600.0 + number % 40, b"x") for number in range(100) for each in (one, two)]
        assert await asyncio.gather(*putting) == [Outcome.STORED] * 200


async def test_a_rung_that_was_deleted_is_made_again(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as found:
        assert await found.put(0.25, b"1") is Outcome.STORED
        await found.probe.get(1)
        for rung in range(LOWEST, 0):
            await found.link.delete(found.session.names.delay(rung))
        assert await found.put(0.25, b"2") is Outcome.STORED
        await found.probe.get(2)
        await found.link.delete(found.session.names.due)

        async def consumed_again() -> bool:
            state = await found.link.state(found.session.names.due)
            return state is not None and state.consumers == 1

        await until(consumed_again)
        assert await found.put(0.25, b"3") is Outcome.STORED
        await found.probe.get(3)
        assert found.probe.bodies == [b"1", b"2", b"3"]


async def test_what_goes_nowhere_is_given_up_and_the_rest_goes_on(broker_url: str, prefix: str) -> None:
    """Invariant: nothing that was accepted is lost, whatever stands in the queue."""
    async with ladder(broker_url, prefix) as found:
        assert await found.put(0.0, b"at once", "nowhere") is Outcome.UNROUTABLE
        assert await found.put(0.1, b"later", "nowhere") is Outcome.STORED
        outcomes: list[Outcome] = []
        found.link.publish(found.session.names.due, Message(b"strange", headers={"x-due": "noon"}), outcomes.append)
        await until(lambda: len(found.unroutable) == 2)
        assert sorted((target or "", message.body) for target, message in found.unroutable) == [
            ("", b"strange"),
            ("nowhere", b"later"),
        ]
        assert await found.put(0.1, b"good") is Outcome.STORED
        await found.probe.get(1)
        await found.forwarder.close()
        assert await found.waiting(found.session.names.due) == 0, "all of it was acknowledged"


async def test_what_cannot_be_given_up_is_tried_again(broker_url: str, prefix: str) -> None:
    failing = [RuntimeError("one"), RuntimeError("two")]
    async with ladder(broker_url, prefix) as found:

        async def give_up(target: str | None, message: Message) -> None:
            if failing:
                raise failing.pop()
            found.unroutable.append((target, message))

        found.forwarder._on_unroutable = give_up
        assert await found.put(0.1, b"later", "nowhere") is Outcome.STORED
        await until(lambda: found.unroutable)
        assert [(target, message.body, message.headers) for target, message in found.unroutable] == [
            ("nowhere", b"later", None)
        ]


async def test_a_full_target_gets_its_messages_when_it_has_room(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as found:
        full = Queue(f"{prefix}.full", limit=1)
        await found.link.declare(full)
        assert await found.put(0.0, b"1", full.name) is Outcome.STORED
        assert await found.put(0.1, b"2", full.name) is Outcome.STORED
        waits = found.session.names.delay(0)
        await until(lambda: found.waiting(waits))
        probe = await Probe().consume(found.link, full.name)
        (await probe.get(1))[0].ack()
        await probe.get(2)
        assert probe.bodies == [b"1", b"2"]
        await found.link.delete(full.name)


async def test_another_forwarder_goes_on_where_one_ends(broker_url: str, prefix: str) -> None:
    """Invariant: every message comes, whoever forwards it."""
    async with ladder(broker_url, prefix) as one, ladder(broker_url, prefix, clear=False) as two:
        bodies = {b"%d" % number for number in range(600)}
        outcomes = await asyncio.gather(*(one.put(0.1 + int(body) / 1000, body) for body in bodies))
        assert set(outcomes) == {Outcome.STORED}

        def came() -> set[bytes]:
            return {*one.probe.bodies, *two.probe.bodies}

        await until(lambda: len(came()) >= 100)
        await one.forwarder.close()
        await until(lambda: came() == bodies)


async def test_a_killed_broker_loses_no_message_that_waits(own_rabbitmq: PrivateNode, prefix: str) -> None:
    """Invariant: what was accepted comes, once at least, though the broker is killed while it waits or is under way."""
    async with ladder(own_rabbitmq.url, prefix) as found:
        kept = Queue(f"{prefix}.kept", kind=QueueKind.QUORUM)
        await found.link.declare(kept)
        for rung in range(LOWEST, 5):
            await found.delays._make(found.link, rung)
        await asyncio.sleep(SETTLED)
        bodies = {b"%d" % number for number in range(300)}
        outcomes = await asyncio.gather(*(found.put(int(body) / 20, body, kept.name) for body in bodies))
        assert set(outcomes) == {Outcome.STORED}
        await until(lambda: found.waiting(kept.name))
        await asyncio.to_thread(own_rabbitmq.kill)
        await asyncio.to_thread(own_rabbitmq.restart)
        await found.session.live_link()
        probe = await Probe().consume(found.link, kept.name, prefetch=0)
        await until(lambda: set(probe.bodies) == bodies)
        await found.link.delete(kept.name)


async def test_a_time_that_is_no_time_is_refused(broker_url: str, prefix: str) -> None:
    async with ladder(broker_url, prefix) as found:
        for due in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="cannot be due at"):
                await found.delays.put(found.link, found.target, Message(b""), due)


async def test_on_a_lost_link_putting_says_so(broker_url: str, prefix: str) -> None:
    link = await open_broker(broker_url).connect(name="x", on_lost=lambda error: None, on_blocked=lambda reason: None)
    await link.close()
    outcome = await DelayedPublisher(QueueNames(prefix)).put(link, "q", Message(b""), time.time() + 60)
    assert outcome is Outcome.LOST
