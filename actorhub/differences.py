"""Where servers differ, and how: the part of the broker contract that depends on what is at the other end of the link.

`WAYS` says it for each server that the contract runs on, and each check holds the server to it: a server that changes its ways
fails here, not in production. What is the same everywhere stands in `testing.py`, or here where one would not expect it.
"""

from __future__ import annotations

from dataclasses import dataclass

from actorhub.broker import Broker, Message, Outcome, Queue, QueueKind
from actorhub.probe import Probe, declared, publish, until, waits

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ways:
    """Of one server. `overshoot`: how many messages a full quorum queue may take all the same while publishes are under way
    (a classic queue takes none). `priorities`: that quorum queues tell apart. `delivery_limit`: of a quorum queue for which
    nothing was said; None is without limit. `largest`: bytes of a body."""

    name: str
    overshoot: int
    priorities: int
    delivery_limit: int | None
    largest: int


# by the beginning of `link.server`, the most special first
WAYS: dict[str, Ways] = {
    "RabbitMQ 3.": Ways("RabbitMQ 3", overshoot=1000, priorities=1, delivery_limit=None, largest=128 * MEBIBYTE),
    "RabbitMQ 4.": Ways("RabbitMQ 4", overshoot=1000, priorities=2, delivery_limit=20, largest=16 * MEBIBYTE),
    "ActorHub embedded": Ways("embedded", overshoot=0, priorities=2, delivery_limit=20, largest=16 * MEBIBYTE),
}


def ways(server: str) -> Ways:
    """Of the server that calls itself so.

    Raises:
        AssertionError: nobody has written them down.
    """
    for beginning, found in WAYS.items():
        if server.startswith(beginning):
            return found
    raise AssertionError(f"how {server!r} differs is not written down; add it to WAYS in actorhub/differences.py")


async def a_full_queue_refuses_what_is_under_way_as_far_as_it_can(broker: Broker, prefix: str) -> None:
    """A classic queue counts exactly. RabbitMQ's quorum queue tells publishers after the fact that it is full: of 3000 that
    are published at once it takes some hundreds too many. The embedded broker's takes none."""
    for kind in (QueueKind.CLASSIC, QueueKind.QUORUM):
        queue = Queue(f"{prefix}.{kind}", kind, limit=10)
        async with declared(broker, queue) as link:
            most = 10 + (ways(link.server).overshoot if kind is QueueKind.QUORUM else 0)
            outcomes = await publish(link, queue.name, *[b"x"] * 3000)
            stored = outcomes.count(Outcome.STORED)
            assert stored + outcomes.count(Outcome.REFUSED) == 3000, outcomes
            assert 10 <= stored <= most, f"a {kind} queue with a limit of 10 took {stored}"
            await waits(link, queue.name, stored)
            assert await publish(link, queue.name, b"one more") == [Outcome.REFUSED]


async def the_place_of_what_comes_back_is_the_old_one_unless_it_was_refused(broker: Broker, prefix: str) -> None:
    """The same on all: what comes back because its consumer is gone takes its old place. What a consumer refuses does, too, but
    for a quorum queue without a delivery limit: there it is as if published again, at the end."""
    queues = {
        "classic": Queue(f"{prefix}.classic"),
        "limited": Queue(f"{prefix}.limited", QueueKind.QUORUM, delivery_limit=5),
        "unlimited": Queue(f"{prefix}.unlimited", QueueKind.QUORUM),
    }
    for name, queue in queues.items():
        async with declared(broker, queue) as link:
            await publish(link, queue.name, b"1", b"2", b"3")
            gone = await Probe().consume(link, queue.name, prefetch=1)
            await gone.get(1)
            await gone.close()
            refusing = await Probe().consume(link, queue.name, prefetch=1)
            [delivery] = await refusing.get(1)
            assert delivery.message.body == b"1", name
            delivery.reject(requeue=True)
            await refusing.get(2)
            again = refusing.bodies[1]
            assert again == (b"2" if name == "unlimited" else b"1"), f"{name}: {again!r} followed"
            await refusing.close()


async def a_delivery_limit_counts_redeliveries_and_without_one_there_is_no_end(broker: Broker, prefix: str) -> None:
    """The same on all, since the adapter says -1 for "without" where 20 is the server's default (4.x), and says nothing where
    -1 would mean 0 (3.x)."""
    dead = Queue(f"{prefix}.dead")
    limited = Queue(f"{prefix}.thrice", QueueKind.QUORUM, delivery_limit=2, dead_letter_to=dead.name)
    unlimited = Queue(f"{prefix}.ever", QueueKind.QUORUM, dead_letter_to=dead.name)
    async with declared(broker, dead) as link, declared(broker, limited), declared(broker, unlimited):
        for queue, times in ((limited, 3), (unlimited, 30)):
            await publish(link, queue.name, queue.name.encode())
            probe = await Probe().consume(link, queue.name)
            for number in range(1, times + 1):
                (await probe.get(number))[-1].reject(requeue=True)
            if queue is limited:
                await waits(link, dead.name, 1)
                assert len(probe.deliveries) == 3
            await probe.close()
        await waits(link, unlimited.name, 1)
        await waits(link, dead.name, 1)


async def a_quorum_queue_tells_as_many_priorities_apart_as_its_server_has(broker: Broker, prefix: str) -> None:
    """3.x has none. 4.x has two: those above 4 have two turns in three, so that the others are not starved. The embedded broker
    does the same."""
    queue = Queue(f"{prefix}.priorities", QueueKind.QUORUM)
    async with declared(broker, queue) as link:
        levels = ways(link.server).priorities
        assert link.priorities == levels, f"the link says {link.priorities}, {link.server} has {levels}"
        outcomes: list[Outcome] = []
        for number, priority in enumerate((0, 4, None, 9, 5, 255, 5)):
            link.publish(queue.name, Message(b"%d" % number, priority=priority), outcomes.append)
        await until(lambda: len(outcomes) == 7, f"7 outcomes; there are {outcomes}")
        probe = await Probe().consume(link, queue.name)
        await probe.get(7)
        order = b"".join(probe.bodies)
        assert order == (b"3405612" if levels == 2 else b"0123456"), order


async def the_largest_message_comes_whole_and_a_larger_one_costs_the_link(broker: Broker, prefix: str) -> None:
    """16 MiB since 4.0 and in the embedded broker; 128 MiB in 3.x, of which the suite sends no more than the first 16."""
    queue = Queue(f"{prefix}.large")
    async with declared(broker, queue) as link:
        largest = ways(link.server).largest
        assert link.max_message == largest, f"the link says {link.max_message}, {link.server} takes {largest}"
        body = b"x" * (16 * MEBIBYTE)
        assert await publish(link, queue.name, body) == [Outcome.STORED]
        probe = await Probe().consume(link, queue.name)
        [delivery] = await probe.get(1)
        assert delivery.message.body == body
        delivery.ack()
        lost: list[BaseException] = []
        other = await broker.connect(name="too large", on_lost=lost.append, on_blocked=lambda reason: None)
        try:
            outcome = await publish(other, queue.name, body + b"x")
            if largest == len(body):
                assert outcome == [Outcome.LOST]
                await until(lambda: len(lost) == 1, "the end of the link")
                assert str(largest) in str(lost[0]), f"it says what the largest is: {lost[0]}"
            else:
                assert outcome == [Outcome.STORED]
        finally:
            await other.close()


CHECKS = (
    a_full_queue_refuses_what_is_under_way_as_far_as_it_can,
    the_place_of_what_comes_back_is_the_old_one_unless_it_was_refused,
    a_delivery_limit_counts_redeliveries_and_without_one_there_is_no_end,
    a_quorum_queue_tells_as_many_priorities_apart_as_its_server_has,
    the_largest_message_comes_whole_and_a_larger_one_costs_the_link,
)
