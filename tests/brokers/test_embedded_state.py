"""State machine of the embedded broker: single cases, and random histories compared with a simple model."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Exchange, Queue

from actorhub_embedded.channels import Send
from actorhub_embedded.exchanges import topic_matches
from actorhub_embedded.messages import decode, encode
from actorhub_embedded.state import Block, Broker, Close


class Console:
    """A broker and its clients; records what the clients are sent."""

    def __init__(self, **limits: Any) -> None:
        self.broker = Broker(seed=1, **limits)
        self.now = 1000.0
        self.sent: list[Send] = []
        self.blocks: list[Block] = []
        self.closed: list[Close] = []

    def connect(self, *numbers: int) -> None:
        for number in numbers:
            self.broker.connect(number)

    def send(self, connection: int, method: Frame, channel: int = 1) -> list[Frame]:
        """Send a method to the broker; returns the methods that this connection gets in return."""
        self.broker.receive(connection, channel, method, self.now)
        return self.flush(connection)

    def publish(self, connection: int, key: str, body: bytes = b"x", exchange: str = "", **options: Any) -> list[Frame]:
        mandatory = options.pop("mandatory", False)
        properties = Basic.Properties(**options)
        method = Basic.Publish(0, exchange, key, mandatory)
        self.broker.publish(connection, 1, method, encode(properties, len(body)), body, self.now)
        return self.flush(connection)

    def flush(self, connection: int) -> list[Frame]:
        mine: list[Frame] = []
        for effect in self.broker.flush(self.now):
            if isinstance(effect, Send):
                self.sent.append(effect)
                if effect.connection == connection:
                    mine.append(effect.method)
            elif isinstance(effect, Block):
                self.blocks.append(effect)
            else:
                self.closed.append(effect)
        return mine

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.broker.tick(self.now)
        self.flush(0)

    def delivered(self, connection: int | None = None) -> list[bytes]:
        return [
            one.body
            for one in self.sent
            if isinstance(one.method, Basic.Deliver) and connection in (None, one.connection)
        ]

    def open(self, *connections: int, confirm: bool = False, prefetch: int = 0) -> None:
        self.connect(*connections)
        for connection in connections:
            self.send(connection, Channel.Open())
            if confirm:
                self.send(connection, Confirm.Select())
            if prefetch:
                self.send(connection, Basic.Qos(0, prefetch, False))

    def queue(self, name: str = "q", **arguments: Any) -> None:
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        [answer] = self.send(1, Queue.Declare(0, name, durable=True, arguments=given))
        assert isinstance(answer, Queue.DeclareOk), vars(answer)

    def count(self, name: str = "q") -> int:
        [answer] = self.send(1, Queue.Declare(0, name, passive=True))
        assert isinstance(answer, Queue.DeclareOk)
        return int(answer.message_count)


def test_unacknowledged_messages_are_redelivered_in_order_and_marked() -> None:
    console = Console()
    console.open(1, 2)
    console.queue()
    for body in (b"1", b"2", b"3"):
        console.publish(1, "q", body)
    console.send(2, Basic.Consume(0, "q"))
    console.send(2, Basic.Ack(2))
    console.broker.disconnect(2, console.now)
    console.sent.clear()
    console.send(1, Basic.Consume(0, "q"))
    assert console.delivered() == [b"1", b"3"]
    assert all(one.method.redelivered for one in console.sent if isinstance(one.method, Basic.Deliver))


def test_the_next_single_active_consumer_starts_with_the_unacknowledged_messages() -> None:
    console = Console()
    console.open(1, 2, 3)
    console.queue(x_single_active_consumer=True)
    console.send(2, Basic.Consume(0, "q"))
    console.send(3, Basic.Consume(0, "q"))
    for body in (b"1", b"2"):
        console.publish(1, "q", body)
    assert (console.delivered(2), console.delivered(3)) == ([b"1", b"2"], [])
    console.broker.disconnect(2, console.now)
    console.publish(1, "q", b"3")
    assert console.delivered(3) == [b"1", b"2", b"3"]


def test_confirms_are_joined_and_follow_the_return_of_an_unroutable_message() -> None:
    console = Console()
    console.open(1, confirm=True)
    console.queue()
    for body in (b"1", b"2", b"3"):
        header = encode(Basic.Properties(), 1)
        console.broker.publish(1, 1, Basic.Publish(0, "", "q"), header, body, console.now)
    [ack] = console.flush(1)
    assert isinstance(ack, Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (3, True)
    returned, ack = console.publish(1, "nowhere", mandatory=True)
    assert isinstance(returned, Basic.Return)
    assert isinstance(ack, Basic.Ack)
    assert (returned.reply_code, ack.delivery_tag, ack.multiple) == (312, 4, False)


def test_a_full_queue_refuses_messages_or_drops_its_oldest() -> None:
    console = Console()
    console.open(1, confirm=True)
    console.queue("refusing", x_max_length=2, x_overflow="reject-publish")
    console.queue("dropping", x_max_length=2)
    answers = [console.publish(1, "refusing")[0] for _ in range(3)]
    assert [type(answer) for answer in answers] == [Basic.Ack, Basic.Ack, Basic.Nack]
    for body in (b"1", b"2", b"3"):
        console.publish(1, "dropping", body)
    console.send(1, Basic.Consume(0, "dropping"))
    assert console.delivered() == [b"2", b"3"]


def test_dead_letters_carry_their_history() -> None:
    console = Console()
    console.open(1)
    console.queue("dead")
    console.queue(x_dead_letter_exchange="", x_dead_letter_routing_key="dead", x_message_ttl=100)
    console.publish(1, "q", b"late", expiration="50")
    console.tick(0.06)
    console.publish(1, "q", b"bad")
    console.send(1, Basic.Consume(0, "q", "c"))
    console.send(1, Basic.Reject(1, False))
    console.send(1, Basic.Consume(0, "dead", "d"))
    letters = [one for one in console.sent if isinstance(one.method, Basic.Deliver) and one.method.consumer_tag == "d"]
    assert [one.body for one in letters] == [b"late", b"bad"]
    deaths: list[Any] = [decode(one.header or b"").headers["x-death"][0] for one in letters]  # type: ignore[index]
    assert [(death["reason"], death["queue"], death["count"]) for death in deaths] == [
        ("expired", "q", 1),
        ("rejected", "q", 1),
    ]
    assert deaths[0]["original-expiration"] == "50"
    assert decode(letters[0].header or b"").expiration is None


def test_a_dead_letter_that_goes_in_a_circle_is_dropped() -> None:
    console = Console()
    console.open(1)
    console.queue("a", x_message_ttl=10, x_dead_letter_exchange="", x_dead_letter_routing_key="b")
    console.queue("b", x_message_ttl=10, x_dead_letter_exchange="", x_dead_letter_routing_key="a")
    console.publish(1, "a")
    for _ in range(5):
        console.tick(1)
    assert (console.count("a"), console.count("b")) == (0, 0)


def test_the_delivery_limit_of_a_quorum_queue_counts_and_dead_letters() -> None:
    console = Console()
    console.open(1)
    console.queue("dead")
    console.queue(
        x_queue_type="quorum", x_delivery_limit=2, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    console.publish(1, "q")
    console.send(1, Basic.Consume(0, "q"))
    for tag in (1, 2, 3):
        console.send(1, Basic.Reject(tag, True))
    counts = [(decode(one.header or b"").headers or {}).get("x-delivery-count") for one in console.sent if one.body]
    assert counts == [None, 1, 2]
    assert console.count("dead") == 1


def test_a_queue_that_keeps_its_dead_letters_retries_until_another_queue_takes_them() -> None:
    console = Console()
    console.open(1)
    letters = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead", "x_message_ttl": 10}
    kept = {"x_dead_letter_strategy": "at-least-once", "x_overflow": "reject-publish"}
    console.queue("careful", x_queue_type="quorum", **letters, **kept)
    console.queue("careless", x_queue_type="quorum", **letters)
    for queue in ("careful", "careless"):
        for body in (b"1", b"2"):
            console.publish(1, queue, queue.encode() + body)
    console.tick(1)
    assert (console.count("careful"), console.count("careless")) == (0, 0)
    assert console.broker.memory > 0, "kept dead letters count as memory"
    console.queue("dead", x_max_length=1, x_overflow="reject-publish")
    console.tick(1)
    assert console.count("dead") == 1
    console.send(1, Basic.Consume(0, "dead"))
    console.tick(1)
    assert console.delivered() == [b"careful1", b"careful2"]
    console.send(1, Basic.Ack(0, True))
    assert console.broker.memory == 0


def test_kept_dead_letters_are_dropped_with_their_queue() -> None:
    console = Console()
    console.open(1)
    kept = {"x_dead_letter_strategy": "at-least-once", "x_overflow": "reject-publish", "x_dead_letter_exchange": "none"}
    console.queue(x_queue_type="quorum", x_message_ttl=10, **kept)
    console.publish(1, "q")
    console.tick(1)
    console.send(1, Queue.Delete(0, "q"))
    console.tick(1)
    assert console.broker.memory == 0


@pytest.mark.parametrize("limit", [-1, 5])
@pytest.mark.parametrize("how", ["rejected", "disconnected"])
def test_the_place_of_a_requeued_message_in_a_quorum_queue(limit: int, how: str) -> None:
    console = Console()
    console.open(1)
    console.open(2, prefetch=2)
    console.queue(x_queue_type="quorum", x_delivery_limit=limit)
    for body in (b"1", b"2", b"3"):
        console.publish(1, "q", body)
    console.send(2, Basic.Consume(0, "q", "c"))
    console.send(2, Basic.Cancel("c"))
    if how == "rejected":
        console.send(2, Basic.Nack(0, True, True))
    else:
        console.broker.disconnect(2, console.now)
    console.sent.clear()
    console.send(1, Basic.Consume(0, "q"))
    last = limit < 0 and how == "rejected"
    assert console.delivered(1) == ([b"3", b"1", b"2"] if last else [b"1", b"2", b"3"])


def test_a_quorum_queue_gives_high_priorities_two_turns_in_three() -> None:
    console = Console()
    console.open(1)
    console.queue(x_queue_type="quorum")
    for number, priority in enumerate((0, 4, None, 9, 5, 255, 5, 9)):
        console.publish(1, "q", b"%d" % number, priority=priority)
    console.send(1, Basic.Consume(0, "q"))
    assert console.delivered() == [b"3", b"4", b"0", b"5", b"6", b"1", b"7", b"2"]


def test_higher_priorities_are_delivered_first_in_order() -> None:
    console = Console()
    console.open(1)
    console.queue(x_max_priority=5)
    for body, priority in ((b"a", 0), (b"b", 3), (b"c", 9), (b"d", 3)):
        console.publish(1, "q", body, priority=priority)
    console.send(1, Basic.Consume(0, "q"))
    assert console.delivered() == [b"c", b"b", b"d", b"a"]


def test_prefetch_bounds_each_consumer_and_an_acknowledgement_makes_room() -> None:
    console = Console()
    console.open(1, prefetch=2)
    console.queue()
    for body in (b"1", b"2", b"3", b"4"):
        console.publish(1, "q", body)
    console.send(1, Basic.Consume(0, "q"))
    assert console.delivered() == [b"1", b"2"]
    console.send(1, Basic.Ack(2, True))
    assert console.delivered() == [b"1", b"2", b"3", b"4"]


def test_a_stream_is_read_from_any_offset_and_drops_its_oldest_messages() -> None:
    console = Console()
    console.open(1, prefetch=100)
    console.queue(x_queue_type="stream")
    for number in range(5):
        console.publish(1, "q", b"%d" % number)
    for tag, offset in (("first", "first"), ("last", "last"), ("next", "next"), ("number", 3)):
        console.send(1, Basic.Consume(0, "q", tag, arguments={"x-stream-offset": offset}))
    console.publish(1, "q", b"5")
    read: dict[str, list[bytes]] = {}
    for one in console.sent:
        if isinstance(one.method, Basic.Deliver):
            read.setdefault(one.method.consumer_tag or "", []).append(one.body)
    assert read["first"] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert (read["last"], read["next"], read["number"]) == ([b"4", b"5"], [b"5"], [b"3", b"4", b"5"])
    console.queue("short", x_queue_type="stream", x_max_length_bytes=1000)
    for _ in range(100):
        console.publish(1, "short", b"x" * 100)
    assert console.count("short") < 4


def test_unused_queues_expire() -> None:
    console = Console()
    console.open(1)
    console.queue(x_expires=1000)
    console.send(1, Basic.Consume(0, "q", "c"))
    console.tick(5)
    assert console.count() == 0
    console.send(1, Basic.Cancel("c"))
    console.tick(0.9)
    assert console.count() == 0
    console.tick(1.1)
    [answer] = console.send(1, Queue.Declare(0, "q", passive=True))
    assert isinstance(answer, Channel.Close)
    assert answer.reply_code == 404


def test_exchanges_route_each_message_once() -> None:
    console = Console()
    console.open(1)
    console.queue("a")
    console.queue("b")
    for kind in ("direct", "fanout", "topic"):
        console.send(1, Exchange.Declare(0, kind, kind))
    bindings = "direct a k, fanout a -, fanout b -, topic a #, topic a x.*, topic b x.#.z"
    for exchange, queue, key in (binding.split() for binding in bindings.split(", ")):
        console.send(1, Queue.Bind(0, queue, exchange, key))
    console.publish(1, "k", exchange="direct")
    console.publish(1, "any", exchange="fanout")
    console.publish(1, "x.y", exchange="topic")
    assert (console.count("a"), console.count("b")) == (3, 1)


@pytest.mark.parametrize("case", ["a.b a.b", "a.* a.b", "a.# a", "# a.b.c", "#.b a.a.b", "a.#.b.#.c a.x.b.y.z.c"])
def test_topics_that_match(case: str) -> None:
    pattern, key = case.split()
    assert topic_matches(pattern.split("."), key.split("."))


@pytest.mark.parametrize("case", ["a.* a", "#.b.# a.c", "*.* a", "* a.b", "a.b a.c", "#.a a.b"])
def test_topics_that_do_not_match(case: str) -> None:
    pattern, key = case.split()
    assert not topic_matches(pattern.split("."), key.split("."))


def test_a_client_error_closes_its_channel_and_no_other() -> None:
    console = Console()
    console.open(1, 2)
    console.queue()
    console.send(2, Basic.Consume(0, "q"))
    for method, code in (
        (Queue.Declare(0, "none", passive=True), 404),
        (Queue.Declare(0, "q", durable=True, arguments={"x-max-length": 3}), 406),
        (Basic.Ack(77), 406),
        (Basic.Consume(0, "none"), 404),
        (Exchange.Declare(0, "amq.mine", "direct"), 403),
        (Queue.Declare(0, "amq.mine"), 403),
        (Queue.Bind(0, "q", "none", ""), 404),
    ):
        [close] = console.send(1, method)
        assert isinstance(close, Channel.Close), method.name
        assert close.reply_code == code, (method.name, close.reply_text)
        assert not console.send(1, Queue.Declare(0, "ignored")), "a closed channel ignores methods"
        console.send(1, Channel.CloseOk())
        console.send(1, Channel.Open())
    console.publish(1, "q", b"still")
    assert console.delivered(2) == [b"still"]
    assert not console.closed


@pytest.mark.parametrize(
    "method",
    [
        Basic.Qos(0, 10, True),
        Basic.Consume(0, "q", arguments={"x-priority": 3}),
        Queue.Declare(0, "p", durable=True, arguments={"x-queue-mode": "lazy"}),
        Exchange.Declare(0, "h", "headers"),
        Exchange.Bind(0, "a", "b", ""),
    ],
)
def test_an_unsupported_feature_closes_the_connection_with_540(method: Frame) -> None:
    console = Console()
    console.open(1)
    console.queue()
    console.send(1, method)
    [close] = console.closed
    assert close.fault.code == 540


def test_publishers_are_blocked_past_the_memory_limit_until_there_is_room() -> None:
    console = Console(memory_limit=10_000)
    console.open(1, 2)
    console.queue()
    while not console.blocks:
        console.publish(1, "q", b"x" * 1000)
    assert [(block.connection, bool(block.reason)) for block in console.blocks] == [(1, True)]
    console.send(2, Basic.Consume(0, "q"))
    console.send(2, Basic.Ack(0, True))
    assert console.broker.memory == 0
    assert (console.blocks[-1].connection, console.blocks[-1].reason) == (1, None)


def test_a_client_that_does_not_read_gets_no_deliveries_until_it_does() -> None:
    console = Console()
    console.open(1, 2)
    console.queue()
    console.send(2, Basic.Consume(0, "q", no_ack=True))
    console.broker.pause(2, True)
    console.publish(1, "q", b"1")
    assert not console.delivered(2)
    console.broker.pause(2, False)
    console.flush(2)
    assert console.delivered(2) == [b"1"]


def test_full_queues_that_dead_letter_into_each_other_come_to_an_end() -> None:
    console = Console()
    console.open(1)
    console.queue("a", x_max_length=2000, x_dead_letter_exchange="", x_dead_letter_routing_key="b")
    console.queue("b", x_max_length=2000, x_dead_letter_exchange="", x_dead_letter_routing_key="a")
    for queue in ("a", "b"):
        for number in range(2000):
            console.publish(1, queue, b"%d" % number)
    console.publish(1, "a", b"one more")
    assert (console.count("a"), console.count("b")) == (2000, 2000)


def test_messages_of_a_deleted_queue_do_not_affect_a_new_one_of_the_same_name() -> None:
    console = Console()
    console.open(1, 2)
    console.queue()
    console.publish(1, "q", b"old")
    console.send(2, Basic.Consume(0, "q", "old"))
    console.send(1, Queue.Delete(0, "q"))
    console.queue()
    console.send(2, Basic.Consume(0, "q", "new"))
    header = encode(Basic.Properties(), 3)
    console.broker.publish(1, 1, Basic.Publish(0, "", "q"), header, b"new", console.now)
    console.send(2, Basic.Ack(1))
    assert console.delivered(2) == [b"old", b"new"]


def test_acknowledging_many_messages_twice_closes_the_channel() -> None:
    console = Console()
    console.open(1)
    console.queue()
    for _ in range(3):
        console.publish(1, "q")
    console.send(1, Basic.Consume(0, "q"))
    assert not console.send(1, Basic.Ack(2, True))
    [close] = console.send(1, Basic.Ack(2, True))
    assert isinstance(close, Channel.Close)
    assert close.reply_code == 406


# ---- against a model


class Histories(RuleBasedStateMachine):
    """A classic queue and three clients; the model is the waiting messages and each client's unacknowledged ones."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console()
        self.serial = 0
        self.waiting: deque[int] = deque()
        self.held: dict[int, list[int]] = {}  # unacknowledged messages by client, in the order of delivery
        self.tags: dict[tuple[int, int], int] = {}
        self.consuming: list[int] = []
        self.seen = 0
        self.gone: set[int] = set()

    @initialize(single=st.booleans(), prefetch=st.sampled_from([1, 2, 5]))
    def begin(self, single: bool, prefetch: int) -> None:
        self.single, self.prefetch = single, prefetch
        self.console.open(9)
        self.console.connect(1)
        self.console.send(1, Channel.Open())
        self.console.queue(x_single_active_consumer=single)
        self.console.broker.disconnect(1, self.console.now)

    @rule()
    def publish(self) -> None:
        self.serial += 1
        self.waiting.append(self.serial)
        self.console.publish(9, "q", b"%d" % self.serial)
        self._read()

    @rule(client=st.integers(1, 3))
    def consume(self, client: int) -> None:
        if client not in self.consuming:
            self.console.open(client, prefetch=self.prefetch)
            self.consuming.append(client)
            self.held[client] = []
            self.console.send(client, Basic.Consume(0, "q"))
            self._read()

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), multiple=st.booleans(), how=st.sampled_from(["ack", "requeue", "drop"]))
    def settle(self, data: Any, multiple: bool, how: str) -> None:
        client = data.draw(st.sampled_from([client for client, held in self.held.items() if held]))
        chosen = data.draw(st.sampled_from(self.held[client]))
        tag = max(t for (owner, t), serial in self.tags.items() if owner == client and serial == chosen)
        method = Basic.Ack(tag, multiple) if how == "ack" else Basic.Nack(tag, multiple, how == "requeue")
        held = self.held[client]
        done = held[: held.index(chosen) + 1] if multiple else [chosen]
        self.held[client] = [serial for serial in held if serial not in done]
        if how == "requeue":
            self.waiting = deque(sorted([*self.waiting, *done]))
        else:
            self.gone |= set(done)
        self.console.send(client, method)
        self._read()

    @precondition(lambda self: self.consuming)
    @rule(data=st.data(), whole=st.booleans())
    def leave(self, data: Any, whole: bool) -> None:
        client = data.draw(st.sampled_from(self.consuming))
        self.consuming.remove(client)
        self.waiting = deque(sorted([*self.waiting, *self.held.pop(client)]))
        self.tags = {key: serial for key, serial in self.tags.items() if key[0] != client}
        if whole:
            self.console.broker.disconnect(client, self.console.now)
        else:
            self.console.send(client, Channel.Close(200, "", 0, 0))
            self.console.broker.disconnect(client, self.console.now)
        self.console.flush(client)
        self._read()

    def _read(self) -> None:
        """Check that each new delivery is the oldest waiting message, for a client that may get it."""
        for one in self.console.sent[self.seen :]:
            if isinstance(one.method, Basic.Deliver):
                serial = int(one.body)
                assert self.waiting
                assert serial == self.waiting.popleft(), "the oldest is delivered first"
                assert one.connection in self.consuming
                if self.single:
                    assert one.connection == self.consuming[0], "only the active consumer gets messages"
                self.held[one.connection].append(serial)
                self.tags[one.connection, one.method.delivery_tag or 0] = serial
        self.seen = len(self.console.sent)

    @invariant()
    def no_message_is_lost_or_duplicated(self) -> None:
        everywhere = [*self.waiting, *(serial for held in self.held.values() for serial in held), *self.gone]
        assert sorted(everywhere) == list(range(1, self.serial + 1))
        assert all(len(held) <= self.prefetch for held in self.held.values())

    @invariant()
    def no_message_waits_while_a_consumer_has_room(self) -> None:
        takers = self.consuming[:1] if getattr(self, "single", False) else self.consuming
        if self.waiting:
            assert all(len(self.held[client]) == self.prefetch for client in takers)

    @invariant()
    def memory_is_counted_for_existing_messages(self) -> None:
        there = len(self.waiting) + sum(len(held) for held in self.held.values())
        assert (self.console.broker.memory > 0) == (there > 0)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
