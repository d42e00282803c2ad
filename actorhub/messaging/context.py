"""Context of a call: its deadline, the chain of calls that it is part of, and whether its sends wait for a full
mailbox.

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
    """Call that was made while another was handled."""

    awaited: bool
    on_awaited: Callable[[], None] | None


@dataclass(frozen=True, slots=True)
class DeferredTell:
    """A tell that leaves with a commit."""

    queue: str
    keyed: str
    """Class of the instance it is for; empty if that is not an instance of a keyed class."""
    draft: EnvelopeDraft
    """Fields of its envelope, without the sender."""
    payload: bytes

    @classmethod
    def to(cls, address: ActorAddress, draft: EnvelopeDraft, payload: bytes) -> DeferredTell:
        """A tell to the actor at this address."""
        return cls(address.queue, address.class_name if address.key is not None else "", draft, payload)


class Effects:
    """Effects of a message to a durable actor, beside the change of its state.

    Args:
        origin: id of the message's handling; the same each time it is handled, should its worker die before the commit.
    """

    __slots__ = ("_asks", "origin", "queues", "told")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        # leave with the commit, once `queues` exist
        self.told: list[DeferredTell] = []
        self.queues: list[Queue] = []
        self._asks = 0

    def next_ask(self) -> str:
        """Id of the next call to another actor. A durable actor gives a repeated call the same reply as before."""
        self._asks += 1
        return f"{self.origin}-{self._asks}"


class HandledCall:
    """A call that an actor handles now, with the calls it has made meanwhile that have no reply yet.

    Args:
        actor_id: the actor that handles it.
        call_id: id of the call.
        effects: those of a durable actor; None in another one, and once the call has been handled.
    """

    __slots__ = ("actor_id", "asked", "call_id", "effects")

    def __init__(self, actor_id: str, call_id: str, effects: Effects | None = None) -> None:
        self.actor_id = actor_id
        self.call_id = call_id
        self.asked: dict[str, PendingQuestion] = {}
        self.effects = effects


@dataclass(frozen=True, slots=True)
class CallContext:
    """Context that a call hands on to the calls that it makes."""

    deadline: float | None = None
    """Unix time in seconds."""
    chain: tuple[Hop, ...] = ()
    waits_when_full: bool = False
    handling: HandledCall | None = None


EMPTY_CONTEXT = CallContext()
call_context: ContextVar[CallContext] = ContextVar("actorhub_call_context", default=EMPTY_CONTEXT)


def effects() -> Effects | None:
    """Effects of the message that a durable actor handles now; None outside of one."""
    handling = call_context.get().handling
    return handling.effects if handling is not None else None


@contextmanager
def deadline(seconds: float) -> Generator[None]:
    """Bound every call made inside, and the calls that those make, by one moment `seconds` from now.

    A deadline that is already in force and earlier stays in force. Calls that miss it raise CallTimeout.

    Raises:
        ValueError: `seconds` is negative or not a number.
    """
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"a deadline of {seconds} s is not valid; give the seconds from now, 0 or more")
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
    """Make a send to a full mailbox wait for room, inside the block, instead of failing with MailboxFull."""
    outer = call_context.get()
    token = call_context.set(replace(outer, waits_when_full=True))
    try:
        yield
    finally:
        call_context.reset(token)
