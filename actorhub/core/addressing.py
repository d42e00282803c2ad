"""Names of queues.

A queue's name is its address on the broker:

    {prefix}.{namespace}.actor.{id}      a plain actor
    {prefix}.{namespace}.durable.{id}    a durable actor
    {prefix}.{namespace}.journal.{id}    effects that a durable actor has committed
    {prefix}.{namespace}.task.{queue}    a task queue
    {prefix}.{namespace}.task.{queue}.{digest}  the same, of tasks that require the same slots
    {prefix}.{namespace}.gathering.{id}  results that wait for the others of their fan-in
    {prefix}.{namespace}.dead            dead letters
    {prefix}.reply.{session}             replies to one hub or worker
    {prefix}.worker.{id}                 commands for one worker
    {prefix}.node.{id}                   commands for one node's agent
    {prefix}.objects.{owner}             requests for the objects of one node, or of one client
    {prefix}.control                     the control actor
    {prefix}.control.journal             state that control's successor restores
    {prefix}.delay.{k}                   messages that wait for 2**k seconds
    {prefix}.delay.due                   messages whose wait is over
    {prefix}.dead                        dead letters of services

An exchange, `{prefix}.tasks`, tells every agent and slot about single tasks.

Queue arguments cannot be changed later: a change of arguments takes a new name.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

_WORD = re.compile(r"[A-Za-z0-9_\-]{1,100}")
_MAILBOX = re.compile(r"\.(?:actor|durable)\.([^.]+)$")
SYSTEM = "$system"
"""Namespace of control, nodes, workers and object stores; no user's namespace can have this name."""
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(length: int = 12) -> str:
    """A random identifier of lower-case letters and digits, 62 bits of chance at its default length."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def check_name(what: str, value: str) -> str:
    """Return `value` if it can be part of a queue's name.

    Raises:
        ValueError: it is empty, longer than 100 characters or has other characters than letters, digits, `_`, `-`.
    """
    if not _WORD.fullmatch(value):
        raise ValueError(f"{what} {value!r} is not a valid name; use 1 to 100 letters, digits, '_' or '-'")
    return value


def actor_id_of(queue: str) -> str:
    """Id of the actor whose mailbox this queue is; empty if it is no mailbox."""
    found = _MAILBOX.search(queue)
    return found[1] if found is not None else ""


@dataclass(frozen=True, slots=True)
class QueueNames:
    """Names of one cluster's queues on its broker. `prefix` keeps clusters apart that share a virtual host."""

    prefix: str = "ah"

    def actor(self, namespace: str, actor_id: str) -> str:
        return f"{self.prefix}.{namespace}.actor.{actor_id}"

    def durable(self, namespace: str, actor_id: str) -> str:
        return f"{self.prefix}.{namespace}.durable.{actor_id}"

    def journal(self, namespace: str, actor_id: str) -> str:
        return f"{self.prefix}.{namespace}.journal.{actor_id}"

    def task(self, namespace: str, queue: str) -> str:
        return f"{self.prefix}.{namespace}.task.{queue}"

    def task_queue_label(self, queue: str) -> str:
        """Name of a task queue as its users know it."""
        return queue.removeprefix(self.task(self.namespace_of(queue), "")).partition(".")[0]

    def has_dedicated_slots(self, queue: str) -> bool:
        """True if it is a task queue with slots of its own, which control alone declares."""
        return self.is_task(queue) and "." in queue.removeprefix(self.task(self.namespace_of(queue), ""))

    def is_task(self, queue: str) -> bool:
        """True if it is the name of a task queue."""
        return queue.startswith(f"{self.prefix}.{self.namespace_of(queue)}.task.")

    def fan_in(self, namespace: str, id: str) -> str:
        return f"{self.prefix}.{namespace}.gathering.{id}"

    def namespace_of(self, queue: str) -> str:
        """Namespace of an actor's or a task queue."""
        return queue.removeprefix(f"{self.prefix}.").partition(".")[0]

    def dead(self, namespace: str) -> str:
        """Stream of a namespace's dead letters. `$` cannot stand in a queue's name, so services have a name without a
        namespace."""
        return f"{self.prefix}.dead" if namespace == SYSTEM else f"{self.prefix}.{namespace}.dead"

    def reply(self, session_id: str) -> str:
        return f"{self.prefix}.reply.{session_id}"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}.worker.{worker_id}"

    def node(self, node_id: str) -> str:
        return f"{self.prefix}.node.{node_id}"

    def objects(self, owner: str) -> str:
        return f"{self.prefix}.objects.{owner}"

    @property
    def tasks(self) -> str:
        return f"{self.prefix}.tasks"

    @property
    def control(self) -> str:
        return f"{self.prefix}.control"

    def delay(self, rung: int) -> str:
        return f"{self.prefix}.delay.{rung}"

    @property
    def due(self) -> str:
        return f"{self.prefix}.delay.due"

    @property
    def control_journal(self) -> str:
        return f"{self.prefix}.control.journal"


class ActorAddress(BaseModel):
    """Address of an actor: all that a handle needs to reach it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str
    actor_id: str
    namespace: str
    class_name: str
    name: str | None = None
    limited: bool = False
    """True if its mailbox refuses envelopes past a limit."""
    durable: bool = False
    """True if it keeps its effects in a journal."""
    key: str | None = None
    """Key of the instance among those that share the queue; None if the class is not keyed."""

    def of(self, key: str) -> ActorAddress:
        """Address of one instance of a keyed class; with an empty key, this address itself."""
        return self.model_copy(update={"key": key}) if key else self

    @property
    def is_system(self) -> bool:
        """True for control, nodes, workers and object stores; False for the actors of users."""
        return self.namespace == SYSTEM
