"""Clients of a process: its session with the cluster, and the object and task clients that use it."""

from __future__ import annotations

from dataclasses import dataclass, field

from actorhub.actors.execution import ExecutionContext
from actorhub.messaging.session import Session
from actorhub.objects.client import ObjectClient
from actorhub.tasks.client import TaskClient


@dataclass(frozen=True)
class Clients:
    """A session with its clients. Owned by a hub, an actor worker or a task worker."""

    session: Session
    objects: ObjectClient
    tasks: TaskClient

    @classmethod
    def of(cls, session: Session) -> Clients:
        """Make the clients of a session: one set for each session, made by its owner."""
        objects = ObjectClient(session)
        return cls(session, objects, TaskClient(session, objects))


@dataclass(frozen=True)
class ClientContext(ExecutionContext):
    """The execution context of users' actors and tasks, whose code may use a hub: `Hub.current()`."""

    clients: Clients = field(kw_only=True)
