"""Control's journal on a real broker: what a successor reads, and what becomes of strange messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actorhub.actor import ActorOptions
from actorhub.broker import Link, Message, Queue, open_broker
from actorhub.control.journal import Journal, Past
from actorhub.control.messages import ActorPlan, Born, Died
from tests.waiting import until


def plan(actor_id: str) -> ActorPlan:
    return ActorPlan(actor_id=actor_id, class_name="m:C", namespace="default", owner="s", options=ActorOptions())


class Control:
    """One control's life, as far as the journal goes."""

    def __init__(self, journal: Journal, past: Past, link: Link, broken: list[str]) -> None:
        self.journal, self.past, self.link, self.broken = journal, past, link, broken

    async def write(self, *records: Born | Died) -> None:
        for record in records:
            self.journal.write(record)
        for record in records:
            await self.journal.written(record.plan.actor_id if isinstance(record, Born) else record.actor)


@asynccontextmanager
async def control(url: str, queue: str) -> AsyncIterator[Control]:
    link = await open_broker(url).connect(name="test", on_lost=lambda error: None, on_blocked=lambda reason: None)
    broken: list[str] = []
    journal = Journal(link, queue, broken.append)
    try:
        yield Control(journal, await journal.open(), link, broken)
    finally:
        await link.close()


async def test_a_successor_reads_who_lives_and_who_is_dead_and_not_buried(broker_url: str, prefix: str) -> None:
    async with control(broker_url, prefix) as first:
        assert first.past.first
        await first.write(Born(plan=plan("a")), Born(plan=plan("b")), Born(plan=plan("c")))
        await first.write(Died(actor="b", cause="fire", at_birth=False), Died(actor="c", cause="x", at_birth=True))
        await until(lambda: len(first.journal._entries["c"].deliveries) == 2)
        first.journal.forget("c")
        await asyncio.sleep(0.1)  # acknowledgements gather for a moment; a crash before would only bring it back
    async with control(broker_url, prefix) as second:
        assert (second.past.first, set(second.past.plans), set(second.past.deaths)) == (False, {"a", "b"}, {"b"})
        assert second.past.deaths["b"].cause == "fire"
        assert second.past.epoch > first.past.epoch
        await second.write(Born(plan=plan("d")))
    async with control(broker_url, prefix) as third:
        assert set(third.past.plans) == {"a", "b", "d"}, "records that came back stay in their queue"
        assert third.past.epoch > second.past.epoch


async def test_epochs_grow_though_clocks_go_back(broker_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with control(broker_url, prefix) as first:
        pass
    monkeypatch.setattr("actorhub.control.journal.time.time_ns", lambda: 1_000_000)
    async with control(broker_url, prefix) as second:
        assert second.past.epoch > first.past.epoch
    async with control(broker_url, prefix) as third:
        assert third.past.epoch > second.past.epoch


async def test_a_control_whose_successor_has_begun_gives_up_and_answers_nobody_any_more(
    broker_url: str, prefix: str
) -> None:
    """Invariant: what was `written` is read by the successor, though both have lived at the same time."""
    async with control(broker_url, prefix) as first:
        await first.write(Born(plan=plan("early")))
        successor = asyncio.create_task(_past(broker_url, prefix))
        await until(lambda: first.broken)
        assert first.broken == ["another control has begun"]
        late = asyncio.create_task(first.write(Born(plan=plan("late"))))
        await asyncio.sleep(0.3)
        assert not late.done()
        assert not successor.done(), "the predecessor's link holds the journal"
        late.cancel()
    assert set((await successor).plans) == {"early"}


async def test_of_two_that_begin_at_the_same_time_one_goes_on(
    broker_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of their marks and of their consumers: one reads its mark, and the other's mark comes later."""
    monkeypatch.setattr("actorhub.control.journal.MARK_AGAIN", 0.3)
    async with control(broker_url, prefix) as first:
        await first.write(Born(plan=plan("a")))
    begun: list[str] = []

    async def begin(name: str) -> None:
        async with control(broker_url, prefix) as found:
            assert set(found.past.plans) == {"a"}
            begun.append(name)
            await until(lambda: found.broken or len(begun) == 2)

    async with asyncio.timeout(20):
        await asyncio.gather(begin("x"), begin("y"))
    assert len(begun) == 2, "the one that was first gave up when it read the other's mark"


async def _past(url: str, queue: str) -> Past:
    async with control(url, queue) as found:
        return found.past


async def test_a_message_that_is_no_record_is_left_where_it_is_and_disturbs_nothing(
    broker_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with control(broker_url, prefix) as first:
        first.link.publish(prefix, Message(b"what?"), lambda outcome: None)
        await first.write(Born(plan=plan("a")))
        await until(lambda: "is no record of control's" in caplog.text)
    async with control(broker_url, prefix) as second:
        assert set(second.past.plans) == {"a"}
        assert not second.broken


async def test_when_the_broker_ends_its_consumer_everything_is_read_again(broker_url: str, prefix: str) -> None:
    """Invariant: what was forgotten after the second reading is gone, and nothing else is."""
    async with control(broker_url, prefix) as first:
        await first.write(Born(plan=plan("a")), Born(plan=plan("b")))
        await until(lambda: first.journal._entries["b"].deliveries)
        consumer = first.journal._consumer
        assert consumer is not None
        await consumer.close()
        first.journal._on_end("delivery acknowledgement timed out")
        await until(lambda: first.journal._entries["b"].deliveries)
        first.journal.forget("b")
        await asyncio.sleep(0.1)
        assert not first.broken
    async with control(broker_url, prefix) as second:
        assert set(second.past.plans) == {"a"}


async def test_a_queue_that_is_gone_ends_control(broker_url: str, prefix: str) -> None:
    async with control(broker_url, prefix) as first:
        await first.link.declare(Queue(prefix, single_active=True))
        await first.link.delete(prefix)
        first.journal.write(Born(plan=plan("a")))
        await until(lambda: first.broken)
