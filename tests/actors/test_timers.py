"""Timers of plain actors, and when a timer is due."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from actorhub import Hub, InvalidArguments, actor
from actorhub.actors.timers import first_due, is_missed, next_due
from actorhub.wire.envelope import TimerSpec
from tests.waiting import until


@actor
class Bell:
    def __init__(self) -> None:
        self.rung: list[str] = []

    async def ring(self, word: str) -> None:
        self.rung.append(word)

    async def heard(self) -> list[str]:
        return self.rung


async def test_a_message_comes_later(hub: Hub) -> None:
    bell = await hub.spawn(Bell)
    await hub.after(0.3, bell.ring, "late")
    await hub.after(0, bell.ring, "soon")
    await until(lambda: _has_heard(bell, 2))
    assert await bell.heard() == ["soon", "late"]


async def test_a_message_comes_again_and_again_until_that_is_cancelled(hub: Hub) -> None:
    bell = await hub.spawn(Bell)
    timer = await hub.every(0.05, bell.ring, "again")
    await until(lambda: _has_heard(bell, 3))
    await timer.cancel()
    heard = len(await bell.heard())
    await asyncio.sleep(0.3)
    assert len(await bell.heard()) == heard


async def _has_heard(bell: Bell, count: int) -> bool:
    return len(await bell.heard()) >= count


async def test_what_cannot_come_is_refused_at_once(hub: Hub) -> None:
    bell = await hub.spawn(Bell)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not valid"):
            hub.after(wrong, bell.ring, "x")
    for interval in (0, -1.0, float("nan"), float("inf"), 1e-9, 5e-324):
        with pytest.raises(ValueError, match=r"0\.001 s or more"):
            hub.every(interval, bell.ring, "x")
    with pytest.raises(ValueError, match="cron expression"):
        hub.every("every day", bell.ring, "x")
    with pytest.raises(InvalidArguments):
        hub.after(1, bell.ring, 7)  # type: ignore[arg-type]


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_cron_expression_is_read_in_utc() -> None:
    now = _at("2026-02-27T22:30:00")
    assert first_due("0 3 * * *", now) == _at("2026-02-28T03:00:00")
    timer = TimerSpec(id="t", due=_at("2026-02-28T03:00:00"), cron="0 3 1 * *")
    after = next_due(timer, timer.due)
    assert after is not None
    assert after.due == _at("2026-03-01T03:00:00")


@pytest.mark.parametrize(("catch_up", "due"), [("once", 140.0), ("skip", 140.0), ("all", 110.0)])
def test_times_that_have_passed_by(catch_up: str, due: float) -> None:
    timer = TimerSpec.model_validate({"id": "t", "due": 100.0, "every": 10.0, "catch_up": catch_up})
    after = next_due(timer, 135.0)
    assert after is not None
    assert after.due == due
    assert is_missed(timer, 135.0) is (catch_up == "skip")
    assert not is_missed(timer, 105.0)


def test_a_timer_keeps_its_beat_however_late_it_is_handled() -> None:
    timer = TimerSpec(id="t", due=100.0, every=10.0)
    for now in (100.0, 103.0, 109.9):
        after = next_due(timer, now)
        assert after is not None
        assert after.due == 110.0


def test_what_comes_once_does_not_come_again() -> None:
    assert next_due(TimerSpec(id="t", due=100.0), 100.0) is None
