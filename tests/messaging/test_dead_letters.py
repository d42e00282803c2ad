"""Dead letters: each reason, looking at them, sending them again, dropping them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from actorhub import (
    ActorDied,
    ActorHubError,
    ActorNotFound,
    Hub,
    LetterNotFound,
    MailboxFull,
    actor,
    ask,
    deadline,
    tell,
)
from actorhub.actors.handle import address_of
from actorhub.actors.mailbox_deletion import drain_and_delete
from actorhub.broker import Message, Outcome, Queue, QueueKind, publish_confirmed
from actorhub.errors import InvalidEnvelope
from actorhub.messaging.dead_letter import MAX_LINE_CHARACTERS, DeadLetter, ReplayMark
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.wire.envelope import Codec, Envelope, Kind, decode, encode
from actorhub.wire.failure import Failure
from tests.waiting import until


@actor(max_redeliveries=0)
class Till:
    """Refuses what it is told to, until somebody mends it."""

    def __init__(self) -> None:
        self.total = 0
        self.broken = True
        self.gate = asyncio.Event()

    async def pay(self, amount: int) -> int:
        if self.broken:
            raise RuntimeError(f"cannot take {amount}\nthe till is jammed")
        self.total += amount
        return self.total

    async def mend(self) -> None:
        self.broken = False

    async def sum(self) -> int:
        return self.total

    async def count(self) -> int:
        return "many"  # type: ignore[return-value]

    async def wait(self) -> None:
        await self.gate.wait()

    async def relay(self) -> None:
        with deadline(0.05):
            await Hub.current().call_by_name("nobody-s", "ask", {})

    async def die(self) -> None:
        if self.broken:
            os.kill(os.getpid(), signal.SIGKILL)
        self.total += 1


@actor(mailbox_limit=1)
class Narrow:
    async def fail(self) -> None:
        raise RuntimeError("no")

    async def sleep(self) -> None:
        await asyncio.sleep(60)


def _queue(handle: object) -> str:
    return address_of(handle).queue


async def _publish(hub: Hub, queue: str, message: Message) -> None:
    link = hub._open_session().link
    assert link is not None
    assert await publish_confirmed(link, queue, message) is Outcome.STORED


def _stream(hub: Hub) -> DeadLetterQueue:
    return DeadLetterQueue(hub._open_session(), hub._options.namespace)


# ---- reasons


async def test_a_tell_that_raised_is_kept_with_all_that_an_operator_needs(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await tell(till.pay, 5)
    [letter] = await until(hub.dead)
    assert (letter.id, letter.reason, letter.method, letter.attempts) == (0, "exception", "pay", 1)
    assert letter.error == "RuntimeError: cannot take 5 the till is jammed"
    assert letter.exception == "builtins:RuntimeError"
    assert "raise RuntimeError" in letter.traceback
    assert (letter.queue, letter.actor) == (_queue(till), address_of(till).actor_id)
    assert letter.arguments == {"amount": 5}
    assert abs(letter.time - time.time()) < 60
    assert letter.replayed is None
    [(envelope, payload)] = decode(letter.body, letter.content_type)
    assert (envelope.id, envelope.method, payload) == (letter.call, "pay", b'{"amount":5}')
    assert await hub.dead_letter(0) == letter


async def test_methods_arguments_and_results_that_do_not_fit_are_invalid(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await _publish(hub, _queue(till), Message(b'{"method": "pay", "payload": {"amount": "x"}}', "application/json"))
    await tell(till.count)
    await _publish(hub, _queue(till), Message(b'{"method": "nothing"}', "application/json"))
    await _publish(hub, _queue(till), _message(Envelope(method="pay", codec=Codec.PICKLE), b"not signed"))
    letters = await until(lambda: _when(hub, 4))
    assert [(letter.reason, letter.method) for letter in letters] == [
        ("invalid", method) for method in ("pay", "count", "nothing", "pay")
    ]
    assert letters[3].arguments == "<pickle of 10 bytes>"
    assert letters[0].error.startswith("InvalidArguments: Till.pay: amount: ")
    assert letters[1].exception == "actorhub.errors:InvalidResult"


async def test_a_tell_that_came_too_late_is_expired_and_one_that_waited_too_long_for_another_is_not(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await _publish(hub, _queue(till), _message(Envelope(id="late", method="pay", deadline=time.time() - 1)))
    await tell(till.relay)
    late, raised = await until(lambda: _when(hub, 2))
    assert (late.reason, late.call, late.attempts) == ("expired", "late", 0)
    assert "Till.pay came after its deadline and was not run" in late.error
    assert raised.reason == "exception", "it ran, and what it raised is its own"


async def test_what_waited_for_an_actor_that_died_is_kept(hub: Hub) -> None:
    till = await hub.spawn(Till)
    waiting = ask(till.wait)
    await tell(till.pay, 7)
    await hub.kill(till)
    with pytest.raises(ActorDied):
        await waiting
    [letter] = await until(hub.dead)
    assert (letter.reason, letter.method, letter.arguments) == ("actor died", "pay", {"amount": 7})
    assert letter.error == "ActorDied: killed by hub.kill"


async def test_of_many_messages_that_waited_for_a_dead_actor_the_log_has_one_line(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is a dead letter, and the line says how many there are."""
    session = hub._open_session()
    queue = session.names.actor(hub._options.namespace, "till-gone")
    await (await session.live_link()).declare(Queue(queue))
    for amount in range(50):
        envelope = Envelope(id=f"tell-{amount}", kind=Kind.TELL, method="pay")
        await _publish(hub, queue, _message(envelope, b'{"amount": %d}' % amount))
    await drain_and_delete(session, queue, _stream(hub), ActorDied("it was killed"))
    assert {letter.call for letter in await until(lambda: _when(hub, 50))} == {f"tell-{n}" for n in range(50)}
    lines = [row.getMessage() for row in caplog.records if row.levelname == "ERROR"]
    assert lines == [f"50 messages to {queue} are kept as dead letters: it was killed"]


async def _when(hub: Hub, count: int) -> list[DeadLetter]:
    letters = await hub.dead()
    return letters if len(letters) == count else []


def _message(envelope: Envelope, payload: bytes = b"{}") -> Message:
    return Message(*encode([(envelope, payload)]))


# ---- sending again


async def test_a_replayed_tell_takes_effect_and_the_letter_is_marked(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await tell(till.pay, 5)
    await tell(till.pay, 6)
    await until(lambda: _when(hub, 2))
    await till.mend()
    began = time.time()
    done = await hub.replay(1)
    assert (done.id, done.method) == (1, "pay")
    assert await till.sum() == 6, "what is sent later is handled later"
    first, second = await hub.dead()
    assert first.replayed is None
    assert second.replayed == done.replayed
    assert began <= (second.replayed or 0) <= time.time()
    assert await hub.dead_letter(1) == second
    again = await hub.replay(second)
    assert await till.sum() == 12
    assert [letter.replayed for letter in await hub.dead()] == [None, again.replayed], "the last time is shown"
    await hub.replay(first)
    assert await till.sum() == 17


async def test_a_replayed_tell_that_fails_again_is_another_letter(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await tell(till.pay, 5)
    await until(hub.dead)
    await hub.replay(0)
    first, second = await until(lambda: _when(hub, 2))
    assert (first.call, first.error, first.arguments) == (second.call, second.error, second.arguments)
    assert (first.replayed is None, second.replayed is None) == (False, True)


async def test_what_killed_its_worker_runs_when_it_is_sent_again(hub: Hub) -> None:
    """Its actor's mailbox withholds the old call; the new one is another."""
    till = await hub.options(max_restarts=10).spawn(Till)
    with pytest.raises(ActorDied, match="killed its worker too often"):
        await till.die()
    [letter] = await until(hub.dead)
    assert (letter.reason, letter.method, letter.attempts) == ("poison", "die", 0)
    await till.mend()
    await hub.replay(letter)
    assert await till.sum() == 1


async def test_replaying_to_a_dead_actor_says_so(hub: Hub) -> None:
    till = await hub.spawn(Till)
    await tell(till.pay, 5)
    [letter] = await until(hub.dead)
    await hub.kill(till)
    gone = rf"dead letter 0 \(pay\) cannot be sent again: its queue {letter.queue} is gone, its actor {letter.actor} is dead"

    async def refused() -> bool:
        try:
            await hub.replay(0)
        except ActorNotFound:
            return True
        return False

    await until(refused)  # before its queue is deleted, what comes is kept as a letter of a dead actor
    with pytest.raises(ActorNotFound, match=gone):
        await hub.replay(letter)


async def test_replaying_into_a_full_mailbox_says_so(hub: Hub) -> None:
    narrow = await hub.spawn(Narrow)
    await tell(narrow.fail)
    await until(hub.dead)
    sleeping = ask(narrow.sleep)
    await until(lambda: _empty(hub, _queue(narrow)))

    async def fill() -> None:
        while True:  # one is in hand, one waits, and how many a broker lets past the limit is its own affair
            await hub.replay(0)

    with pytest.raises(MailboxFull, match=r"dead letter 0 \(fail\) was not sent again: .* is at its limit"):
        await fill()
    sleeping.cancel()


async def _empty(hub: Hub, queue: str) -> bool:
    state = await (await hub._open_session().live_link()).state(queue)
    return state is not None and state.messages == 0


async def test_what_is_malformed_is_sent_again_as_it_was(hub: Hub) -> None:
    till = await hub.spawn(Till)
    bodies = [(b"\x00\xff", None), (b"", "text/plain"), (b'{"envelopes":[]}', "application/x-actorhub-batch")]
    for body, content_type in bodies:
        await _publish(hub, _queue(till), Message(body, content_type))
    letters = await until(lambda: _when(hub, 3))
    assert {letter.reason for letter in letters} == {"malformed"}
    assert [(letter.body, letter.content_type) for letter in letters] == bodies
    assert all(letter.arguments is None and letter.error.startswith("InvalidEnvelope: ") for letter in letters)
    for letter in letters:
        await hub.replay(letter)
    again = (await until(lambda: _when(hub, 6)))[3:]
    assert [(letter.body, letter.content_type) for letter in again] == bodies


async def test_there_is_no_letter_where_there_is_none_or_a_mark(hub: Hub) -> None:
    till = await hub.spawn(Till)
    with pytest.raises(LetterNotFound, match="there is no dead letter 0 in namespace"):
        await hub.dead_letter(0)
    await tell(till.pay, 5)
    await until(hub.dead)
    await till.mend()
    await hub.replay(0)  # its mark is number 1
    for id in (1, 2, 1000, -1):
        with pytest.raises(LetterNotFound, match=f"there is no dead letter {id} "):
            await hub.dead_letter(id)
        with pytest.raises(LetterNotFound, match=f"there is no dead letter {id} "):
            await hub.replay(id)


# ---- what others put there


async def test_messages_of_others_in_the_stream_are_letters_too(hub: Hub) -> None:
    till = await hub.spawn(Till)
    stream = _stream(hub)
    await _publish(hub, stream.queue, Message(b"\xffnot ours", "text/plain", headers={"x-death": "a lie"}))
    await _publish(hub, stream.queue, Message(b'{"reason": "malformed"}', "application/json"))
    await _publish(hub, stream.queue, Message(b'{"a": 1}', "application/json", type="replayed"))
    await tell(till.pay, 5)
    letters = await until(lambda: _when(hub, 4))
    assert [letter.reason for letter in letters] == ["malformed", "malformed", "malformed", "exception"]
    assert [letter.id for letter in letters] == [0, 1, 2, 3]
    assert (letters[0].body, letters[0].content_type) == (b"\xffnot ours", "text/plain")
    assert letters[0].error == "not a dead letter, and not of the broker"
    with pytest.raises(ActorHubError, match=r"dead letter 0 \(malformed\) does not say which queue it was in"):
        await hub.replay(0)


async def test_what_the_broker_dead_lettered_says_why_and_goes_back_to_its_queue(hub: Hub) -> None:
    await hub.spawn(Till)  # with the first actor of its namespace comes the stream
    stream = _stream(hub)
    link = await hub._open_session().live_link()
    work = Queue(
        stream.queue.replace(".dead", ".work"), QueueKind.QUORUM, dead_letter_to=stream.queue, delivery_limit=1
    )
    await link.declare(work)
    call = Envelope(id="c1", method="add", sender="s", seq=7, acked_below=3, reply_to="r", deadline=1.0, attempt=2)
    await _publish(hub, work.name, _message(call, b'{"x":1}'))
    consumer = await link.consume(work.name, lambda d: d.reject(requeue=True), lambda reason: None, prefetch=1)
    [letter] = await until(hub.dead)
    await consumer.close()
    assert (letter.reason, letter.error) == ("poison", "the broker dead-lettered it: delivery_limit")
    assert (letter.queue, letter.method, letter.call, letter.arguments) == (work.name, "add", "c1", {"x": 1})
    await hub.replay(letter)
    got: list[Message] = []
    consumer = await link.consume(work.name, lambda d: got.append(d.message), lambda reason: None, prefetch=1)
    await until(lambda: got)
    await consumer.close()
    [(envelope, payload)] = decode(got[0].body, got[0].content_type)
    assert envelope.id not in ("", "c1")
    assert (_said(envelope), payload) == ({"id": envelope.id, "method": "add"}, b'{"x":1}')
    await link.delete(work.name)


def _said(envelope: Envelope) -> dict[str, object]:
    """What an envelope says beside its payload."""
    return envelope.model_dump(exclude_defaults=True, exclude={"payload", "size"})


def _failure(message: str = "no") -> Failure:
    return Failure(type="some.module:Outer.Error", message=message)


def test_a_letter_keeps_one_envelope_of_its_batch_and_shows_no_pickle() -> None:
    pickled = Envelope(id="1", kind=Kind.TELL, method="a", codec=Codec.PICKLE)
    plain = Envelope(id="2", kind=Kind.TELL, method="b", key="k", priority=3)
    parcels = decode(*encode([(pickled, b"\x01\x02\x03"), (plain, b"[1]")]))
    letters = [DeadLetter.of("exception", "q", *parcel, _failure()) for parcel in parcels]
    assert [letter.arguments for letter in letters] == ["<pickle of 3 bytes>", [1]]
    assert [decode(letter.body, letter.content_type)[0][1] for letter in letters] == [b"\x01\x02\x03", b"[1]"]
    for letter, sent in zip(letters, (pickled, plain), strict=True):
        message = letter.to_message()
        [(envelope, _)] = decode(message.body, message.content_type)
        assert _said(envelope) == _said(sent), "nothing of it was of one sending only"


def test_what_belonged_to_one_sending_is_not_sent_again() -> None:
    sent = Envelope(
        id="1",
        kind=Kind.STREAM,
        method="a",
        sender="s",
        seq=3,
        acked_below=2,
        reply_to="r",
        deadline=5.0,
        attempt=4,
        chain=({"actor": "a", "call": "c"},),  # type: ignore[arg-type]
        trace={"traceparent": "00"},
    )
    letter = DeadLetter.of("exception", "ah.n.actor.x-1", sent, b"{}", _failure())
    assert (letter.actor, letter.attempts) == ("x-1", 5)
    message = letter.to_message()
    [(envelope, _)] = decode(message.body, message.content_type)
    assert _said(envelope) == {"id": "1", "kind": Kind.TELL, "method": "a", "trace": {"traceparent": "00"}}


def test_an_error_is_one_line_that_is_not_too_long() -> None:
    letter = DeadLetter.of("exception", "q", Envelope(), b"{}", _failure("a\n  b\tc " + "x" * 1000))
    assert letter.error.startswith("Outer.Error: a b c xxx")
    assert len(letter.error) == MAX_LINE_CHARACTERS
    assert letter.error.endswith("...")


def test_what_is_kept_is_read_as_it_was() -> None:
    for letter in (
        DeadLetter.of("invalid", "q", Envelope(id="1"), b"{}", _failure()),
        DeadLetter.malformed("q", Message(b"\xff", "x/y"), InvalidEnvelope("no")),
    ):
        assert DeadLetter.found(9, letter.message()) == letter.model_copy(update={"id": 9})
    assert ReplayMark.found(letter.message()) is None


# ---- reading a long stream, dropping


async def test_letters_are_read_in_pages_and_from_where_one_asks(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorhub.messaging.dead_letter_queue.PAGE_LETTERS", 4)
    stream = _stream(hub)
    await stream.declare()
    for number in range(10):
        await stream.store(_letter(number))
    await stream.replay(DeadLetter(id=2, reason="malformed", queue=stream.queue, time=2.0, body=b"x"))
    letters = await hub.dead()
    assert [letter.error for letter in letters] == [*map(str, range(10)), "not a dead letter, and not of the broker"]
    assert [letter.id for letter in letters if letter.replayed] == [2]
    assert [letter.id for letter in await hub.dead(3, after=5)] == [6, 7, 8]
    assert [letter.id for letter in await hub.dead(limit=2)] == [0, 1]
    assert await hub.dead(after=12) == []


def _letter(number: int) -> DeadLetter:
    return DeadLetter(reason="exception", queue="q", error=str(number), time=float(number))


async def test_a_purge_counts_the_letters_and_drops_marks_and_all(hub: Hub) -> None:
    assert await hub.options(namespace="nobody-s").purge_dead() == 0
    till = await hub.spawn(Till)
    await tell(till.pay, 5)
    [old] = await until(hub.dead)
    await hub.replay(0)
    await until(lambda: _when(hub, 2))
    assert await hub.purge_dead() == 2
    assert await hub.dead() == []
    assert await hub.purge_dead() == 0
    await tell(till.pay, 6)
    [new] = await until(hub.dead)
    assert (new.id, new.arguments) == (0, {"amount": 6})
    await till.mend()
    await hub.replay(old)
    [new] = await hub.dead()
    assert new.replayed is None, "the mark is that of the other letter that had its id"
    assert await till.sum() == 5


@asynccontextmanager
async def _keeping(hub: Hub, at_once: int) -> AsyncGenerator[Callable[[], int]]:
    """Somebody else keeps letters without pause, numbered from 0 on. Gives how many the broker has."""
    kept = 0
    enough = asyncio.Event()
    async with Hub(settings=hub.settings) as other:
        stream = _stream(other)

        async def keep_on() -> None:
            nonlocal kept
            while not enough.is_set():
                await asyncio.gather(*(stream.store(_letter(kept + number)) for number in range(at_once)))
                kept += at_once

        keeping = asyncio.create_task(keep_on())
        try:
            yield lambda: kept
        finally:
            enough.set()
            await keeping


async def test_no_letter_that_is_kept_during_a_purge_is_lost(hub: Hub) -> None:
    """Invariant: of letters that are kept one after the other, a purge drops the first ones, and no other."""
    await _stream(hub).declare()
    async with _keeping(hub, at_once=1) as kept:
        for _ in range(3):
            at = kept()
            await until(lambda at=at: kept() > at + 50)  # type: ignore[misc]
            await hub.purge_dead()
        at = kept()
        await until(lambda: kept() > at + 50)
    numbers = sorted({int(letter.time) for letter in await hub.dead(limit=100_000)})
    assert numbers == list(range(numbers[0], kept()))
    assert len(numbers) > 50


async def test_reading_and_purging_end_while_letters_are_kept_without_pause(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant: both go to the end that the stream has when they begin, however many letters come meanwhile."""
    monkeypatch.setattr("actorhub.messaging.dead_letter_queue.PAGE_LETTERS", 50)
    await _stream(hub).declare()
    async with _keeping(hub, at_once=5) as kept, asyncio.timeout(40):
        await until(lambda: kept() > 100)
        before = kept()
        assert await hub.purge_dead() >= before
        letters = await until(lambda: hub.dead(limit=100_000))
        assert [letter.id for letter in letters] == list(range(len(letters)))


async def test_a_letter_that_is_larger_than_a_message_may_be_is_kept_without_its_body(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = _stream(hub)
    await stream.declare()
    monkeypatch.setattr(await hub._open_session().live_link(), "max_message", 2000)
    envelope = Envelope(id="1", method="store")
    await stream.store(DeadLetter.of("exception", "q", envelope, json.dumps("x" * 2000).encode(), _failure()))
    [letter] = await hub.dead()
    assert (letter.method, letter.body, letter.arguments) == ("store", b"", None)
    assert letter.error.startswith("Outer.Error: no (its message of 20")
    assert letter.error.endswith(" bytes is too large to be kept)")
