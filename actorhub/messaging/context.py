"""What surrounds a call: its deadline, the chain of calls it is part of, and how its sends treat a full mailbox.

All of it lives in context variables, so it follows tasks and the threads of `def` methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol

from actorhub.broker import Queue
from actorhub.core.addressing import ActorAddress
from actorhub.wire.envelope import EnvelopeDraft, Hop


class PendingQuestion(Protocol):
    """A call that was made while another was handled."""

    awaited: bool
    on_awaited: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class DeferredTell:
    """A tell that leaves with a commit: its envelope's fields, but for the sender, and its payload. `keyed`: the class, where
    it is for an instance of a keyed one."""

    queue: str
    keyed: str
    draft: EnvelopeDraft
    payload: bytes

    @classmethod
    def to(cls, address: ActorAddress, draft: EnvelopeDraft, payload: bytes) -> DeferredTell:
        """A tell to the actor at this address."""
        return cls(address.queue, address.class_name if address.key is not None else "", draft, payload)


class Effects:
    """What a message to a durable actor does beside changing the state. `origin` is the same each time that the message is
    handled, should its worker die before the commit; `told` leaves with the commit, once `queues` are there."""

    __slots__ = ("_asks", "origin", "queues", "told")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.told: list[DeferredTell] = []
        self.queues: list[Queue] = []
        self._asks = 0

    def next_ask(self) -> str:
        """The id of the next question to another actor: a durable one answers a repeated question as it did before."""
        self._asks += 1
        return f"{self.origin}-{self._asks}"


class HandledCall:
    """A call that an actor handles now, with the calls it has made meanwhile that have no answer yet. `effects`: in a durable
    actor; None in another, and once it has been handled."""

    __slots__ = ("actor_id", "asked", "call_id", "effects")

    def __init__(self, actor_id: str, call_id: str, effects: Effects | None = None) -> None:
        self.actor_id = actor_id
        self.call_id = call_id
        self.asked: dict[str, PendingQuestion] = {}
        self.effects = effects


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call hands on to the calls that it makes. `deadline` is Unix time in seconds."""

    deadline: float | None = None
    chain: tuple[Hop, ...] = ()
    waits_when_full: bool = False
    handling: HandledCall | None = None


EMPTY_CONTEXT = CallContext()
call_context: ContextVar[CallContext] = ContextVar("actorhub_call_context", default=EMPTY_CONTEXT)


def effects() -> Effects | None:
    """Of the message that a durable actor handles now; None outside."""
    handling = call_context.get().handling
    return handling.effects if handling is not None else None


@contextmanager
def deadline(seconds: float) -> Generator[None]:
    """Bounds every call made inside, and the calls that those make, by one moment `seconds` from now.

    A deadline that is already in force and earlier stays in force. Calls that miss it raise CallTimeout.

    Raises:
        ValueError: `seconds` is negative or not a number.
    """
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"a deadline of {seconds} s makes no sense; give the seconds from now, 0 or more")
    outer = call_context.get()
    moment = time.time() + seconds
    if outer.deadline is not None:
        moment = min(moment, outer.deadline)
    token = call_context.set(replace(outer, deadline=moment))
    try:
        yield
    finally:
        call_context.reset(token)


@contextmanager
def backpressure() -> Generator[None]:
    """Inside, a send to a full mailbox waits for room instead of failing with MailboxFull."""
    outer = call_context.get()
    token = call_context.set(replace(outer, waits_when_full=True))
    try:
        yield
    finally:
        call_context.reset(token)
