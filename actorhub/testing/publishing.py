"""Contract checks of publishing: confirms, refusals, order, broadcasts."""

from __future__ import annotations

from actorhub.broker import Broker, Message, Outcome, Queue
from actorhub.errors import ActorNotFound
from actorhub.testing.probe import Probe, broadcast, declared, linked, publish, until, until_depth


async def a_message_arrives_as_it_was_sent(broker: Broker, prefix: str) -> None:
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
        await until(lambda: outcomes == [Outcome.STORED], f"one confirm; outcomes: {outcomes}")


async def each_publish_is_confirmed_once_and_messages_keep_their_order(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.order")) as link:
        bodies = [b"%d" % number for number in range(2000)]
        assert await publish(link, f"{prefix}.order", *bodies) == [Outcome.STORED] * 2000
        probe = await Probe().consume(link, f"{prefix}.order", prefetch=0)
        await probe.get(2000)
        assert probe.bodies == bodies


async def a_message_for_a_missing_queue_is_unroutable(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        assert await publish(link, f"{prefix}.nowhere", b"1", b"2") == [Outcome.UNROUTABLE] * 2


async def a_full_queue_refuses_messages(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.full", limit=2)) as link:
        outcomes = [(await publish(link, f"{prefix}.full", b"%d" % number))[0] for number in range(4)]
        assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.REFUSED, Outcome.REFUSED], outcomes


async def messages_published_before_close_are_sent(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.closing")) as reader:
        outcomes: list[Outcome] = []
        writer = await broker.connect(name="writer", on_lost=lambda error: None, on_blocked=lambda reason: None)
        for number in range(100):
            writer.publish(f"{prefix}.closing", Message(b"%d" % number), outcomes.append)
        await writer.close()
        assert len(outcomes) == 100, "each publish has an outcome when its link was closed"
        await until_depth(reader, f"{prefix}.closing", 100)
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
            await until_depth(link, queue, 0)


async def a_broadcast_without_subscribers_is_stored_and_the_link_stays_usable(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.later")) as link:
        assert await broadcast(link, f"{prefix}.unheard", b"1", b"2") == [Outcome.STORED] * 2
        assert await publish(link, f"{prefix}.later", b"3") == [Outcome.STORED], "the link stays usable"
        await link.subscribe(f"{prefix}.later", f"{prefix}.unheard")
        assert await broadcast(link, f"{prefix}.unheard", b"4") == [Outcome.STORED]
        probe = await Probe().consume(link, f"{prefix}.later")
        await probe.get(2)
        assert probe.bodies == [b"3", b"4"], "only messages from the subscription on"


async def a_broadcast_before_close_is_sent_and_one_after_it_is_lost(broker: Broker, prefix: str) -> None:
    async with declared(broker, Queue(f"{prefix}.heard")) as reader:
        await reader.subscribe(f"{prefix}.heard", f"{prefix}.closing")
        outcomes: list[Outcome] = []
        writer = await broker.connect(name="writer", on_lost=lambda error: None, on_blocked=lambda reason: None)
        for number in range(10):
            writer.broadcast(f"{prefix}.closing", Message(b"%d" % number), outcomes.append)
        await writer.close()
        assert len(outcomes) == 10, "each broadcast has an outcome when its link was closed"
        await until_depth(reader, f"{prefix}.heard", 10)
        writer.broadcast(f"{prefix}.closing", Message(b"late"), outcomes.append)
        await until(lambda: outcomes[10:] == [Outcome.LOST], "a broadcast on a closed link is LOST")


async def subscribing_a_missing_queue_raises_actor_not_found(broker: Broker, prefix: str) -> None:
    async with linked(broker) as link:
        try:
            await link.subscribe(f"{prefix}.nothing", f"{prefix}.all")
        except ActorNotFound:
            return
        raise AssertionError("subscribing a missing queue raised nothing")
