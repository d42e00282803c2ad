"""Tasks on both brokers, in real slots: results, futures, retries, limits, streams."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tenacity import retry_if_exception, retry_if_exception_type, wait_fixed

from actorhub import (
    CallCancelled,
    CallTimeout,
    Future,
    Hub,
    HubClosed,
    InvalidArguments,
    InvalidResult,
    NotSerialisable,
    RemoteError,
    Retry,
    TooManyPending,
    UntrustedPayload,
    actor,
    blocking,
    deadline,
    task,
)
from actorhub.tasks.progress import ProgressBar
from tests.waiting import until


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


stop = ProgressBar.stop


def notes(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@task
def double(number: int) -> int:
    return 2 * number


@task
def join(parts: list[str], *, end: dict[str, str] | None = None) -> str:
    return "".join(parts) + "".join((end or {}).values())


@task
def letter(number: int) -> str:
    return chr(97 + number)


@task
async def add_later(first: int, second: int) -> int:
    await asyncio.sleep(0.01)
    return first + second


async def test_a_task_returns_its_result_and_is_still_a_function(hub: Hub) -> None:
    assert double(2) == 4
    future = hub.submit(double, 21)
    assert isinstance(future, Future)
    assert not future.done()
    assert await future == 42
    assert await future == 42, "it may be awaited again"
    assert future.done()
    assert "done" in repr(future)
    assert await hub.submit(add_later, 1, second=2) == 3


async def test_many_tasks_come_back_each_to_its_future(hub: Hub) -> None:
    futures = [hub.submit(double, number) for number in range(2000)]
    assert await hub.get(futures) == [2 * number for number in range(2000)]
    assert await asyncio.gather(*(hub.submit(add_later, n, 1) for n in range(300))) == list(range(1, 301))


class Unlucky(Exception):
    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.number = number


@task
def fail(message: str) -> None:
    raise Unlucky(message, 13)


@task
def lie() -> int:
    return "no number"  # type: ignore[return-value]


@task
def lock() -> Any:
    import threading

    return {"inner": threading.Lock()}


async def test_errors_come_back_with_their_type_and_the_remote_traceback(hub: Hub) -> None:
    with pytest.raises(Unlucky) as caught:
        await hub.submit(fail, "no luck")
    assert caught.value.number == 13
    assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(InvalidResult, match="lie"):
        await hub.submit(lie)
    with pytest.raises(NotSerialisable, match=r"lock\['inner'\]"):
        await hub.submit(lock)
    with pytest.raises(InvalidArguments, match=r"double: number: .*integer"):
        hub.submit(double, "x")  # type: ignore[call-overload]
    letters = await until(lambda: _letters(hub, 3))
    assert sorted(letter.reason for letter in letters) == ["exception", "invalid", "invalid"]
    assert {letter.method for letter in letters} == {f"{__name__}:{name}" for name in ("fail", "lie", "lock")}


@task
def first_of(numbers: list[int]) -> int:
    return next(iter(numbers))


async def test_a_task_that_raises_stop_iteration_fails_alone(hub: Hub) -> None:
    """Every future ends, with its own result or its own failure: replies share messages, and one that cannot be given to its
    caller as it is must not cost those beside it."""
    futures = [hub.submit(first_of, [number] if number % 10 else []) for number in range(200)]
    done, pending = await hub.wait(futures)
    assert not pending
    assert [future for future in done if future.exception() is not None] == futures[::10]
    with pytest.raises(RemoteError, match="StopIteration") as caught:
        await futures[0]
    assert "in first_of" in "".join(caught.value.__notes__)
    assert await hub.get([future for number, future in enumerate(futures) if number % 10]) == [
        number for number in range(200) if number % 10
    ]


async def _letters(hub: Hub, count: int) -> list[Any]:
    letters = await hub.dead()
    return letters if len(letters) >= count else []


# ---- dependencies


async def test_futures_among_arguments_are_resolved_first_also_inside_containers(hub: Hub) -> None:
    first = hub.submit(double, 1)
    assert await hub.submit(double, first.as_argument()) == 4
    letters = [hub.submit(letter, number) for number in range(5)]
    end = {"x": hub.submit(letter, 25).as_argument()}
    assert await hub.submit(join, [one.as_argument() for one in letters], end=end) == "abcdez"
    done = hub.submit(double, 3)
    await done
    assert await hub.submit(double, done.as_argument()) == 12


@task
def remember(path: str, number: int) -> int:
    note(path, str(number))
    return number


async def test_a_task_that_depends_on_a_failed_one_fails_and_does_not_run(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    broken = hub.submit(fail, "first")
    dependent = hub.submit(remember, str(path), broken.as_argument())  # type: ignore[call-overload]
    last = hub.submit(double, dependent.as_argument())
    for future in (dependent, last):
        with pytest.raises(Unlucky, match="first"):
            await future
    cancelled = hub.submit(double, 1)
    cancelled.cancel()
    with pytest.raises(CallCancelled, match="double was cancelled"):
        await hub.submit(remember, str(path), cancelled.as_argument())
    assert not path.exists()


async def test_a_task_that_depends_on_a_cancelled_one_fails_at_once(hub: Hub, tmp_path: Path) -> None:
    """The dependent ends at once: the other task that it waits for never does."""
    blocked, cancelled = hub.submit(wait_for_file, str(tmp_path / "never")), hub.submit(wait_for_file, "/never")
    dependent = hub.submit(join, [blocked.as_argument(), cancelled.as_argument()])
    cancelled.cancel()
    with pytest.raises(CallCancelled, match="was cancelled"):
        await dependent
    assert not blocked.done()
    blocked.cancel()


async def test_futures_that_wait_for_a_task_fail_when_their_hub_closes(hub: Hub, tmp_path: Path) -> None:
    """A future fails when its hub closes, whether its task had been sent or waited for another one."""
    async with Hub(settings=hub.settings) as closing:
        blocked = closing.submit(wait_for_file, str(tmp_path / "go"))
        futures = [closing.submit(join, [blocked.as_argument()])]
        await blocked.accepted()
        futures += [closing.submit(join, [blocked.as_argument()]), closing.submit(join, [futures[0].as_argument()])]
    for future in (blocked, *futures):
        with pytest.raises(HubClosed):
            await future
    (tmp_path / "go").touch()


@dataclass
class Box:
    content: Any


@task
def unpack(box: Any) -> str:
    return str(box.content)


async def test_a_future_in_an_unsupported_place_is_refused_with_the_supported_places(hub: Hub) -> None:
    future = hub.submit(letter, 1)
    with pytest.raises(NotSerialisable, match=r"content.*await it first.*lists, tuples and dictionaries"):
        hub.submit(unpack, Box(future))
    assert await hub.submit(unpack, Box(await future)) == "b"


async def test_a_container_that_contains_itself_is_refused(hub: Hub) -> None:
    circle: list[Any] = [hub.submit(letter, 1).as_argument()]
    circle.append(circle)
    with pytest.raises(ValueError, match="contains itself"):
        hub.submit(join, circle)


# ---- waiting


@task
async def wait_for_file(path: str) -> str:
    while not await asyncio.to_thread(Path(path).exists):
        await asyncio.sleep(0.01)
    return path


async def test_wait_returns_done_and_pending_futures(hub: Hub, tmp_path: Path) -> None:
    blocked = hub.submit(wait_for_file, str(tmp_path / "go"))
    quick = hub.submit(double, 1)
    done, pending = await hub.wait([blocked, quick], count=1)
    assert (done, pending) == ([quick], [blocked])
    done, pending = await hub.wait([blocked], timeout=0.05)
    assert (done, pending) == ([], [blocked])
    with pytest.raises(TimeoutError):
        await hub.get([quick, blocked], timeout=0.05)
    (tmp_path / "go").touch()
    assert await hub.get([blocked, quick]) == [str(tmp_path / "go"), 2]
    with pytest.raises(ValueError, match="count=3 of 1 futures"):
        await hub.wait([quick], count=3)


async def test_repeated_waits_leave_no_callbacks_at_unfinished_futures(hub: Hub, tmp_path: Path) -> None:
    """The loop that takes what is done, one by one, must not cost more with each turn: nothing of a wait that is over stays
    at the futures that are not done."""
    blocked = hub.submit(wait_for_file, str(tmp_path / "go"))
    before = len(blocked.settled._callbacks or ())  # type: ignore[attr-defined]
    pending = [blocked, *(hub.submit(double, number) for number in range(100))]
    while len(pending) > 1:
        done, pending = await hub.wait(pending, count=1)
        assert done
    for waiting in (hub.wait([blocked, blocked], timeout=0), hub.get([blocked], timeout=0)):
        with suppress(TimeoutError):
            await waiting
    assert len(blocked.settled._callbacks or ()) == before  # type: ignore[attr-defined]
    (tmp_path / "go").touch()
    done, pending = await hub.wait([blocked, blocked])
    assert (done, pending) == ([blocked, blocked], [])


async def test_get_fails_with_the_first_failure(hub: Hub, tmp_path: Path) -> None:
    blocked = hub.submit(wait_for_file, str(tmp_path / "go"))
    with pytest.raises(Unlucky):
        await hub.get([blocked, hub.submit(fail, "x")])
    assert not blocked.done()
    blocked.cancel()


async def test_map_keeps_a_window_and_an_order(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    assert [r async for r in hub.map(add_later, range(500), range(500), window=50)] == [2 * n for n in range(500)]
    unordered = [r async for r in hub.map(double, range(500), ordered=False, progress=True)]
    assert sorted(unordered) == [2 * n for n in range(500)]
    assert "500/500" in capfd.readouterr().err
    with pytest.raises(Unlucky):
        async for _ in hub.map(fail, ["a", "b"]):
            pass
    small = Hub(settings=hub.settings.model_copy(update={"max_pending": 10}))
    async with small:
        assert [r async for r in small.map(double, range(100), window=10)] == [2 * n for n in range(100)]
        futures = [small.submit(double, number) for number in range(10)]
        with pytest.raises(TooManyPending):
            small.submit(double, 10)
        assert await small.get(futures) == [2 * n for n in range(10)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("end", ["rows fail", "arguments do not fit", "left"])
async def test_a_map_that_ends_early_cancels_its_tasks_and_stops_its_progress_bar(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ordered: bool, end: str
) -> None:
    """However the loop ends, tasks whose results were not read do not run on, and the bar no longer draws."""
    bars: list[ProgressBar] = []
    monkeypatch.setattr(ProgressBar, "stop", lambda bar: (bars.append(bar), stop(bar)))
    go, path = tmp_path / "go", tmp_path / "ran"

    def rows() -> Iterator[Any]:
        yield str(tmp_path)  # exists, so this row ends at once
        yield from [str(go)] * 5
        if end == "rows fail":
            raise KeyError("rows")
        if end == "arguments do not fit":
            yield 7

    errors = {"rows fail": KeyError, "arguments do not fit": InvalidArguments}
    with pytest.raises(errors[end]) if end in errors else nullcontext():
        async for found in hub.map(wait_and_note, rows(), [str(path)] * 9, ordered=ordered, progress=True):
            assert found == str(tmp_path)
            break
    assert bars
    assert await hub.gather_into(total, double, range(20)) == 2 * sum(range(20))  # it comes after the cancellations
    go.touch()
    assert await hub.gather_into(total, double, range(20)) == 2 * sum(range(20))
    assert notes(path).count("ended") <= 1


async def test_a_map_keeps_within_max_pending(hub: Hub, tmp_path: Path) -> None:
    """Every result comes, though the window is larger than `max_pending`, and other tasks are pending, too."""
    async with Hub(settings=hub.settings.model_copy(update={"max_pending": 20})) as small:
        others = [small.submit(wait_for_file, str(tmp_path / "go")) for _ in range(15)]
        for ordered in (True, False):
            results = [result async for result in small.map(double, range(300), ordered=ordered)]
            assert sorted(results) == [2 * number for number in range(300)]
        (tmp_path / "go").touch()
        await small.get(others)


async def test_as_many_tasks_as_may_be_pending_are_the_first_that_a_hub_sends(hub: Hub) -> None:
    """Every result comes: control is told of a new queue, though no more calls may wait for replies."""
    async with Hub(settings=hub.settings.model_copy(update={"max_pending": 20})) as small:
        futures = [small.submit(double, number) for number in range(20)]
        with pytest.raises(TooManyPending):
            small.submit(double, 20)
        assert await small.get(futures) == [2 * number for number in range(20)]


# ---- retries


@task(retry=Retry(attempts=3, wait=wait_fixed(0.1)))
def third_time_lucky(path: str) -> int:
    note(path, "x")
    count = len(notes(Path(path)))
    if count < 3:
        raise RuntimeError(f"attempt {count}")
    return count


@task(retry=Retry(attempts=5, retry=retry_if_exception_type(OSError)))
def never_again(path: str) -> None:
    note(path, "x")
    raise ValueError("not worth it")


@task(retry=Retry(attempts=2))
async def twice(path: str) -> None:
    note(path, "x")
    raise RuntimeError("again")


async def test_a_task_is_retried_as_its_policy_says(hub: Hub, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    assert await hub.submit(third_time_lucky, str(paths[0])) == 3
    with pytest.raises(ValueError, match="not worth it"):
        await hub.submit(never_again, str(paths[1]))
    with pytest.raises(RuntimeError, match="again"):
        await hub.submit(twice, str(paths[2]))
    assert [len(notes(path)) for path in paths] == [3, 1, 2]
    letters = await until(lambda: _letters(hub, 2))
    assert [letter.method.rpartition(":")[2] for letter in letters] == ["never_again", "twice"]


@task(retry=Retry(attempts=3, retry=retry_if_exception(lambda error: error.code == 503)))  # type: ignore[attr-defined]
def fails_and_so_does_its_policy(what: str) -> None:
    raise ValueError(what)


@task(retry=Retry(attempts=3, wait=wait_fixed(float("inf"))))
def never_tried_again() -> None:
    raise ValueError("waits for ever")


async def test_a_task_whose_policy_fails_is_not_retried_and_holds_up_no_other(hub: Hub) -> None:
    """Every future ends and is kept with its own exception, the policy's in its note; the slots that ran them go on."""
    futures = [hub.submit(fails_and_so_does_its_policy, f"number {number}") for number in range(4)]
    futures.append(hub.submit(never_tried_again))
    for future in futures:
        with pytest.raises(ValueError, match=r"number|for ever") as caught:
            await future
        assert "its retry policy failed" in "".join(caught.value.__notes__)
    assert await hub.get([hub.submit(double, number) for number in range(50)]) == [2 * n for n in range(50)]
    assert [letter.reason for letter in await until(lambda: _letters(hub, 5))] == ["exception"] * 5


@task
def fail_with(kind: str) -> None:
    raise ValueError({"large": "x" * 20_000_000, "surrogate": "\udcff"}[kind])


async def test_exceptions_that_json_or_the_broker_cannot_take_reach_the_caller(hub: Hub) -> None:
    """Every future ends with its exception, and the slots that ran them go on."""
    for kind in ("large", "surrogate") * 2:
        with pytest.raises(ValueError, match=r"xxx|udcff"):
            await hub.submit(fail_with, kind)
    assert await hub.get([hub.submit(double, number) for number in range(50)]) == [2 * n for n in range(50)]


# ---- later


@task
def note_time(path: str, word: str) -> str:
    note(path, word)
    return word


async def test_delayed_tasks_run_in_the_order_of_their_times_and_occupy_no_worker(hub: Hub, tmp_path: Path) -> None:
    """Invariant: delayed tasks wait at the broker, and no consumer holds them unacknowledged."""
    path = tmp_path / "order"
    delays = {"third": 0.9, "first": 0.2, "second": 0.5}
    futures = [hub.options(delay=delay).submit(note_time, str(path), word) for word, delay in delays.items()]
    for future in futures:
        await future.accepted()
    assert await hub.submit(note_time, str(path), "now") == "now"
    assert await hub.get(futures) == ["third", "first", "second"]
    assert notes(path) == ["now", "first", "second", "third"]
    cancelled = hub.options(delay=0.3).submit(note_time, str(path), "never")
    await cancelled.accepted()
    cancelled.cancel()
    assert await hub.options(delay=0.6).submit(note_time, str(path), "last") == "last"
    assert "never" not in notes(path)


# ---- pipelines


@task(queue="left", retry=Retry(attempts=3))
def halve(number: int) -> float:
    if number % 2:
        raise Unlucky("odd", number)
    return number / 2


@task
async def describe(number: float) -> str:
    return f"it is {number}"


@task
def total(*numbers: Any) -> int:
    return sum(numbers[0])


@task
def nothing() -> None: ...


async def test_a_chain_passes_each_result_on(hub: Hub) -> None:
    assert await hub.chain(double, halve, describe).submit(21) == "it is 21.0"
    assert await hub.chain(add_later, double).submit(1, second=2) == 6
    assert await hub.chain(double).submit(2) == 4
    with pytest.raises(Unlucky, match="odd"):
        await hub.chain(add_later, halve, describe).submit(1, 2)
    with pytest.raises(InvalidArguments, match=r"takes 0 positional|takes no argument"):
        await hub.chain(double, nothing).submit(1)
    with pytest.raises(TypeError, match="streams"):
        hub.chain(double, count_to)
    future = hub.chain(double, double).submit(hub.submit(double, 1).as_argument())
    assert await future == 8
    factor = 3
    assert await hub.chain(double, lambda number: factor * number).submit(2) == 12


async def test_many_results_are_gathered_into_one_task(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    assert await hub.gather_into(total, double, range(200)) == 2 * sum(range(200))
    assert await hub.gather_into(len, letter, range(5)) == 5
    with pytest.raises(Unlucky, match="odd"):
        await hub.gather_into(total, halve, [2, 3, 4])
    with pytest.raises(ValueError, match="no rows"):
        hub.gather_into(total, double, [])
    future = hub.gather_into(total, remember, [str(path)] * 3, range(3))
    await future.accepted()
    assert await future == 3
    assert sorted(notes(path)) == ["0", "1", "2"]


async def test_gathered_tasks_are_delayed_as_their_options_say(hub: Hub, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    later = hub.options(delay=3600).gather_into(total, remember, [str(path)] * 2, range(2))
    await later.accepted()
    assert await hub.options(delay=0.1).gather_into(total, double, range(20)) == 2 * sum(range(20))
    assert not path.exists()
    assert later.cancel()


async def test_a_cancelled_gathering_ends_its_parts_and_leaves_no_queue(hub: Hub, tmp_path: Path) -> None:
    """Neither the parts that wait nor those that run go on, the task that would take them all does not run, and the broker
    keeps nothing of it."""
    go = tmp_path / "go"
    for begun in (False, True):
        future = hub.gather_into(remember_list, wait_and_note, [str(go)] * 8, [str(tmp_path / f"ran-{begun}")] * 8)
        pending = hub._open_session().sender.pending_calls.find(future.settled)
        assert pending is not None
        if begun:
            await future.accepted()
            await until(lambda: len(notes(tmp_path / "ran-True")) == 8)
        queue = pending.outbox._queue  # type: ignore[attr-defined]
        assert future.cancel()
        await until(lambda queue=queue: _is_gone(hub, queue))
    for _ in range(2):
        assert await hub.gather_into(total, double, range(20)) == 2 * sum(range(20))  # slots go on, and are behind them
        go.touch()
    assert notes(tmp_path / "ran-True") == ["begun"] * 8
    assert notes(tmp_path / "ran-False") == []
    assert not (tmp_path / "go.all").exists()


@task
async def wait_and_note(go: str, path: str) -> str:
    note(path, "begun")
    await wait_for_file(go)
    note(path, "ended")
    return go


@task
def remember_list(paths: list[str]) -> None:
    note(f"{paths[0]}.all", "x")


async def _is_gone(hub: Hub, queue: str) -> bool:
    link = await hub._open_session().live_link()
    return await link.state(queue) is None


# ---- limits


@task(timeout=0.3)
def too_long(path: str) -> None:
    note(path, str(os.getpid()))
    time.sleep(30)


@task
def pid() -> int:
    return os.getpid()


@task(timeout=0.1)
async def too_long_async() -> None:
    await asyncio.sleep(30)


@task
def sleep_long(path: str) -> None:
    note(path, str(os.getpid()))
    time.sleep(30)


async def test_a_task_that_times_out_is_ended(hub: Hub, tmp_path: Path) -> None:
    """Invariant: its caller is told, its process is gone, and tasks go on."""
    path = tmp_path / "pid"
    with pytest.raises(CallTimeout, match="too_long was ended"):
        await hub.submit(too_long, str(path))
    [victim] = notes(path)
    await until(lambda: not Path(f"/proc/{victim}").exists())
    with pytest.raises(CallTimeout):
        await hub.submit(too_long_async)
    with pytest.raises(CallTimeout), deadline(0.3):
        await hub.submit(sleep_long, str(path))
    await until(lambda: not Path(f"/proc/{notes(path)[-1]}").exists())
    assert await hub.submit(double, 1) == 2


async def test_a_cancelled_task_is_ended_if_it_runs_and_not_started_if_it_waits(hub: Hub, tmp_path: Path) -> None:
    """Invariant: cancelled tasks end, and all others run."""
    path, later = tmp_path / "pid", tmp_path / "later"
    blockers = [hub.submit(sleep_long, str(path)) for _ in range(2)]  # one for each slot
    await until(lambda: len(notes(path)) == 2)
    waiting = [hub.submit(remember, str(later), number) for number in range(10)]
    for future in waiting[:5]:
        assert future.cancel()
    for blocker in blockers:
        blocker.cancel()
    assert await hub.get(waiting[5:]) == [5, 6, 7, 8, 9]
    assert set(notes(later)) == {"5", "6", "7", "8", "9"}
    for victim in notes(path):
        await until(lambda pid=victim: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    with pytest.raises(asyncio.CancelledError):
        await blockers[0]
    running = hub.submit(wait_for_file, str(tmp_path / "never"))
    await hub.submit(double, 1)
    running.cancel()


async def test_a_task_that_arrives_after_its_deadline_is_not_run_and_is_kept_as_a_dead_letter(
    hub: Hub, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    blockers = [hub.submit(sleep_long, str(path)) for _ in range(2)]
    await until(lambda: len(notes(path)) == 2)
    with pytest.raises(CallTimeout), deadline(0.1):
        await hub.submit(remember, str(tmp_path / "later"), 1)
    for blocker in blockers:
        blocker.cancel()
    [letter] = await until(lambda: _letters(hub, 1))
    assert letter.reason == "expired"
    assert not (tmp_path / "later").exists()


# ---- streams, by value, from within


@task
async def count_to(number: int) -> AsyncIterator[int]:
    for each in range(number):
        yield each


@task
def words(text: str) -> Iterator[str]:
    yield from text.split()


async def test_generator_tasks_stream(hub: Hub) -> None:
    assert [n async for n in hub.submit(count_to, 300)] == list(range(300))
    assert [w async for w in hub.submit(words, "to be or not")] == ["to", "be", "or", "not"]


@task
def yield_slowly(path: str, go: str) -> Iterator[str]:
    note(path, "begun")
    try:
        yield path
        while not Path(go).exists():
            time.sleep(0.01)
        yield go
    finally:
        note(path, "closed")


async def test_a_generator_whose_reader_leaves_during_a_step_is_closed_after_it(hub: Hub, tmp_path: Path) -> None:
    """It was cancelled, which is no failure, so there is no dead letter."""
    path, go = tmp_path / "generator", tmp_path / "go"
    stream = hub.submit(yield_slowly, str(path), str(go))
    assert await anext(stream) == str(path)
    await stream.aclose()
    with pytest.raises(Unlucky):
        await hub.submit(fail, "the only dead letter")
    go.touch()
    await until(lambda: notes(path)[1:])
    assert notes(path) == ["begun", "closed"]
    assert [letter.method for letter in await until(lambda: _letters(hub, 1))] == [f"{__name__}:fail"]


@actor
class Keeper:
    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def keep(self, number: int) -> int:
        self.numbers.append(number)
        return len(self.numbers)

    async def fan_out(self, count: int) -> int:
        hub = Hub.current()
        return sum(await hub.get([hub.submit(double, number) for number in range(count)]))


@task
async def tell_keeper(keeper: Keeper, number: int) -> int:
    return await keeper.keep(number)


@task
async def factorial(number: int) -> int:
    return 1 if number < 2 else number * await Hub.current().submit(factorial, number - 1)


@task
def blocking_double(number: int) -> int:
    hub = blocking.Hub.current()
    return hub.get(hub.submit(double, number))


async def test_tasks_submit_tasks_and_call_actors_and_actors_submit_tasks(hub: Hub) -> None:
    assert await hub.submit(factorial, 6) == 720
    keeper = await hub.spawn(Keeper)
    assert await hub.submit(tell_keeper, keeper, 5) == 1
    assert await keeper.fan_out(10) == 90
    assert await hub.submit(blocking_double, 4) == 8


async def test_functions_travel_by_value(hub: Hub) -> None:
    factor = 7

    def times(number: int) -> int:
        return factor * number

    assert await hub.get([hub.submit(times, number) for number in range(20)]) == [7 * n for n in range(20)]
    assert await hub.submit(len, [1, 2, 3]) == 3
    assert await hub.submit(task(retry=Retry(attempts=2))(times), 3) == 21
    async with Hub(settings=hub.settings.model_copy(update={"secret": None})) as poor:
        assert await poor.submit(double, 2) == 4
        with pytest.raises(UntrustedPayload, match="ACTORHUB_SECRET"):
            poor.submit(times, 1)
    with pytest.raises(TypeError, match="not a function"):
        hub.submit(3)  # type: ignore[call-overload]


async def test_a_task_that_cannot_be_sent_takes_no_place_among_the_pending_calls(hub: Hub) -> None:
    def local(number: int) -> int:
        return number

    settings = hub.settings.model_copy(update={"secret": None, "max_pending": 1})
    async with Hub(settings=settings) as poor:
        for _ in range(2):
            with pytest.raises(UntrustedPayload):
                poor.submit(local, 1)
            with pytest.raises(UntrustedPayload):
                poor.gather_into(total, local, [1, 2])
        assert await poor.submit(double, 2) == 4


# ---- several queues


@task(queue="left")
def block_left(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


@task(queue="right", priority=9)
def on_the_right(number: int) -> int:
    return number


async def test_a_long_task_of_one_queue_does_not_hold_up_another_queue(hub: Hub, tmp_path: Path) -> None:
    """Invariant: with a slot blocked, all that waits elsewhere is done by the other."""
    blocked = hub.submit(block_left, str(tmp_path / "go"))
    assert await hub.get([hub.submit(on_the_right, number) for number in range(50)]) == list(range(50))
    assert await hub.get([hub.submit(double, number) for number in range(50)]) == [2 * n for n in range(50)]
    assert not blocked.done()
    queues = {info.queue: info for info in await hub.tasks()}
    assert set(queues) == {"left", "right", "default"}
    assert all(info.slots >= 1 and info.waiting == 0 for info in queues.values())
    (tmp_path / "go").touch()
    assert await blocked == str(tmp_path / "go")


async def test_a_task_that_no_node_knows_says_which_module_is_missing(hub: Hub) -> None:
    @task
    def strange() -> None: ...

    strange.__module__ = "somewhere.else"
    del strange.__actorhub_task__  # type: ignore[attr-defined]
    known = task(strange)
    known.__qualname__ = "strange"
    from actorhub.tasks.client import SubmitOptions
    from actorhub.tasks.task import TaskOptions, TaskSpec, tasks

    spec = TaskSpec(known, TaskOptions())
    tasks[spec.name] = spec
    import sys
    import types

    sys.modules["somewhere.else"] = types.ModuleType("somewhere.else")
    sys.modules["somewhere.else"].__file__ = "there"
    try:
        future = hub._open_clients().tasks.submit(spec, (), {}, SubmitOptions(hub._options.namespace))
        with pytest.raises(Exception, match=r"start it with `actorhub node somewhere\.else`"):
            await future
    finally:
        del sys.modules["somewhere.else"], tasks[spec.name]


# ---- without an event loop


def test_tasks_without_an_event_loop() -> None:
    with blocking.Hub() as hub:
        assert hub.get(hub.submit(double, 4)) == 8
        assert hub.get([hub.submit(double, n) for n in range(5)]) == [0, 2, 4, 6, 8]
        assert sorted(hub.map(double, range(5), ordered=False)) == [0, 2, 4, 6, 8]
        assert hub.get(hub.chain(double, double).submit(1)) == 4
        assert hub.get(hub.gather_into(total, double, range(4))) == 12
        done, pending = hub.wait([hub.submit(double, 1)])
        assert (len(done), pending) == (1, [])
        with pytest.raises(Unlucky):
            hub.get(hub.submit(fail, "x"))


def test_policies_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="attempts=0"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="timeout"):
        task(timeout=-1)(double)
    with pytest.raises(ValueError, match="queue"):
        task(queue="no blanks")(double)
    with pytest.raises(TypeError, match="use @actor for classes"):
        task(Keeper)  # type: ignore[type-var]
    assert RemoteError
