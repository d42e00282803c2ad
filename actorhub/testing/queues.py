"""Contract checks of queues: declaring, deleting, expiry, dead letters, streams, purge and peek."""

from __future__ import annotations

import asyncio

from actorhub.broker import Broker, Outcome, Queue, QueueKind
from actorhub.errors import ActorNotFound
from actorhub.testing.probe import Probe, declared, linked, publish, until_depth


async def declaring_a_queue_again_changes_nothing_and_other_arguments_are_refused(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.declared")) as link:
        await publish(link, f"{prefix}.declared", b"1")
        await link.declare(Queue(f"{prefix}.declared"))
        await until_depth(link, f"{prefix}.declared", 1)
        refused = ""
        try:
            await link.declare(Queue(f"{prefix}.declared", single_active=True))
        except ValueError as exc:
            refused = str(exc)
        assert f"{prefix}.declared" in refused, f"no ValueError that names the queue; the message is {refused!r}"


async def the_state_of_a_queue_counts_waiting_messages_and_consumers(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.state")) as link:
        assert await link.state(f"{prefix}.none") is None
        await publish(link, f"{prefix}.state", b"1", b"2")
        state = await link.state(f"{prefix}.state")
        assert state is not None
        assert (state.messages, state.consumers) == (2, 0)
        probe = await Probe().consume(link, f"{prefix}.state")
        await probe.get(2)
        state = await link.state(f"{prefix}.state")
        assert state is not None
        assert (state.messages, state.consumers) == (0, 1), "a delivered message does not wait any more"


async def a_queue_is_deleted_only_if_empty_on_request(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.kept")) as link:
        await publish(link, f"{prefix}.kept", b"1")
        assert await link.delete(f"{prefix}.kept", only_if_empty=True) is False
        await until_depth(link, f"{prefix}.kept", 1)
        assert await link.delete(f"{prefix}.kept") is True
        assert await link.state(f"{prefix}.kept") is None
        assert await link.delete(f"{prefix}.kept", only_if_empty=True) is True, "the queue is missing already"


async def an_unused_queue_expires(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.expiring", expires=0.5)):
        pass
    async with linked(broker) as link:
        await link.declare(Queue(f"{prefix}.expiring", expires=0.5))
        await publish(link, f"{prefix}.expiring", b"1")
        await asyncio.sleep(1.5)  # reading its state would be a use
        assert await link.state(f"{prefix}.expiring") is None


async def an_expired_or_rejected_message_goes_to_the_dead_letter_queue(broker: Broker, prefix: str) -> None:
    dead, living = Queue(f"{prefix}.dead"), Queue(f"{prefix}.living", message_ttl=0.2, dead_letter_to=f"{prefix}.dead")
    async with declared(broker, dead) as link, declared(broker, living):
        await publish(link, living.name, b"expires")
        await until_depth(link, dead.name, 1)
        await publish(link, living.name, b"rejected")
        probe = await Probe().consume(link, living.name)
        for delivery in list(probe.deliveries):
            delivery.reject(requeue=False)
        await until_depth(link, dead.name, 2)


async def a_quorum_queue_redelivers_in_order_without_a_limit(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.quorum", kind=QueueKind.QUORUM, single_active=True)
    async with declared(broker, queue) as link:
        assert await publish(link, queue.name, b"1", b"2", b"3") == [Outcome.STORED] * 3
        for _ in range(25):  # RabbitMQ 4 would drop a message after 20 redeliveries, unless told otherwise
            probe = await Probe().consume(link, queue.name)
            await probe.get(3)
            assert probe.bodies == [b"1", b"2", b"3"]
            await probe.close()


async def a_quorum_queue_loses_no_dead_letter(broker: Broker, prefix: str) -> None:
    dead = Queue(f"{prefix}.letters", kind=QueueKind.QUORUM)
    living = Queue(f"{prefix}.mortal", kind=QueueKind.QUORUM, message_ttl=0.1, dead_letter_to=dead.name)
    async with declared(broker, dead) as link, declared(broker, living):
        bodies = [b"%d" % number for number in range(300)]
        assert await publish(link, living.name, *bodies) == [Outcome.STORED] * 300
        probe = await Probe().consume(link, dead.name, prefetch=0)
        await probe.get(300)
        assert sorted(probe.bodies, key=int) == bodies


async def a_stream_is_read_from_any_offset_and_keeps_what_was_read(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.stream", kind=QueueKind.STREAM, retention=10_000_000)
    async with declared(broker, queue) as link:
        await publish(link, queue.name, *(b"%d" % number for number in range(10)))
        for _ in range(2):
            probe = await Probe().consume(link, queue.name, offset="first")
            deliveries = await probe.get(10)
            assert probe.bodies == [b"%d" % number for number in range(10)]
            assert [delivery.offset for delivery in deliveries] == list(range(10))
            for delivery in deliveries:
                delivery.ack()
            await probe.close()
        probe = await Probe().consume(link, queue.name, offset=7)
        await probe.get(3)
        assert probe.bodies == [b"7", b"8", b"9"]
        await probe.close()


async def purge_removes_waiting_messages(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.purged")) as link:
        await publish(link, f"{prefix}.purged", b"1", b"2")
        assert await broker.purge(f"{prefix}.purged") == 2
        await until_depth(link, f"{prefix}.purged", 0)
    try:
        await broker.purge(f"{prefix}.none")
    except ActorNotFound:
        return
    raise AssertionError("purging a missing queue raised nothing")


async def peek_returns_the_oldest_messages_of_a_stream_and_removes_none(broker: Broker, prefix: str) -> None:
    assert await broker.peek(f"{prefix}.none") == []
    assert await broker.end_offset(f"{prefix}.none") == 0
    async with declared(broker, Queue(f"{prefix}.peeked", kind=QueueKind.STREAM)) as link:
        await publish(link, f"{prefix}.peeked", b"1", b"2", b"3")
        for _ in range(2):
            peeked = await broker.peek(f"{prefix}.peeked", limit=2)
            assert [(offset, message.body) for offset, message in peeked] == [(0, b"1"), (1, b"2")]
        peeked = await broker.peek(f"{prefix}.peeked", offset=1)
        assert [(offset, message.body) for offset, message in peeked] == [(1, b"2"), (2, b"3")]
        assert await broker.peek(f"{prefix}.peeked", offset=3) == []
        assert await broker.peek(f"{prefix}.peeked", offset=1000) == []
        assert await broker.end_offset(f"{prefix}.peeked") == 3
    async with declared(broker, Queue(f"{prefix}.empty", kind=QueueKind.STREAM)):
        assert await broker.peek(f"{prefix}.empty") == []
        assert await broker.end_offset(f"{prefix}.empty") == 0
