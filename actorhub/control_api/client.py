"""Client of control, and the errors that its replies stand for."""

from __future__ import annotations

from typing import overload

from actorhub.actors.service import stub
from actorhub.control_api.commands import GroupReply, SpawnReply
from actorhub.control_api.services import ControlService
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec
from actorhub.errors import ActorDied, ActorInitFailed, ActorNotFound, NameTaken, PlacementInfeasible
from actorhub.messaging.session import Session

_REFUSALS = {"name taken": NameTaken, "infeasible": PlacementInfeasible, "parent dead": ActorDied}


def control_client(session: Session) -> ControlService:
    """Client of the control of the session's cluster, independent of the node on which control runs."""
    return stub(session, session.names.control, ControlService)


async def find(session: Session, namespace: str, name: str) -> SpawnSpec:
    """Find the living actor with this name.

    Raises:
        ActorNotFound: no living actor has this name.
    """
    plan = await control_client(session).find(namespace, name)
    if plan is None:
        raise ActorNotFound(f"no actor is called {name!r} in namespace {namespace!r}; spawn it with that name first")
    return plan


def death_error(cause: str, *, at_birth: bool) -> ActorDied:
    """Error that callers of a dead actor get."""
    return ActorInitFailed(cause) if at_birth else ActorDied(cause)


@overload
def unwrap(reply: SpawnReply) -> SpawnSpec: ...
@overload
def unwrap(reply: GroupReply) -> PlacementGroupSpec: ...
def unwrap(reply: SpawnReply | GroupReply) -> SpawnSpec | PlacementGroupSpec:
    """Return the plan in a reply of control, or raise its error.

    Raises:
        NameTaken: another living actor or group of the namespace has the name.
        PlacementInfeasible: no node can ever run it.
        ActorDied: the actor that would own it is dead.
    """
    if reply.plan is None:
        assert reply.error is not None
        raise _REFUSALS[reply.error](reply.message)
    return reply.plan
