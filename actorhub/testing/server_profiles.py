"""Profiles of the servers that the contract runs on: what differs between them, and the checks that hold each to its profile.

A server that changes its behaviour fails here, not in production. Behaviour that is the same everywhere is checked in the other
files of this package, or here if one would not expect it to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from actorhub.broker import Broker, Message, Outcome, Queue, QueueKind
from actorhub.testing.probe import Probe, declared, publish, until, until_depth

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """The behaviour in which one kind of server may differ from others."""

    name: str
    limit_overshoot: int
    """Messages that a quorum queue may store past its limit, if they were published before it refused one. A classic queue
    stores none."""
    priorities: int
    """Priority levels of a quorum queue."""
    delivery_limit: int | None
    """Delivery limit of a quorum queue that was declared without one; None is without limit."""
    max_message: int
    """Largest body in bytes."""


PROFILES: dict[str, ServerProfile] = {
    "RabbitMQ 3.": ServerProfile(
        "RabbitMQ 3", limit_overshoot=1000, priorities=1, delivery_limit=None, max_message=128 * MEBIBYTE
    ),
    "RabbitMQ 4.": ServerProfile(
        "RabbitMQ 4", limit_overshoot=1000, priorities=2, delivery_limit=20, max_message=16 * MEBIBYTE
    ),
    "ActorHub embedded": ServerProfile(
        "embedded", limit_overshoot=0, priorities=2, delivery_limit=20, max_message=16 * MEBIBYTE
    ),
}
"""By the beginning of `Link.server`."""


def profile_of(server: str) -> ServerProfile:
    """The profile of a server, by the text of `Link.server`.

    Raises:
        AssertionError: the server has no profile.
    """
    for beginning, profile in PROFILES.items():
        if server.startswith(beginning):
            return profile
    raise AssertionError(f"no profile of {server!r}; add one to PROFILES in actorhub/testing/server_profiles.py")


async def a_full_queue_takes_no_more_than_its_limit_and_the_server_s_overshoot(broker: Broker, prefix: str) -> None:
    """A classic queue keeps its limit. RabbitMQ's quorum queue refuses late: of 3000 messages published at once it stores some
    hundreds too many. The embedded broker's stores none."""
    for kind in (QueueKind.CLASSIC, QueueKind.QUORUM):
        queue = Queue(f"{prefix}.{kind}", kind, limit=10)
        async with declared(broker, queue) as link:
            most = 10 + (profile_of(link.server).limit_overshoot if kind is QueueKind.QUORUM else 0)
            outcomes = await publish(link, queue.name, *[b"x"] * 3000)
            stored = outcomes.count(Outcome.STORED)
            assert stored + outcomes.count(Outcome.REFUSED) == 3000, outcomes
            assert 10 <= stored <= most, f"a {kind} queue with a limit of 10 stored {stored}"
            await until_depth(link, queue.name, stored)
            assert await publish(link, queue.name, b"one more") == [Outcome.REFUSED]


async def a_requeued_message_takes_its_old_place_or_the_last_one(broker: Broker, prefix: str) -> None:
    """The same on all servers. A message whose consumer ended takes its old place. So does one that a consumer rejects and
    requeues, except in a quorum queue without a delivery limit: there it goes to the end, as if published again."""
    queues = {
        "classic": Queue(f"{prefix}.classic"),
        "limited": Queue(f"{prefix}.limited", QueueKind.QUORUM, delivery_limit=5),
        "unlimited": Queue(f"{prefix}.unlimited", QueueKind.QUORUM),
    }
    for name, queue in queues.items():
        async with declared(broker, queue) as link:
            await publish(link, queue.name, b"1", b"2", b"3")
            ending = await Probe().consume(link, queue.name, prefetch=1)
            await ending.get(1)
            await ending.close()
            rejecting = await Probe().consume(link, queue.name, prefetch=1)
            [delivery] = await rejecting.get(1)
            assert delivery.message.body == b"1", name
            delivery.reject(requeue=True)
            await rejecting.get(2)
            again = rejecting.bodies[1]
            assert again == (b"2" if name == "unlimited" else b"1"), f"{name}: {again!r} was next"
            await rejecting.close()


async def a_delivery_limit_counts_redeliveries_and_without_one_they_never_end(broker: Broker, prefix: str) -> None:
    """The same on all servers: for "no limit" the adapter declares -1 where the server's default is 20 (4.x), and no argument
    where the server would take -1 as 0 (3.x)."""
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
                await until_depth(link, dead.name, 1)
                assert len(probe.deliveries) == 3
            await probe.close()
        await until_depth(link, unlimited.name, 1)
        await until_depth(link, dead.name, 1)


async def a_quorum_queue_has_the_server_s_priority_levels(broker: Broker, prefix: str) -> None:
    """3.x has one level. 4.x and the embedded broker have two: priorities above 4 have two turns in three, so that the others
    do not starve."""
    queue = Queue(f"{prefix}.priorities", QueueKind.QUORUM)
    async with declared(broker, queue) as link:
        levels = profile_of(link.server).priorities
        assert link.priorities == levels, f"the link says {link.priorities}, {link.server} has {levels}"
        outcomes: list[Outcome] = []
        for number, priority in enumerate((0, 4, None, 9, 5, 255, 5)):
            link.publish(queue.name, Message(b"%d" % number, priority=priority), outcomes.append)
        await until(lambda: len(outcomes) == 7, f"7 outcomes; got {outcomes}")
        probe = await Probe().consume(link, queue.name)
        await probe.get(7)
        order = b"".join(probe.bodies)
        assert order == (b"3405612" if levels == 2 else b"0123456"), order


async def the_largest_message_arrives_whole_and_a_larger_one_ends_the_link(broker: Broker, prefix: str) -> None:
    """16 MiB in 4.x and the embedded broker. 128 MiB in 3.x, where this check sends a little more than 16 MiB at most."""
    queue = Queue(f"{prefix}.large")
    async with declared(broker, queue) as link:
        largest = profile_of(link.server).max_message
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
                await until(lambda: len(lost) == 1, "the link ends")
                assert str(largest) in str(lost[0]), f"the message does not name the largest size: {lost[0]}"
            else:
                assert outcome == [Outcome.STORED]
        finally:
            await other.close()


CHECKS = (
    a_full_queue_takes_no_more_than_its_limit_and_the_server_s_overshoot,
    a_requeued_message_takes_its_old_place_or_the_last_one,
    a_delivery_limit_counts_redeliveries_and_without_one_they_never_end,
    a_quorum_queue_has_the_server_s_priority_levels,
    the_largest_message_arrives_whole_and_a_larger_one_ends_the_link,
)
