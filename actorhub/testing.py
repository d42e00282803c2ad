"""What every broker adapter must do: plain checks, to be run against a real server of its kind.

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    async def test_my_broker_keeps_the_contract(check, my_broker):
        await check(my_broker, "queues-of-this-test")

Each check takes a `Broker` and a prefix that no queue and no exchange has yet, raises AssertionError where a promise is
broken, and leaves no queue behind. Where servers differ, `differences.py` says how, and its checks are part of the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actorhub import differences
from actorhub.broker import Broker, Message, Outcome, Queue, QueueKind
from actorhub.errors import ActorNotFound
from actorhub.probe import Probe as Probe
from actorhub.probe import broadcast, declared, linked, publish, until, waits

Check = Callable[[Broker, str], Awaitable[None]]


# ---- publishing


async def a_message_comes_as_it_was_sent(broker: Broker, prefix: str) -> None:
    sent = Message(
        b"\x00\xffbody",
        content_type="application/json",
        message_id="id",
        correlation_id="correlation",
        reply_to="reply",
        type="type",
        headers={"word": "w", "number": 7, "none": None},
    )
    async with declared(broker, Queue(f"{prefix}.sent")) as link:
        outcomes: list[Outcome] = []
        link.publish(f"{prefix}.sent", sent, outcomes.append)
        probe = await Probe().consume(link, f"{prefix}.sent")
        [delivery] = await probe.get(1)
        got = delivery.message
        assert (got.body, got.content_type, got.type) == (sent.body, sent.content_type, sent.type)
        assert (got.message_id, got.correlation_id, got.reply_to) == ("id", "correlation", "reply")
        assert {name: (got.headers or {}).get(name) for name in sent.headers or {}} == sent.headers
        assert delivery.redelivered is False
        delivery.ack()
        await until(lambda: outcomes == [Outcome.STORED], f"one confirm; there are {outcomes}")


async def publishes_are_confirmed_once_each_and_keep_their_order(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.order")) as link:
        bodies = [b"%d" % number for number in range(2000)]
        assert await publish(link, f"{prefix}.order", *bodies) == [Outcome.STORED] * 2000
        probe = await Probe().consume(link, f"{prefix}.order", prefetch=0)
        await probe.get(2000)
        assert probe.bodies == bodies


async def a_message_for_no_queue_is_unroutable(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        assert await publish(link, f"{prefix}.nowhere", b"1", b"2") == [Outcome.UNROUTABLE] * 2


async def a_full_queue_refuses(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.full", limit=2)) as link:
        outcomes = [(await publish(link, f"{prefix}.full", b"%d" % number))[0] for number in range(4)]
        assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.REFUSED, Outcome.REFUSED], outcomes


async def what_was_published_before_close_is_sent(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.closing")) as reader:
        outcomes: list[Outcome] = []
        writer = await broker.connect(name="writer", on_lost=lambda error: None, on_blocked=lambda reason: None)
        for number in range(100):
            writer.publish(f"{prefix}.closing", Message(b"%d" % number), outcomes.append)
        await writer.close()
        assert len(outcomes) == 100, "each publish has an outcome when its link has ended"
        await waits(reader, f"{prefix}.closing", 100)
        writer.publish(f"{prefix}.closing", Message(b"late"), outcomes.append)
        await until(lambda: outcomes[100:] == [Outcome.LOST], "a publish on a closed link is LOST")


async def a_broadcast_reaches_every_subscriber_once_and_in_order(broker: Broker, prefix: str) -> None:
    exchange, queues = f"{prefix}.all", [f"{prefix}.one", f"{prefix}.two"]
    async with declared(broker, Queue(queues[0])) as link, declared(broker, Queue(queues[1])):
        for queue in (*queues, queues[0]):  # subscribing again changes nothing
            await link.subscribe(queue, exchange)
        bodies = [b"%d" % number for number in range(100)]
        assert await broadcast(link, exchange, *bodies) == [Outcome.STORED] * 100
        for queue in queues:
            probe = await Probe().consume(link, queue, prefetch=0)
            await probe.get(100)
            assert probe.bodies == bodies
            await waits(link, queue, 0)


async def a_broadcast_that_nobody_hears_is_stored_and_harms_nothing(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.later")) as link:
        assert await broadcast(link, f"{prefix}.unheard", b"1", b"2") == [Outcome.STORED] * 2
        assert await publish(link, f"{prefix}.later", b"3") == [Outcome.STORED], "the link has not suffered"
        await link.subscribe(f"{prefix}.later", f"{prefix}.unheard")
        assert await broadcast(link, f"{prefix}.unheard", b"4") == [Outcome.STORED]
        probe = await Probe().consume(link, f"{prefix}.later")
        await probe.get(2)
        assert probe.bodies == [b"3", b"4"], "from the subscription on, not from before"


async def a_broadcast_before_close_is_sent_and_one_after_it_is_lost(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.heard")) as reader:
        await reader.subscribe(f"{prefix}.heard", f"{prefix}.closing")
        outcomes: list[Outcome] = []
        writer = await broker.connect(name="writer", on_lost=lambda error: None, on_blocked=lambda reason: None)
        for number in range(10):
            writer.broadcast(f"{prefix}.closing", Message(b"%d" % number), outcomes.append)
        await writer.close()
        assert len(outcomes) == 10, "each broadcast has an outcome when its link has ended"
        await waits(reader, f"{prefix}.heard", 10)
        writer.broadcast(f"{prefix}.closing", Message(b"late"), outcomes.append)
        await until(lambda: outcomes[10:] == [Outcome.LOST], "a broadcast on a closed link is LOST")


async def only_a_queue_that_is_there_is_subscribed(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        try:
            await link.subscribe(f"{prefix}.nothing", f"{prefix}.all")
        except ActorNotFound:
            return
        raise AssertionError("subscribing a queue that is not there raised nothing")


# ---- consuming


async def what_is_not_acknowledged_comes_again_in_order(broker: Broker, prefix: str) -> None:
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
        deliveries[1].ack()  # of an ended consumer: nothing happens
        await second.close()
        assert first.ended == second.ended == [], "nobody but us ended them"
        await waits(link, f"{prefix}.again", 2)


async def a_rejected_message_comes_again_or_goes(broker: Broker, prefix: str) -> None:
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
        await waits(link, f"{prefix}.rejected", 0)


async def a_consumer_that_stops_may_give_back_and_acknowledge_what_it_has(broker: Broker, prefix: str) -> None:
    """Also while the broker has not heard of it yet, and though it closes right after."""
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
        await waits(link, queue.name, 0)
        await second.close()
        await waits(link, queue.name, 98)


async def prefetch_bounds_what_is_in_hand(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.prefetch")) as link:
        await publish(link, f"{prefix}.prefetch", *(b"%d" % number for number in range(10)))
        probe = await Probe().consume(link, f"{prefix}.prefetch", prefetch=3)
        await probe.get(3)
        await waits(link, f"{prefix}.prefetch", 7)
        assert len(probe.deliveries) == 3
        probe.deliveries[0].ack()
        await probe.get(4)
        await waits(link, f"{prefix}.prefetch", 6)


async def of_several_consumers_the_single_active_one_gets_everything(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.single", single_active=True)
    async with declared(broker, queue) as link, linked(broker) as other:
        active = await Probe().consume(link, queue.name)
        standby = await Probe().consume(other, queue.name)
        await publish(link, queue.name, b"1", b"2", b"3")
        (await active.get(3))[0].ack()
        assert standby.bodies == []
        await active.close()
        await standby.get(2)
        assert standby.bodies == [b"2", b"3"], "in order, without what was acknowledged"


async def a_link_that_ends_gives_its_messages_to_the_standby(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.heir", single_active=True)
    async with declared(broker, queue) as link:
        await publish(link, queue.name, b"1", b"2")
        first = await broker.connect(name="first", on_lost=lambda error: None, on_blocked=lambda reason: None)
        await (await Probe().consume(first, queue.name)).get(2)
        heir = await Probe().consume(link, queue.name)
        await first.close()
        await heir.get(2)
        assert heir.bodies == [b"1", b"2"]


async def nothing_is_consumed_from_a_queue_that_is_not_there(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        try:
            await Probe().consume(link, f"{prefix}.nothing")
        except ActorNotFound:
            pass
        else:
            raise AssertionError("consuming a queue that is not there raised nothing")
        await link.declare(Queue(f"{prefix}.now"))  # the link has not suffered
        assert await link.delete(f"{prefix}.now")


async def the_consumer_of_a_deleted_queue_is_told(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.deleted")) as link:
        probe = await Probe().consume(link, f"{prefix}.deleted")
        await link.delete(f"{prefix}.deleted")
        await until(lambda: len(probe.ended) == 1, "the end of the consumer")
        await probe.close()
        assert len(probe.ended) == 1


# ---- queues


async def declaring_again_changes_nothing_and_otherwise_is_refused(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.declared")) as link:
        await publish(link, f"{prefix}.declared", b"1")
        await link.declare(Queue(f"{prefix}.declared"))
        await waits(link, f"{prefix}.declared", 1)
        refused = ""
        try:
            await link.declare(Queue(f"{prefix}.declared", single_active=True))
        except ValueError as exc:
            refused = str(exc)
        assert f"{prefix}.declared" in refused, f"ValueError, and it names the queue; it says: {refused!r}"


async def a_queue_tells_its_state(broker: Broker, prefix: str) -> None:
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
        assert (state.messages, state.consumers) == (0, 1), "what is delivered does not wait any more"


async def a_queue_is_deleted_only_if_empty_where_that_is_asked(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.kept")) as link:
        await publish(link, f"{prefix}.kept", b"1")
        assert await link.delete(f"{prefix}.kept", only_if_empty=True) is False
        await waits(link, f"{prefix}.kept", 1)
        assert await link.delete(f"{prefix}.kept") is True
        assert await link.state(f"{prefix}.kept") is None
        assert await link.delete(f"{prefix}.kept", only_if_empty=True) is True, "it is not there"


async def an_unused_queue_expires(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.expiring", expires=0.5)):
        pass
    async with linked(broker) as link:
        await link.declare(Queue(f"{prefix}.expiring", expires=0.5))
        await publish(link, f"{prefix}.expiring", b"1")
        await asyncio.sleep(1.5)  # asking for its state would be a use
        assert await link.state(f"{prefix}.expiring") is None


async def an_expired_or_rejected_message_goes_to_the_dead_letter_queue(broker: Broker, prefix: str) -> None:
    dead, living = Queue(f"{prefix}.dead"), Queue(f"{prefix}.living", message_ttl=0.2, dead_letter_to=f"{prefix}.dead")
    async with declared(broker, dead) as link, declared(broker, living):
        await publish(link, living.name, b"expires")
        await waits(link, dead.name, 1)
        await publish(link, living.name, b"rejected")
        probe = await Probe().consume(link, living.name)
        for delivery in list(probe.deliveries):
            delivery.reject(requeue=False)
        await waits(link, dead.name, 2)


async def a_quorum_queue_keeps_the_same_promises(broker: Broker, prefix: str) -> None:
    queue = Queue(f"{prefix}.quorum", kind=QueueKind.QUORUM, single_active=True)
    async with declared(broker, queue) as link:
        assert await publish(link, queue.name, b"1", b"2", b"3") == [Outcome.STORED] * 3
        for _ in range(25):  # RabbitMQ 4 would drop a message after 20 redeliveries, unless told otherwise
            probe = await Probe().consume(link, queue.name)
            await probe.get(3)
            assert probe.bodies == [b"1", b"2", b"3"]
            await probe.close()


async def what_dies_in_a_quorum_queue_is_all_in_the_dead_letter_queue(broker: Broker, prefix: str) -> None:
    dead = Queue(f"{prefix}.letters", kind=QueueKind.QUORUM)
    living = Queue(f"{prefix}.mortal", kind=QueueKind.QUORUM, message_ttl=0.1, dead_letter_to=dead.name)
    async with declared(broker, dead) as link, declared(broker, living):
        bodies = [b"%d" % number for number in range(300)]
        assert await publish(link, living.name, *bodies) == [Outcome.STORED] * 300
        probe = await Probe().consume(link, dead.name, prefetch=0)
        await probe.get(300)
        assert sorted(probe.bodies, key=int) == bodies


async def a_stream_is_read_from_where_one_asks_and_keeps_what_was_read(broker: Broker, prefix: str) -> None:
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


# ---- administration


async def purge_drops_what_waits(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.purged")) as link:
        await publish(link, f"{prefix}.purged", b"1", b"2")
        assert await broker.purge(f"{prefix}.purged") == 2
        await waits(link, f"{prefix}.purged", 0)
    try:
        await broker.purge(f"{prefix}.none")
    except ActorNotFound:
        return
    raise AssertionError("purging a queue that is not there raised nothing")


async def peek_shows_the_oldest_of_a_stream_and_leaves_them(broker: Broker, prefix: str) -> None:
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


CONTRACT: tuple[Check, ...] = (
    a_message_comes_as_it_was_sent,
    publishes_are_confirmed_once_each_and_keep_their_order,
    a_message_for_no_queue_is_unroutable,
    a_full_queue_refuses,
    what_was_published_before_close_is_sent,
    a_broadcast_reaches_every_subscriber_once_and_in_order,
    a_broadcast_that_nobody_hears_is_stored_and_harms_nothing,
    a_broadcast_before_close_is_sent_and_one_after_it_is_lost,
    only_a_queue_that_is_there_is_subscribed,
    what_is_not_acknowledged_comes_again_in_order,
    a_rejected_message_comes_again_or_goes,
    a_consumer_that_stops_may_give_back_and_acknowledge_what_it_has,
    prefetch_bounds_what_is_in_hand,
    of_several_consumers_the_single_active_one_gets_everything,
    a_link_that_ends_gives_its_messages_to_the_standby,
    nothing_is_consumed_from_a_queue_that_is_not_there,
    the_consumer_of_a_deleted_queue_is_told,
    declaring_again_changes_nothing_and_otherwise_is_refused,
    a_queue_tells_its_state,
    a_queue_is_deleted_only_if_empty_where_that_is_asked,
    an_unused_queue_expires,
    an_expired_or_rejected_message_goes_to_the_dead_letter_queue,
    a_quorum_queue_keeps_the_same_promises,
    what_dies_in_a_quorum_queue_is_all_in_the_dead_letter_queue,
    a_stream_is_read_from_where_one_asks_and_keeps_what_was_read,
    purge_drops_what_waits,
    peek_shows_the_oldest_of_a_stream_and_leaves_them,
    *differences.CHECKS,
)
