"""Calls to the outside world from the methods of durable actors."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

from actorhub.context import effects
from actorhub.errors import ActorHubError

R = TypeVar("R")


@overload
async def step(key: str, function: Callable[[str], Awaitable[R]], /) -> R: ...
@overload
async def step(key: str, function: Callable[[str], R], /) -> R: ...
async def step(key: str, function: Callable[[str], object], /) -> object:
    """Call `function` with an idempotency key, and return what it returns:

        await step("charge", lambda key: stripe.charge(amount, idempotency_key=key))

    Should the worker die before the commit, the message is handled again, and the function called again, with the same key;
    once the commit counts, never more. `key` tells the steps of one method apart.

    Raises:
        ActorHubError: called outside a method of a durable actor.
    """
    around = effects()
    if around is None:
        raise ActorHubError("step() works in the methods of durable actors; elsewhere call the function itself")
    result = function(f"{around.origin}:{key}")
    return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result
