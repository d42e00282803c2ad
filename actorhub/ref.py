"""Where the running code lives, and `ref`: an actor's own handle."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from actorhub.errors import ActorHubError
from actorhub.handle import Handle, spec_behind
from actorhub.session import Session

A = TypeVar("A")

Lend = Callable[[Future[Any]], AbstractContextManager[None]]
"""Entered around a wait: meanwhile others have the waiting thread's turn."""


@dataclass(frozen=True)
class Residence:
    """Where the running code lives: in which actor or task, with which session."""

    handle: Handle | None
    """Of the actor whose method runs; None in a task."""
    session: Session
    namespace: str
    lend: Lend | None = None
    """Of a `def` task: entered while it waits."""


residence: ContextVar[Residence | None] = ContextVar("actorhub_residence", default=None)


def ref(self: A) -> A:
    """An actor's own handle, inside its methods: `await other.subscribe(ref(self))`.

    Raises:
        ActorHubError: called outside an actor, or with another object than its `self`.
    """
    here = residence.get()
    if here is None or here.handle is None or not isinstance(self, spec_behind(here.handle).cls):
        raise ActorHubError(
            f"ref({type(self).__qualname__} object) works inside the methods of that actor, with its self"
        )
    return cast("A", here.handle)
