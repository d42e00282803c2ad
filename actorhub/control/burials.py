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
        self._given: dict[str, tuple[Actor, str]] = {}

    def add(self, actor: Actor) -> None:
        self._waiting.append(actor)

    def give(self, workers: Sequence[str]) -> list[BuryActor]:
        """Orders for all that wait, in turn to all workers; none where there is no worker."""
        orders = []
        while workers and self._waiting:
            actor = self._waiting.popleft()
            worker = workers[len(self._given) % len(workers)]
            self._given[actor.id] = actor, worker
            cause = actor.last_error or ""
            orders.append(BuryActor(worker=worker, plan=actor.plan, cause=cause, at_birth=actor.died_at_birth))
        return orders

    def done(self, actor_id: str) -> Actor | None:
        """It is buried, whoever did it. None where it was before."""
        given = self._given.pop(actor_id, None)
        if given is not None:
            return given[0]
        for actor in self._waiting:
            if actor.id == actor_id:
                self._waiting.remove(actor)
                return actor
        return None

    def take_back(self, worker: str) -> None:
        """The worker is gone."""
        for actor_id in [actor_id for actor_id, (_, digger) in self._given.items() if digger == worker]:
            actor, _ = self._given.pop(actor_id)
            self._waiting.append(actor)
