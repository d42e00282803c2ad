"""The parts that send and run tasks, without a broker: chunks, retry policies, the outbox of a queue, the thread of a slot."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import (
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_chain,
    wait_exponential_jitter,
    wait_fixed,
)

from actorhub import Retry
from actorhub.actors.execution import YieldTurn
from actorhub.broker import Link, Message, Outcome, Queue, QueueKind
from actorhub.errors import BrokerUnavailable
from actorhub.messaging.outbox import OutgoingMessage
from actorhub.messaging.request import Reply, Request
from actorhub.tasks.chunking import (
    CHUNK_BYTES,
    CHUNK_TASKS,
    CHUNK_WORK_SECONDS,
    CONCURRENT_TASKS,
    MAX_IN_HAND,
    MAX_PREFETCH,
    MIN_PREFETCH,
    ChunkLoad,
    MeanDurations,
    adjusted_prefetch,
    prefetch_for,
    widened_prefetch,
)
from actorhub.tasks.execution.task_thread import TaskThread
from actorhub.tasks.outbox import MAX_IN_FLIGHT, TaskOutbox
from actorhub.wire.envelope import Envelope, decode
from tests.waiting import until

# ---- chunks

seconds = st.floats(0.0, 10.0, allow_nan=False)


@given(st.lists(st.tuples(st.none() | seconds, st.integers(0, CHUNK_BYTES))))
def test_a_chunk_is_bounded_and_tasks_of_unknown_duration_travel_alone(tasks: list[tuple[float | None, int]]) -> None:
    load = ChunkLoad()
    taken: list[tuple[float | None, int]] = []
    for mean, size in tasks:
        if not load.takes(mean, size):
            break
        taken.append((mean, size))
    assert taken[:1] == tasks[:1], "the first one always fits"
    if len(taken) > 1:
        assert None not in [mean for mean, _ in taken]
        assert sum(mean or 0.0 for mean, _ in taken) <= CHUNK_WORK_SECONDS + 1e-9
        assert sum(size for _, size in taken) <= CHUNK_BYTES
        assert len(taken) <= CHUNK_TASKS


@given(st.lists(seconds, min_size=1))
def test_a_mean_lies_between_what_was_measured(measured: list[float]) -> None:
    means = MeanDurations()
    assert means.of("x") is None
    for each in measured:
        means.record("x", each)
    mean = means.of("x")
    assert mean is not None
    assert min(measured) - 1e-9 <= mean <= max(measured) + 1e-9


def test_means_forget_the_oldest_names() -> None:
    means = MeanDurations()
    for number in range(10_001):
        means.record(str(number), 1.0)
    assert means.of("0") is None
    assert means.of("10000") == 1.0


@given(seconds, seconds)
def test_a_prefetch_is_bounded_and_smaller_for_longer_tasks(one: float, other: float) -> None:
    shorter, longer = sorted((one, other))
    assert MIN_PREFETCH <= prefetch_for(longer) <= prefetch_for(shorter) <= MAX_PREFETCH
    assert prefetch_for(None) == MIN_PREFETCH
    assert adjusted_prefetch(prefetch_for(one), prefetch_for(one), 0) == prefetch_for(one)
    assert (adjusted_prefetch(2, 4, 0), adjusted_prefetch(4, 2, 0), adjusted_prefetch(4, 3, 0)) == (4, 2, 4)


@given(st.integers(2, 100), st.integers(2, 100), st.integers(0, 20_000))
def test_a_prefetch_never_shrinks_below_the_concurrent_tasks_and_does_not_grow_for_them(
    current: int, wanted: int, waiting: int
) -> None:
    changed = adjusted_prefetch(current, wanted, waiting)
    assert changed in (current, wanted, wanted + waiting)
    assert changed >= current or changed == wanted + waiting
    assert changed <= max(current, wanted)
    assert adjusted_prefetch(changed, wanted, waiting) == changed, "there it stays"


def test_a_prefetch_is_doubled_until_the_limit_of_messages_in_hand() -> None:
    current, in_hand = CONCURRENT_TASKS, CONCURRENT_TASKS
    while (more := widened_prefetch(current, in_hand)) is not None:
        assert current < more <= MAX_IN_HAND or more == current == MAX_IN_HAND
        current, in_hand = more, in_hand + more
    assert MAX_IN_HAND <= in_hand <= 2 * MAX_IN_HAND


# ---- retry policies


def pauses(retry: Retry, error: BaseException, count: int = 5, age: float = 0.0) -> list[float | None]:
    return [retry.next_delay(attempt, error, age) for attempt in range(1, count + 1)]


def test_attempts_bound_a_policy() -> None:
    assert pauses(Retry(attempts=1), ValueError()) == [None] * 5
    assert pauses(Retry(), ValueError()) == [0.0, 0.0, None, None, None]
    assert pauses(Retry(attempts=9, stop=stop_after_attempt(2)), ValueError()) == [0.0, None, None, None, None]


def test_waits_grow_and_follow_each_other_as_tenacity_says() -> None:
    growing = pauses(Retry(attempts=9, wait=wait_exponential_jitter(initial=1, max=5, jitter=0.5)), ValueError())
    for pause, least in zip(growing, [1, 2, 4, 5, 5], strict=True):
        assert pause is not None
        assert least <= pause <= min(5.0, least + 0.5)
    chain = wait_chain(wait_fixed(1), wait_fixed(2), wait_fixed(7))
    assert pauses(Retry(attempts=9, wait=chain), ValueError()) == [1, 2, 7, 7, 7]


def test_a_policy_stops_when_so_much_time_has_passed_since_the_first_attempt() -> None:
    retry = Retry(attempts=9, stop=stop_after_delay(10))
    assert retry.next_delay(1, ValueError(), 9.0) == 0.0
    assert retry.next_delay(1, ValueError(), 10.5) is None


def test_only_the_exceptions_of_the_policy_are_retried() -> None:
    only, never = (
        Retry(retry=retry_if_exception_type(OSError)),
        Retry(retry=retry_if_not_exception_type((ValueError, KeyError))),
    )
    assert only.next_delay(1, ConnectionError(), 0.0) == 0.0
    assert only.next_delay(1, ValueError(), 0.0) is None
    assert never.next_delay(1, OSError(), 0.0) == 0.0
    assert never.next_delay(1, KeyError(), 0.0) is None
    by_text = Retry(retry=retry_if_exception(lambda error: "busy" in str(error)))
    assert by_text.next_delay(1, ValueError("is busy"), 0.0) == 0.0
    assert by_text.next_delay(1, ValueError("is gone"), 0.0) is None


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_base_exceptions_are_not_retried_by_default(error: BaseException) -> None:
    assert Retry().next_delay(1, error, 0.0) is None


# ---- the outbox of a task queue


class FakeLink:
    """Records what is published, and settles it when the test says so."""

    def __init__(self) -> None:
        self.declared: list[Queue] = []
        self.published: list[tuple[Message, Callable[[Outcome], None]]] = []
        self.lost: BaseException | None = None

    async def declare(self, queue: Queue) -> None:
        if self.lost is not None:
            raise BrokerUnavailable("lost")
        self.declared.append(queue)

    def publish(self, queue: str, message: Message, settled: Callable[[Outcome], None]) -> None:
        self.published.append((message, settled))

    def settle(self, outcome: Outcome) -> None:
        """All that waits for its confirm."""
        published, self.published = self.published, []
        for _, settled in published:
            settled(outcome)

    @property
    def waiting(self) -> list[list[str]]:
        """The ids in each message without a confirm."""
        return [
            [envelope.id for envelope, _ in decode(message.body, message.content_type)] for message, _ in self.published
        ]


class Box:
    """A task box on a fake link, and the outcomes of its tasks."""

    def __init__(self) -> None:
        self.means = MeanDurations()
        self.cancelled: list[str] = []
        self.settled: list[str] = []
        self.box = TaskOutbox("tasks", asyncio.get_running_loop(), self.means, self.cancelled.append)

    def put(self, *ids: str, method: str = "quick", priority: int = 0, payload: bytes = b"1") -> list[OutgoingMessage]:
        outgoing = [self._outgoing(each, method, priority, payload) for each in ids]
        for each in outgoing:
            self.box.put(each)
        return outgoing

    def _outgoing(self, id: str, method: str, priority: int, payload: bytes) -> OutgoingMessage:
        fields: dict[str, Any] = {"id": id, "method": method, "sender": "me"}
        if priority:
            fields["priority"] = priority
        return OutgoingMessage(fields, payload, lambda outcome: self.settled.append(id))

    async def attach(self, link: FakeLink | None = None) -> FakeLink:
        link = link or FakeLink()
        self.box.attach(cast(Link, link))
        await turns()
        return link


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tasks_are_published_in_order_once_the_queue_is_declared() -> None:
    box = Box()
    box.put("1", "2", "3")
    link = await box.attach()
    assert [(queue.name, queue.kind) for queue in link.declared] == [("tasks", QueueKind.QUORUM)]
    assert link.waiting == [["1"], ["2"], ["3"]], "nobody knows how long they take, so each travels alone"
    assert box.box.unconfirmed == 3
    link.settle(Outcome.STORED)
    assert box.settled == ["1", "2", "3"]
    assert box.box.unconfirmed == 0


async def test_known_short_tasks_share_a_message_by_priority_and_by_their_mean() -> None:
    box = Box()
    box.means.record("quick", CHUNK_WORK_SECONDS / 4)
    box.means.record("slow", 1.0)
    box.put("1", "2", "3", "4", "5")
    box.put("6", priority=5)
    box.put("7", "8", method="slow")
    box.put("9", method="unknown")
    box.put("10")
    link = await box.attach()
    assert link.waiting == [["1", "2", "3", "4"], ["5"], ["6"], ["7"], ["8"], ["9"], ["10"]]
    assert [message.priority for message, _ in link.published] == [None, None, 5, None, None, None, None]


async def test_the_number_of_unconfirmed_publishes_is_limited() -> None:
    box = Box()
    link = await box.attach()
    box.put(*(str(number) for number in range(MAX_IN_FLIGHT + 10)))
    await turns()
    assert len(link.published) == MAX_IN_FLIGHT
    link.settle(Outcome.STORED)
    await turns()
    assert [ids for [ids] in link.waiting] == [str(number) for number in range(MAX_IN_FLIGHT, MAX_IN_FLIGHT + 10)]


async def test_tasks_that_a_lost_link_had_not_confirmed_are_sent_again_in_order_and_settled_once() -> None:
    box = Box()
    first = await box.attach()
    box.put("1", "2")
    await turns()
    box.box.detach()
    first.settle(Outcome.LOST)
    box.put("3")
    assert box.settled == []
    second = await box.attach()
    assert second.waiting == [["1"], ["2"], ["3"]]
    second.settle(Outcome.STORED)
    assert box.settled == ["1", "2", "3"]


async def test_a_confirm_that_comes_after_its_link_changes_nothing() -> None:
    box = Box()
    first = await box.attach()
    box.put("1")
    await turns()
    late = list(first.published)
    second = await box.attach()
    for _, settled in late:
        settled(Outcome.STORED)
    assert box.settled == []
    second.settle(Outcome.STORED)
    assert box.settled == ["1"]


async def test_a_deleted_queue_is_declared_again_and_a_refused_publish_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actorhub.tasks.outbox.RETRY_SECONDS", 0.0)
    box = Box()
    link = await box.attach()
    box.put("1", "2")
    await turns()
    link.settle(Outcome.UNROUTABLE)
    await turns()
    assert len(link.declared) > 1
    assert sorted(link.waiting) == [["1"], ["2"]]
    link.settle(Outcome.REFUSED)
    await until(lambda: len(link.published) == 2)
    assert box.settled == []
    link.settle(Outcome.STORED)
    assert sorted(box.settled) == ["1", "2"]


async def test_unpublished_tasks_can_be_withdrawn_and_published_ones_are_cancelled_in_the_slots() -> None:
    box = Box()
    [first, second] = box.put("1", "2")
    assert box.box.withdraw(first)
    assert not box.box.withdraw(first)
    link = await box.attach()
    assert link.waiting == [["2"]]
    assert not box.box.withdraw(second)
    box.box.cancel("2", "me")
    assert box.cancelled == ["2"]


async def test_a_link_that_is_lost_while_the_queue_is_declared_is_followed_by_the_next() -> None:
    box = Box()
    box.put("1")
    lost = FakeLink()
    lost.lost = BrokerUnavailable("lost")
    await box.attach(lost)
    assert lost.published == []
    link = await box.attach()
    assert link.waiting == [["1"]]


# ---- the thread of a slot


def works(count: int) -> deque[Request]:
    return deque(
        Request(Envelope(id=str(number)), b"", cast(Any, None), lambda work, answer: None) for number in range(count)
    )


class Owner:
    """Owner of one task thread, with all that the thread has reported. Tasks named in `gates` wait for their gate."""

    def __init__(self, gates: dict[str, threading.Event] | None = None) -> None:
        self.gates = gates or {}
        self.begun: list[str] = []
        self.heard: list[tuple[str, Reply | BaseException]] = []
        self.blocked: list[bool] = []
        self.idle = 0
        self.has_waiting_batch = False
        self.heard_when_idle = -1
        self.closes_when_idle = False
        self.thread = TaskThread(self._invoke, self)

    def _invoke(self, work: Request, yield_turn: YieldTurn) -> Reply:
        self.begun.append(work.key)
        if work.key in self.gates:
            self.gates[work.key].wait(30)
        if work.key.endswith("7"):
            raise ValueError(work.key)
        return Reply({"call": work.key}, b"")

    def on_completed(self, request: Request, outcome: Reply | BaseException, ran: float) -> None:
        assert ran >= 0.0
        self.heard.append((request.key, outcome))

    def on_idle(self, thread: TaskThread) -> None:
        assert thread is self.thread
        self.idle += 1
        self.heard_when_idle = len(self.heard)
        if self.closes_when_idle:
            thread.close()

    def on_block_changed(self, thread: TaskThread) -> None:
        self.blocked.append(thread.is_blocked)

    @property
    def ids(self) -> list[str]:
        return [key for key, _ in self.heard]


async def test_a_thread_reports_outcomes_in_order_and_then_that_it_is_idle() -> None:
    owner = Owner()
    owner.thread.put(works(100))
    await until(lambda: owner.idle == 1)
    assert owner.ids == [str(number) for number in range(100)]
    assert {key for key, outcome in owner.heard if isinstance(outcome, ValueError)} == {
        f"{n}7" for n in range(1, 10)
    } | {"7"}
    owner.thread.close()


@pytest.mark.parametrize("closed", [False, True], ids=["stays", "closed"])
async def test_if_a_batch_waits_the_thread_takes_it_before_the_last_outcomes_are_reported(closed: bool) -> None:
    """Invariant: each outcome is reported once, also if the thread is closed when it becomes idle."""
    owner = Owner({"2": threading.Event()})
    owner.has_waiting_batch = True
    owner.thread.put(works(3))
    await until(lambda: owner.ids == ["0", "1"])
    owner.closes_when_idle = closed
    owner.gates["2"].set()
    await until(lambda: owner.ids == ["0", "1", "2"])
    assert (owner.idle, owner.heard_when_idle) == (1, 2), "it was idle before the last one was heard"
    owner.thread.close()


async def test_tasks_taken_from_the_right_end_of_a_running_batch_do_not_run_twice() -> None:
    """Each is either started by the thread or taken, whichever comes first."""
    for _ in range(50):
        owner, batch, taken = Owner(), works(200), []
        owner.thread.put(batch)
        while batch:
            try:
                taken.append(batch.pop().key)
            except IndexError:
                break
        await until(lambda of=owner: of.idle == 1)  # type: ignore[misc]
        assert sorted([*owner.ids, *taken], key=int) == [str(number) for number in range(200)]
        owner.thread.close()


async def test_a_detached_thread_returns_its_completed_tasks_and_reports_nothing_more() -> None:
    gate = threading.Event()
    owner, batch = Owner({"5": gate}), works(10)
    owner.thread.put(batch)
    while len(owner.begun) < 6:
        time.sleep(0.001)  # noqa: ASYNC251 - the event loop must stand still meanwhile
    running = owner.thread.running
    assert running is not None
    assert running.request.key == "5"
    ended = owner.thread.detach(running)
    assert ended is not None
    assert [work.key for work, _, _ in ended] == ["0", "1", "2", "3", "4"]
    gate.set()
    names = {each.name for each in threading.enumerate()}
    assert "actorhub-tasks" in names
    await turns()
    assert owner.heard == []
    assert owner.idle == 0
    assert [work.key for work in batch] == ["6", "7", "8", "9"], "nothing more was begun"


async def test_a_thread_whose_task_ended_first_is_not_detached() -> None:
    gate = threading.Event()
    owner = Owner({"0": gate})
    owner.thread.put(works(3))
    await until(lambda: owner.thread.running is not None and owner.begun == ["0"])
    running = owner.thread.running
    assert running is not None
    gate.set()
    await until(lambda: owner.idle == 1)
    assert owner.thread.detach(running) is None
    assert owner.ids == ["0", "1", "2"]
    owner.thread.close()


async def test_a_thread_reports_that_its_task_blocks_and_resumes() -> None:
    owner = Blocking()
    owner.thread.put(works(1))
    await until(lambda: owner.blocked == [True])
    assert owner.thread.blocked_on is owner.wait
    owner.wait.set_result(None)
    await until(lambda: owner.idle == 1)
    assert owner.blocked == [True, False]
    assert owner.ids == ["0"]
    owner.thread.close()


async def test_a_blocked_task_ends_when_its_thread_is_detached() -> None:
    owner, batch = Blocking(), works(3)
    owner.thread.put(batch)
    await until(lambda: owner.blocked == [True])
    running = owner.thread.running
    assert running is not None
    assert owner.thread.detach(running) == []
    await until(lambda: owner.thread.running is None)
    assert isinstance(owner.error, asyncio.CancelledError)
    await turns()
    assert (owner.heard, owner.idle, len(batch)) == ([], 0, 2)


class Blocking(Owner):
    """Its tasks wait for `wait`."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: Future[None] = Future()
        self.error: BaseException | None = None

    def _invoke(self, work: Request, yield_turn: YieldTurn) -> Reply:
        try:
            with yield_turn(self.wait):
                self.wait.result()
        except BaseException as exc:
            self.error = exc
            raise
        return super()._invoke(work, yield_turn)
