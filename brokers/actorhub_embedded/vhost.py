"""The virtual host: exchanges, queues, routing and dead-lettering. Pure; `now` is Unix time in seconds.

It knows no channels: its owner delivers messages and tells consumers that their queue was deleted.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pamqp.commands import Exchange as ExchangeMethods
from pamqp.commands import Queue as QueueMethods

from actorhub_embedded.declarations import check_equivalent, parse_arguments
from actorhub_embedded.errors import ChannelError, Code, not_supported
from actorhub_embedded.exchanges import KINDS, Exchange
from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, Queue
from actorhub_embedded.streams import Stream

DeadMessage = tuple[Queue, Message, str]
"""A queue, a message that died in it, and the reason."""


class VirtualHost:
    """All exchanges and queues of the broker.

    Args:
        rng: makes the names of queues that come without one.
        deliver: sends a queue's messages to its consumers; called with the queue and `now`.
        on_consumers_ended: called with the consumers of a queue that was deleted.
    """

    def __init__(
        self,
        rng: random.Random,
        deliver: Callable[[Queue, float], None],
        on_consumers_ended: Callable[[Sequence[Consumer]], None],
    ) -> None:
        self.memory = 0
        """Bytes of all messages, delivered and unacknowledged ones included."""
        self._rng = rng
        self._deliver = deliver
        self._on_consumers_ended = on_consumers_ended
        self._exchanges = {"": Exchange("", "direct")} | {
            f"amq.{kind}": Exchange(f"amq.{kind}", kind) for kind in KINDS
        }
        self._queues: dict[str, Queue] = {}
        self._changed: dict[Queue, None] = {}  # queues that may have something to deliver
        self._timed: dict[Queue, None] = {}  # queues in which something may expire
        self._dead: deque[DeadMessage] = deque()  # to be dead-lettered
        self._undelivered: list[DeadMessage] = []  # dead messages that no queue took, kept for another try

    # ---- progress

    def settle(self, now: float) -> None:
        """Deliver and dead-letter messages until there is nothing left to do."""
        while self._changed or self._dead:
            changed, self._changed = self._changed, {}
            for queue in changed:
                if self._exists(queue):
                    self._deliver(queue, now)
            for _ in range(len(self._dead)):
                self._dead_letter(*self._dead.popleft(), now)

    def tick(self, now: float) -> None:
        """Expire messages and queues, and try again to dead-letter what no queue took."""
        undelivered, self._undelivered = self._undelivered, []
        for dead in undelivered:
            self.memory -= dead[1].size
            if self._exists(dead[0]):
                self._dead.append(dead)
        for queue in list(self._timed):
            self._expire(queue, now)
            if queue.is_expired(now):
                self.remove(queue)
            elif not queue.is_timed:
                del self._timed[queue]

    def changed(self, queue: Queue) -> None:
        """Note that the queue got a message, or a consumer of it room for one."""
        self._changed[queue] = None

    def _exists(self, queue: Queue) -> bool:
        """False for a queue that was deleted, also if another one has its name now."""
        return self._queues.get(queue.name) is queue

    # ---- messages

    def publish(self, message: Message, now: float) -> tuple[bool, bool]:
        """Route a message; returns whether it reached any queue, and whether all of them stored it.

        Raises:
            ChannelError: there is no such exchange, or it is internal.
        """
        exchange = self._exchange(message.exchange)
        if exchange.internal:
            raise ChannelError(Code.ACCESS_REFUSED, f"cannot publish to internal exchange '{exchange.name}'")
        targets = self._route(exchange, message.routing_key)
        stored = [self._store(queue, message, now) for queue in targets]
        return bool(targets), all(stored)

    def take_deliverable(self, queue: Queue, now: float) -> Iterator[tuple[Consumer, Entry]]:
        """The queue's messages for consumers that have room. One for a `no_ack` consumer leaves the queue for good."""
        self._expire(queue, now)
        for consumer, entry in queue.take_deliverable():
            if consumer.no_ack:
                self.discard(queue, entry)
            yield consumer, entry
        if queue.is_timed:
            self._timed[queue] = None

    def get(self, queue: Queue, now: float) -> Entry | None:
        """Take the oldest message, for `basic.get`; None if the queue is empty."""
        queue.touch(now)
        self._deliver(queue, now)
        return queue.pop()

    def discard(self, queue: Queue, entry: Entry) -> None:
        """Forget a message that was taken from the queue: it was acknowledged, or died."""
        if self._exists(queue):
            before = queue.size
            queue.discard(entry)
            self.memory += queue.size - before

    def reject(self, queue: Queue, entry: Entry) -> None:
        """Dead-letter a message that a consumer rejected without `requeue`."""
        self._die(queue, entry, "rejected")

    def requeue(self, taken: Sequence[tuple[Queue, Entry]], *, rejected: bool = False) -> None:
        """Return messages to their queues, in order.

        Args:
            taken: the messages in the order of delivery, each with its queue.
            rejected: True if a consumer rejected them, False if their consumer or channel ended.
        """
        # those that return to their old places go from the last to the first: each is then put at the front, which is quick
        for queue, entry in reversed(taken):
            if not (rejected and queue.rejected_go_last):
                self._requeue(queue, entry, last=False)
        for queue, entry in taken:
            if rejected and queue.rejected_go_last:
                self._requeue(queue, entry, last=True)

    def _requeue(self, queue: Queue, entry: Entry, *, last: bool) -> None:
        if not self._exists(queue):
            return
        entry.deliveries += 1
        if queue.exceeds_delivery_limit(entry):
            self._die(queue, entry, "delivery_limit")
        else:
            queue.requeue(entry, last=last)
        self.changed(queue)

    def _route(self, exchange: Exchange, key: str) -> list[Queue]:
        if not exchange.name:
            found = self._queues.get(key)
            return [] if found is None else [found]
        return [self._queues[name] for name in exchange.route(key)]

    def _store(self, queue: Queue, message: Message, now: float) -> bool:
        """Add a message to a queue; False if the queue is full and refuses it."""
        arguments = queue.arguments
        if arguments.is_limited:
            self._deliver(queue, now)
            if arguments.overflow != "drop-head" and queue.is_full():
                if arguments.overflow == "reject-publish-dlx":
                    self._dead.append((queue, message, "maxlen"))
                return False
        before = queue.size
        queue.push(message, now)
        self.memory += queue.size - before
        while queue.is_overfull() and (dropped := queue.pop()) is not None:
            self._die(queue, dropped, "maxlen")
        self.changed(queue)
        return True

    def _expire(self, queue: Queue, now: float) -> None:
        for entry in queue.pop_expired(now):
            self._die(queue, entry, "expired")

    def _die(self, queue: Queue, entry: Entry, reason: str) -> None:
        self.discard(queue, entry)
        if queue.arguments.dead_letter_exchange is not None:
            self._dead.append((queue, entry.message, reason))

    def _dead_letter(self, queue: Queue, message: Message, reason: str, now: float) -> None:
        """Publish a dead message to its queue's dead-letter exchange. If no queue takes it, a queue that keeps its dead
        letters tries again at the next tick."""
        if not self._publish_dead(queue, message, reason, now) and queue.arguments.keeps_dead_letters:
            self._undelivered.append((queue, message, reason))
            self.memory += message.size

    def _publish_dead(self, queue: Queue, message: Message, reason: str, now: float) -> bool:
        """True if the message reached at least one queue and all of them stored it."""
        arguments = queue.arguments
        exchange = self._exchanges.get(arguments.dead_letter_exchange or "")
        if exchange is None:
            return False
        dead = message.dead(queue.name, reason, now, exchange.name, arguments.dead_letter_routing_key)
        targets = self._route(exchange, dead.routing_key)
        stored = [dead.in_cycle(target.name) or self._store(target, dead, now) for target in targets]
        return bool(targets) and all(stored)

    # ---- queues

    def queue(self, name: str, connection: int) -> Queue:
        """The queue of this name.

        Raises:
            ChannelError: there is no such queue, or it is exclusive to another connection.
        """
        queue = self._queues.get(name)
        if queue is None:
            raise ChannelError(Code.NOT_FOUND, f"no queue '{name}' in vhost '/'")
        if queue.exclusive_to not in (None, connection):
            text = f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'"
            raise ChannelError(Code.RESOURCE_LOCKED, text)
        return queue

    def exclusive_to(self, connection: int) -> list[Queue]:
        return [queue for queue in self._queues.values() if queue.exclusive_to == connection]

    def declare_queue(self, method: QueueMethods.Declare, connection: int, now: float) -> Queue:
        if method.passive or method.queue in self._queues:
            queue = self.queue(method.queue, connection)
            if not method.passive:
                check_equivalent(queue, method)
            queue.touch(now)
        else:
            queue = self._make(method, connection, now)
        self._deliver(queue, now)
        return queue

    def _make(self, method: QueueMethods.Declare, connection: int, now: float) -> Queue:
        name = method.queue or f"amq.gen-{self._rng.getrandbits(128):032x}"
        if method.queue.startswith("amq."):
            raise ChannelError(Code.ACCESS_REFUSED, f"queue name '{name}' contains reserved prefix 'amq.*'")
        arguments = parse_arguments(method)
        if arguments.kind != "classic" and (method.exclusive or method.auto_delete or not method.durable):
            text = f"a {arguments.kind} queue is durable, not exclusive and not deleted by itself"
            raise ChannelError(Code.PRECONDITION_FAILED, text)
        if arguments.kind == "stream":
            queue: Queue = Stream(name, arguments, now=now)
        else:
            queue = Queue(
                name,
                arguments,
                durable=method.durable,
                auto_delete=method.auto_delete,
                exclusive_to=connection if method.exclusive else None,
                now=now,
            )
        self._queues[name] = queue
        return queue

    def delete_queue(self, method: QueueMethods.Delete, name: str, connection: int, now: float) -> int:
        """Delete a queue; returns how many messages it had, 0 if there was no such queue."""
        if name not in self._queues:
            return 0
        queue = self.queue(name, connection)
        if method.if_empty and queue.arguments.kind != "classic":  # nor does RabbitMQ
            raise not_supported(f"queue.delete with if-empty of a {queue.arguments.kind} queue")
        self._deliver(queue, now)
        if method.if_unused and queue.consumers:
            raise ChannelError(Code.PRECONDITION_FAILED, f"queue '{name}' in vhost '/' in use")
        if method.if_empty and len(queue):
            raise ChannelError(Code.PRECONDITION_FAILED, f"queue '{name}' in vhost '/' not empty")
        count = len(queue)
        self.remove(queue)
        return count

    def remove(self, queue: Queue) -> None:
        """Remove a queue and its bindings, and end its consumers. What they have not acknowledged is lost."""
        if not self._exists(queue):
            return
        del self._queues[queue.name]
        self._changed.pop(queue, None)
        self._timed.pop(queue, None)
        self.memory -= queue.size
        for exchange in list(self._exchanges.values()):
            exchange.remove_queue(queue.name)
            self._remove_if_unbound(exchange)
        consumers, queue.consumers = queue.consumers, []
        self._on_consumers_ended(consumers)

    def purge(self, queue: Queue) -> int:
        before = queue.size
        count = queue.purge()
        self.memory += queue.size - before
        return count

    def add_consumer(self, queue: Queue, consumer: Consumer) -> None:
        queue.add(consumer)
        self.changed(queue)

    def remove_consumer(self, consumer: Consumer, now: float) -> None:
        queue = self._queues.get(consumer.queue)
        if queue is None or consumer not in queue.consumers:
            return
        queue.remove(consumer, now)
        self.changed(queue)
        if queue.auto_delete and not queue.consumers:
            self.remove(queue)

    # ---- exchanges

    def _exchange(self, name: str) -> Exchange:
        found = self._exchanges.get(name)
        if found is None:
            raise ChannelError(Code.NOT_FOUND, f"no exchange '{name}' in vhost '/'")
        return found

    def declare_exchange(self, method: ExchangeMethods.Declare) -> None:
        name, kind = method.exchange, method.exchange_type
        if method.passive:
            self._exchange(name)
            return
        if method.arguments or kind not in KINDS:
            raise not_supported(", ".join(method.arguments) if method.arguments else f"exchanges of type '{kind}'")
        found = self._exchanges.get(name)
        if found is not None:
            if not found.has_properties(kind, method.durable, method.auto_delete, method.internal):
                text = f"inequivalent arg for exchange '{name}' in vhost '/': it is a {found.kind} one"
                raise ChannelError(Code.PRECONDITION_FAILED, text)
        elif name.startswith("amq.") or not name:
            raise ChannelError(Code.ACCESS_REFUSED, f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self._exchanges[name] = Exchange(
                name, kind, durable=method.durable, auto_delete=method.auto_delete, internal=method.internal
            )

    def delete_exchange(self, method: ExchangeMethods.Delete) -> None:
        name = method.exchange
        if not name or name.startswith("amq."):
            raise ChannelError(Code.ACCESS_REFUSED, f"exchange '{name}' in vhost '/' may not be deleted")
        found = self._exchanges.get(name)
        if found is not None and method.if_unused and found.bindings:
            raise ChannelError(Code.PRECONDITION_FAILED, f"exchange '{name}' in vhost '/' in use")
        self._exchanges.pop(name, None)

    def bind(self, queue: Queue, method: QueueMethods.Bind) -> None:
        if method.arguments:
            raise not_supported(f"{', '.join(method.arguments)} of a binding")
        self._bound(method.exchange).bind(queue.name, method.routing_key)

    def unbind(self, queue: Queue, method: QueueMethods.Unbind) -> None:
        exchange = self._bound(method.exchange)
        exchange.unbind(queue.name, method.routing_key)
        self._remove_if_unbound(exchange)

    def _bound(self, name: str) -> Exchange:
        if not name:
            raise ChannelError(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
        return self._exchange(name)

    def _remove_if_unbound(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings:
            self._exchanges.pop(exchange.name, None)
