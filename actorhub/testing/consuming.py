"""Contract checks of consuming: acknowledgements, redelivery, prefetch, single active consumers."""

from __future__ import annotations

import asyncio

from actorhub.broker import Broker, Queue, QueueKind
from actorhub.errors import ActorNotFound
from actorhub.testing.probe import Probe, declared, linked, publish, until, until_depth


async def unacknowledged_messages_are_redelivered_in_order(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.again")) as link:
        await publish(link, f"{prefix}.again", b"1", b"2", b"3", b"4")
        first = await Probe().consume(link, f"{prefix}.again")
        deliveries = await first.get(4)
        deliveries[0].ack()
        deliveries[2].ack()
        await first.close()
        second = await Probe().consume(link, f"{prefix}.again")
        again = await second.get(2)
        assert second.bodies == [b"2", b"4"]
        assert all(delivery.redelivered for delivery in again)
        deliveries[1].ack()  # does nothing: its consumer has ended
        await second.close()
        assert first.ended == second.ended == [], "on_end is not called after close"
        await until_depth(link, f"{prefix}.again", 2)


async def a_rejected_message_is_requeued_or_dropped(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.rejected")) as link:
        await publish(link, f"{prefix}.rejected", b"back", b"away")
        probe = await Probe().consume(link, f"{prefix}.rejected")
        back, away = await probe.get(2)
        away.reject(requeue=False)
        back.reject(requeue=True)
        deliveries = await probe.get(3)
        assert deliveries[2].message.body == b"back"
        assert deliveries[2].redelivered
        deliveries[2].ack()
        await until_depth(link, f"{prefix}.rejected", 0)


async def a_stopped_consumer_may_still_acknowledge_and_requeue_its_messages(broker: Broker, prefix: str) -> None:
    """Also before the broker has handled the stop, and when the consumer is closed right after."""
    queue = Queue(f"{prefix}.stopped", kind=QueueKind.QUORUM)
    async with declared(broker, queue) as link:
        bodies = [b"%d" % number for number in range(100)]
        await publish(link, queue.name, *bodies)
        first = await Probe().consume(link, queue.name, prefetch=100)
        deliveries = await first.get(100)
        assert first.consumer is not None
        stopping = asyncio.create_task(first.consumer.stop())
        await asyncio.sleep(0)
        for delivery in deliveries[2:]:
            delivery.reject(requeue=True)
        await stopping
        for delivery in deliveries[:2]:
            delivery.ack()
        await first.close()
        second = await Probe().consume(link, queue.name, prefetch=200)
        await second.get(98)
        assert sorted(second.bodies) == sorted(bodies[2:])
        await until_depth(link, queue.name, 0)
        await second.close()
        await until_depth(link, queue.name, 98)


async def prefetch_bounds_unacknowledged_messages(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.prefetch")) as link:
        await publish(link, f"{prefix}.prefetch", *(b"%d" % number for number in range(10)))
        probe = await Probe().consume(link, f"{prefix}.prefetch", prefetch=3)
        await probe.get(3)
        await until_depth(link, f"{prefix}.prefetch", 7)
        assert len(probe.deliveries) == 3
        probe.deliveries[0].ack()
        await probe.get(4)
        await until_depth(link, f"{prefix}.prefetch", 6)


async def the_single_active_consumer_gets_all_messages(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.single", single_active=True)
    async with declared(broker, queue) as link, linked(broker) as other:
        active = await Probe().consume(link, queue.name)
        standby = await Probe().consume(other, queue.name)
        await publish(link, queue.name, b"1", b"2", b"3")
        (await active.get(3))[0].ack()
        assert standby.bodies == []
        await active.close()
        await standby.get(2)
        assert standby.bodies == [b"2", b"3"], "in order, without the acknowledged one"


async def messages_of_a_closed_link_go_to_the_standby_consumer(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.standby", single_active=True)
    async with declared(broker, queue) as link:
        await publish(link, queue.name, b"1", b"2")
        first = await broker.connect(name="first", on_lost=lambda error: None, on_blocked=lambda reason: None)
        await (await Probe().consume(first, queue.name)).get(2)
        standby = await Probe().consume(link, queue.name)
        await first.close()
        await standby.get(2)
        assert standby.bodies == [b"1", b"2"]


async def consuming_a_missing_queue_raises_actor_not_found(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        try:
            await Probe().consume(link, f"{prefix}.nothing")
        except ActorNotFound:
            pass
        else:
            raise AssertionError("consuming a missing queue raised nothing")
        await link.declare(Queue(f"{prefix}.now"))  # the link stays usable
        assert await link.delete(f"{prefix}.now")


async def a_consumer_ends_once_when_its_queue_is_deleted(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.deleted")) as link:
        probe = await Probe().consume(link, f"{prefix}.deleted")
        await link.delete(f"{prefix}.deleted")
        await until(lambda: len(probe.ended) == 1, "the consumer ends")
        await probe.close()
        assert len(probe.ended) == 1
