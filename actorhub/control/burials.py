"""Who is dead and not buried yet, and which worker is to bury whom. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from actorhub.control.directory import Actor
from actorhub.control.messages import BuryActor


class Burials:
    """Each of the dead is given to one worker, and to another if that one dies."""

    def __init__(self) -> None:
        self._waiting: deque[Actor] = deque()
        self._given: dict[str, Actor] = {}

    def add(self, actor: Actor) -> None:
        """It is dead. Where its digger is known, that one buries it."""
        if actor.digger is None:
            self._waiting.append(actor)
        else:
            self._given[actor.id] = actor

    @property
    def any_waits(self) -> bool:
        """For somebody to bury it."""
        return bool(self._waiting)

    def give(self, workers: Sequence[str]) -> list[tuple[Actor, BuryActor]]:
        """Orders for all that wait, in turn to all workers; none where there is no worker."""
        orders = []
        while workers and self._waiting:
            actor = self._waiting.popleft()
            actor.digger = workers[len(self._given) % len(workers)]
            self._given[actor.id] = actor
            order = BuryActor(
                worker=actor.digger, plan=actor.plan, cause=actor.last_error or "", at_birth=actor.died_at_birth
            )
            orders.append((actor, order))
        return orders

    def done(self, actor_id: str) -> Actor | None:
        """It is buried, whoever did it. None where it was before."""
        given = self._given.pop(actor_id, None)
        if given is not None:
            return given
        for actor in self._waiting:
            if actor.id == actor_id:
                self._waiting.remove(actor)
                return actor
        return None

    def take_back(self, worker: str) -> list[Actor]:
        """The worker is gone. Returns those whom it should have buried."""
        left = [actor for actor in self._given.values() if actor.digger == worker]
        for actor in left:
            del self._given[actor.id]
            actor.digger = None
            self._waiting.append(actor)
        return left
