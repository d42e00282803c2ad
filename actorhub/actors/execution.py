"""Execution context of running code; `ref`, an actor's own handle; and `step`, idempotent external calls of durable
actors.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from actorhub.actors.handle import Handle, spec_behind
from actorhub.errors import ActorHubError
from actorhub.messaging.context import effects
from actorhub.messaging.session import Session

A = TypeVar("A")

YieldTurn = Callable[[Future[Any]], AbstractContextManager[None]]
"""Context manager that a thread enters while it blocks on the future; another thread runs meanwhile."""

R = TypeVar("R")


@dataclass(frozen=True)
class ExecutionContext:
    """Execution context of running code: its actor, session and namespace."""

    handle: Handle | None
    """Handle of the actor whose method runs; None in a task."""
    session: Session
    namespace: str
    yield_turn: YieldTurn | None = None
    """Entered by a `def` task while it blocks, so that another task runs meanwhile; None elsewhere."""


current_execution: ContextVar[ExecutionContext | None] = ContextVar("actorhub_execution", default=None)


def ref(self: A) -> A:
    """Handle of the actor itself, inside its methods: `await other.subscribe(ref(self))`.

    Raises:
        ActorHubError: called outside an actor, or with an object other than its `self`.
    """
    here = current_execution.get()
    if here is None or here.handle is None or not isinstance(self, spec_behind(here.handle).cls):
        raise ActorHubError(
            f"ref({type(self).__qualname__} object) works inside the methods of that actor, with its self"
        )
    return cast("A", here.handle)


@overload
async def step(key: str, function: Callable[[str], Awaitable[R]], /) -> R: ...
@overload
async def step(key: str, function: Callable[[str], R], /) -> R: ...
async def step(key: str, function: Callable[[str], object], /) -> object:
    """Call `function` with an idempotency key, and return what it returns:

        await step("charge", lambda key: stripe.charge(amount, idempotency_key=key))

    If the worker dies before the commit, the message is handled again and the function called again with the same key;
    after the commit, never again. `key` distinguishes the steps of one method.

    Raises:
        ActorHubError: called outside a method of a durable actor.
    """
    around = effects()
    if around is None:
        raise ActorHubError("step() works in the methods of durable actors; elsewhere call the function itself")
    result = function(f"{around.origin}:{key}")
    return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result
