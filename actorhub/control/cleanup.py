"""Who is dead and not buried yet, and which worker is to bury whom. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Dead(Protocol):
    """`cleaner`: the worker that buries it."""

    cleaner: str | None

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Dead)


class CleanupQueue(Generic[T]):
    """Each of the dead is given to one worker, and to another if that one dies."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._given: dict[str, T] = {}

    def add(self, dead: T) -> None:
        """Where its cleaner is known, that one buries it."""
        if dead.cleaner is None:
            self._waiting.append(dead)
        else:
            self._given[dead.id] = dead

    @property
    def any_waits(self) -> bool:
        """For somebody to bury it."""
        return bool(self._waiting)

    def give(self, workers: Sequence[str]) -> list[T]:
        """All that wait, each with a cleaner: the workers in turn. None where there is no worker."""
        given = []
        while workers and self._waiting:
            dead = self._waiting.popleft()
            dead.cleaner = workers[len(self._given) % len(workers)]
            self._given[dead.id] = dead
            given.append(dead)
        return given

    def done(self, id_: str) -> T | None:
        """It is buried, whoever did it. None where it was before."""
        given = self._given.pop(id_, None)
        if given is not None:
            return given
        for dead in self._waiting:
            if dead.id == id_:
                self._waiting.remove(dead)
                return dead
        return None

    def take_back(self, worker: str) -> list[T]:
        """The worker is gone. Returns those whom it should have buried."""
        left = [dead for dead in self._given.values() if dead.cleaner == worker]
        for dead in left:
            del self._given[dead.id]
            dead.cleaner = None
            self._waiting.append(dead)
        return left
