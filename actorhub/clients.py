"""What a process reaches its cluster with: a session, and the clients of objects and tasks that use it."""

from __future__ import annotations

from dataclasses import dataclass, field

from actorhub.depot import Depot
from actorhub.ref import Residence
from actorhub.session import Session
from actorhub.submit import Submitter


@dataclass(frozen=True)
class Clients:
    """A session with its clients. Owned by a hub, an actor worker or a task worker."""

    session: Session
    objects: Depot
    tasks: Submitter

    @classmethod
    def of(cls, session: Session) -> Clients:
        """New clients of a session: one set for a session, made by its owner."""
        objects = Depot(session)
        return cls(session, objects, Submitter(session, objects))


@dataclass(frozen=True)
class ClientContext(Residence):
    """The execution context of users' actors and tasks, whose code may use a hub: `Hub.current()`."""

    clients: Clients = field(kw_only=True)
