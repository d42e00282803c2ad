"""The virtual host: exchanges, queues, and the ways that messages take between them. Pure; `now` is seconds.

It knows nothing of channels. Whoever does is called to `deliver` a queue's messages, and to tell the consumers of a queue
that is `gone`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pamqp.commands import Exchange as ExchangeMethods
from pamqp.commands import Queue as QueueMethods
from pydantic import ValidationError

from actorhub_embedded.errors import ChannelError, Code, not_supported
from actorhub_embedded.exchanges import KINDS, Exchange
from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, Queue, QueueArguments
from actorhub_embedded.streams import Stream

Taken = tuple[Queue, Entry]
"""A message that is in somebody's hands, and the queue that it is from."""

Letter = tuple[Queue, Message, str]
"""A dead one: its queue, the message, and why it died."""


class VirtualHost:
    """`memory` is the bytes of all messages, those in consumers' hands among them."""

    def __init__(
        self, chance: random.Random, deliver: Callable[[Queue, float], None], gone: Callable[[Sequence[Consumer]], None]
    ) -> None:
        self.memory = 0
        self._chance = chance
        self._deliver = deliver
        self._gone = gone
        self._exchanges = {"": Exchange("", "direct")} | {
            f"amq.{kind}": Exchange(f"amq.{kind}", kind) for kind in KINDS
        }
        self._queues: dict[str, Queue] = {}
        self._changed: dict[Queue, None] = {}  # with something to deliver, perhaps
        self._timed: dict[Queue, None] = {}  # that time alone can change
        self._dead: deque[Letter] = deque()  # on their way
        self._untaken: list[Letter] = []  # that nobody takes for now, of queues that keep them

    # ---- what goes on by itself

    def settle(self, now: float) -> None:
        """Deliver what can be delivered, and dead-letter what is to be, until nothing is left to do."""
        while self._changed or self._dead:
            changed, self._changed = self._changed, {}
            for queue in changed:
                if self._is_there(queue):
                    self._deliver(queue, now)
            for _ in range(len(self._dead)):
                self._bury(*self._dead.popleft(), now)

    def tick(self, now: float) -> None:
        """Time has passed: messages and queues expire, and letters that nobody took are tried again."""
        untaken, self._untaken = self._untaken, []
        for letter in untaken:
            self.memory -= letter[1].size
            if self._is_there(letter[0]):
                self._dead.append(letter)
        for queue in list(self._timed):
            self._expire(queue, now)
            if queue.is_expired(now):
                self.drop(queue)
            elif not queue.is_timed:
                del self._timed[queue]

    def changed(self, queue: Queue) -> None:
        """Something was added, given back, or made room for."""
        self._changed[queue] = None

    def _is_there(self, queue: Queue) -> bool:
        return self._queues.get(queue.name) is queue

    # ---- messages

    def publish(self, message: Message, now: float) -> tuple[bool, bool]:
        """Whether any queue was there for it, and whether all of them have taken it.

        Raises:
            ChannelError: there is no such exchange, or it is internal.
        """
        exchange = self._exchange(message.exchange)
        if exchange.internal:
            raise ChannelError(Code.ACCESS_REFUSED, f"cannot publish to internal exchange '{exchange.name}'")
        targets = self._route(exchange, message.routing_key)
        stored = [self._store(queue, message, now) for queue in targets]
        return bool(targets), all(stored)

    def hand_out(self, queue: Queue, now: float) -> Iterator[tuple[Consumer, Entry]]:
        """What the queue has for consumers with room. An entry for one that does not acknowledge is no longer held."""
        self._expire(queue, now)
        for consumer, entry in queue.deliver():
            if consumer.no_ack:
                self.done(queue, entry)
            yield consumer, entry
        if queue.is_timed:
            self._timed[queue] = None

    def get(self, queue: Queue, now: float) -> Entry | None:
        """The oldest message, for `basic.get`; it is held until `done`."""
        queue.touch(now)
        self._deliver(queue, now)
        return queue.pop()

    def done(self, queue: Queue, entry: Entry) -> None:
        """It was acknowledged, or dropped."""
        if self._is_there(queue):
            before = queue.size
            queue.done(entry)
            self.memory += queue.size - before

    def reject(self, queue: Queue, entry: Entry) -> None:
        """It was refused for good."""
        self._die(queue, entry, "rejected")

    def give_back(self, taken: Sequence[Taken], *, refused: bool = False) -> None:
        """They were not acknowledged: their consumer is gone, or has `refused` them. Their order is kept: those that take
        their old places are put there from the last to the first, which is quick."""
        for queue, entry in reversed(taken):
            if not (refused and queue.refused_go_last):
                self._give_back(queue, entry, last=False)
        for queue, entry in taken:
            if refused and queue.refused_go_last:
                self._give_back(queue, entry, last=True)

    def _give_back(self, queue: Queue, entry: Entry, *, last: bool) -> None:
        if not self._is_there(queue):
            return
        entry.deliveries += 1
        if queue.is_spent(entry):
            self._die(queue, entry, "delivery_limit")
        else:
            queue.give_back(entry, last=last)
        self.changed(queue)

    def _route(self, exchange: Exchange, key: str) -> list[Queue]:
        if not exchange.name:
            found = self._queues.get(key)
            return [] if found is None else [found]
        return [self._queues[name] for name in exchange.route(key)]

    def _store(self, queue: Queue, message: Message, now: float) -> bool:
        """False where the queue refuses it."""
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
        self.done(queue, entry)
        if queue.arguments.dead_letter_exchange is not None:
            self._dead.append((queue, entry.message, reason))

    def _bury(self, queue: Queue, message: Message, reason: str, now: float) -> None:
        """Bring a dead letter to where its queue sends them. A queue that keeps its letters tries again until it is taken."""
        if not self._post(queue, message, reason, now) and queue.arguments.keeps_letters:
            self._untaken.append((queue, message, reason))
            self.memory += message.size

    def _post(self, queue: Queue, message: Message, reason: str, now: float) -> bool:
        """Whether there was any queue for it, and all of them have taken it."""
        arguments = queue.arguments
        exchange = self._exchanges.get(arguments.dead_letter_exchange or "")
        if exchange is None:
            return False
        dead = message.dead(queue.name, reason, now, exchange.name, arguments.dead_letter_routing_key)
        targets = self._route(exchange, dead.routing_key)
        stored = [dead.died_in(target.name) or self._store(target, dead, now) for target in targets]
        return bool(targets) and all(stored)

    # ---- queues

    def queue(self, name: str, connection: int) -> Queue:
        """Raises:
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
                _check_same(queue, method)
            queue.touch(now)
        else:
            queue = self._make(method, connection, now)
        self._deliver(queue, now)
        return queue

    def _make(self, method: QueueMethods.Declare, connection: int, now: float) -> Queue:
        name = method.queue or f"amq.gen-{self._chance.getrandbits(128):032x}"
        if method.queue.startswith("amq."):
            raise ChannelError(Code.ACCESS_REFUSED, f"queue name '{name}' contains reserved prefix 'amq.*'")
        arguments = _arguments(method)
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
        """How many messages were in it; 0 where it was not there."""
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
        self.drop(queue)
        return count

    def drop(self, queue: Queue) -> None:
        """Its consumers are told; what they hold counts for nothing any more."""
        if not self._is_there(queue):
            return
        del self._queues[queue.name]
        self._changed.pop(queue, None)
        self._timed.pop(queue, None)
        self.memory -= queue.size
        for exchange in list(self._exchanges.values()):
            exchange.forget(queue.name)
            self._drop_if_unbound(exchange)
        consumers, queue.consumers = queue.consumers, []
        self._gone(consumers)

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
            self.drop(queue)

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
            if not found.is_like(kind, method.durable, method.auto_delete, method.internal):
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
        self._drop_if_unbound(exchange)

    def _bound(self, name: str) -> Exchange:
        if not name:
            raise ChannelError(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
        return self._exchange(name)

    def _drop_if_unbound(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings:
            self._exchanges.pop(exchange.name, None)


def _arguments(method: QueueMethods.Declare) -> QueueArguments:
    try:
        arguments = QueueArguments.model_validate(dict(method.arguments or {}))
    except ValidationError as exc:
        unknown = [str(error["loc"][0]) for error in exc.errors() if error["type"] == "extra_forbidden"]
        if unknown:
            raise not_supported(", ".join(unknown)) from exc
        first = exc.errors()[0]
        text = f"invalid arg '{first['loc'][0]}' for queue '{method.queue}': {first['msg']}"
        raise ChannelError(Code.PRECONDITION_FAILED, text) from exc
    if arguments.dead_letter_routing_key is not None and arguments.dead_letter_exchange is None:
        text = "routing_key_without_exchange: x-dead-letter-routing-key needs x-dead-letter-exchange"
        raise ChannelError(Code.PRECONDITION_FAILED, text)
    return arguments


def _check_same(queue: Queue, method: QueueMethods.Declare) -> None:
    given: dict[str, Any] = queue.arguments.model_dump(by_alias=True) | {
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": queue.exclusive_to is not None,
    }
    wanted: dict[str, Any] = _arguments(method).model_dump(by_alias=True) | {
        "durable": method.durable,
        "auto_delete": method.auto_delete,
        "exclusive": method.exclusive,
    }
    for name, value in wanted.items():
        if value != given[name]:
            text = f"inequivalent arg '{name}' for queue '{queue.name}' in vhost '/'"
            text += f": received {value!r} but current is {given[name]!r}"
            raise ChannelError(Code.PRECONDITION_FAILED, text)
