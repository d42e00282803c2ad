"""Queues of a cluster, with the arguments that they are declared with.

A broker refuses to declare a queue again with other arguments. So every process declares a queue alike, and no argument
can be changed later: a change takes a new name. The one exchange, `QueueNames.tasks`, is a durable fanout; the adapter
declares it for each link that subscribes to it or sends to it.
"""

from __future__ import annotations

from actorhub.broker import Queue, QueueKind
from actorhub.core.addressing import QueueNames

DEAD_LETTER_BYTES = 1024**3
"""Size of a dead-letter stream; the oldest dead letters go first."""


def reply_queue(name: str, expires: float) -> Queue:
    """Replies to one session.

    Classic: an actor replies again when its caller sends the call again, and replies of tasks are persistent. It
    expires after `expires` seconds without its consumer: later than a lost connection is replaced, and soon after its
    process was killed.
    """
    return Queue(name, expires=expires)


def service_queue(name: str, expires: float) -> Queue:
    """Commands to a service of one process.

    Classic, since a service does not outlive its process. A new connection may consume before the broker has noticed
    the end of the old one: the single active consumer keeps commands in order. It expires after `expires` seconds
    without a consumer; then clients get ActorNotFound.
    """
    return Queue(name, single_active=True, expires=expires)


def actor_mailbox(name: str, limit: int | None) -> Queue:
    """Messages to one plain actor.

    Classic, since the actor's state is in one place, too. Where a worker was replaced too early, the single active
    consumer keeps the two instances apart. At `limit` messages the broker refuses more.
    """
    return Queue(name, single_active=True, limit=limit)


def durable_inbox(name: str, limit: int | None = None) -> Queue:
    """Messages to one durable actor, to one shard of a keyed class, or to control.

    Quorum, since a message stays here until the journal has its effects. The single active consumer gives messages to
    one owner at a time; if two processes take themselves for the owner, the journal decides. At `limit` messages the
    broker refuses more.
    """
    return Queue(name, QueueKind.QUORUM, single_active=True, limit=limit)


def journal_stream(name: str, retention: int) -> Queue:
    """Journal of one durable inbox.

    A stream, since every new owner reads it from the beginning, and removes nothing. Past `retention` bytes the broker
    drops whole segments from the front; before that, owners write again all that must last.
    """
    return Queue(name, QueueKind.STREAM, retention=retention)


def task_queue(name: str) -> Queue:
    """Tasks that wait for a slot.

    Quorum, since a client does not send a confirmed task again. Slots compete, so there is no single active consumer.
    Priorities need no argument. Control, clients and slots all declare it.
    """
    return Queue(name, QueueKind.QUORUM)


def fan_in_queue(name: str) -> Queue:
    """Results of the tasks of one fan-in, until the last one is there.

    Quorum, since an acknowledged task does not run again. Several tasks may find the results complete at the same
    moment: the single active consumer lets one of them read all.
    """
    return Queue(name, QueueKind.QUORUM, single_active=True)


def dead_letter_stream(name: str) -> Queue:
    """Dead letters of one namespace.

    A stream, since they are listed and replayed without being removed. Control makes it for each namespace: RabbitMQ
    3.10 closes the connections of processes that declare one stream at the same moment.
    """
    return Queue(name, QueueKind.STREAM, retention=DEAD_LETTER_BYTES)


def delay_rung(names: QueueNames, rung: int) -> Queue:
    """Messages that wait for 2**`rung` seconds.

    All messages of a rung live equally long, since a broker expires only the first of a queue. Quorum, since only such
    a queue keeps an expired message until the queue of due messages has it.
    """
    return Queue(names.delay(rung), QueueKind.QUORUM, message_ttl=2.0**rung, dead_letter_to=names.due)


def due_queue(names: QueueNames) -> Queue:
    """Messages whose delay, or a part of it, is over.

    Quorum, as the rungs are. Every node consumes it; the single active consumer lets one of them forward.
    """
    return Queue(names.due, QueueKind.QUORUM, single_active=True)
