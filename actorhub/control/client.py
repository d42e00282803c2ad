"""How others ask control."""

from __future__ import annotations

from typing import overload

from actorhub.control.commands import Answer, GroupAnswer
from actorhub.control.desks import ControlDesk
from actorhub.control.plans import ActorPlan, GroupPlan
from actorhub.errors import ActorDied, ActorInitFailed, ActorNotFound, NameTaken, PlacementInfeasible
from actorhub.service import stub
from actorhub.session import Session

_REFUSALS = {"name taken": NameTaken, "infeasible": PlacementInfeasible, "parent dead": ActorDied}


def control_of(session: Session) -> ControlDesk:
    """The control of the session's cluster, on whichever node it runs."""
    return stub(session, session.names.control, ControlDesk)


async def find(session: Session, namespace: str, name: str) -> ActorPlan:
    """The living actor that has the name.

    Raises:
        ActorNotFound: there is none.
    """
    plan = await control_of(session).find(namespace, name)
    if plan is None:
        raise ActorNotFound(f"no actor is called {name!r} in namespace {namespace!r}; spawn it with that name first")
    return plan


def death_error(cause: str, *, at_birth: bool) -> ActorDied:
    """The error for callers of a dead actor."""
    return ActorInitFailed(cause) if at_birth else ActorDied(cause)


@overload
def granted(answer: Answer) -> ActorPlan: ...
@overload
def granted(answer: GroupAnswer) -> GroupPlan: ...
def granted(answer: Answer | GroupAnswer) -> ActorPlan | GroupPlan:
    """What was made of what somebody asked for.

    Raises:
        NameTaken, PlacementInfeasible, ActorDied: nothing was made. ActorDied: the actor that asks for it is dead.
    """
    if answer.plan is None:
        assert answer.error is not None
        raise _REFUSALS[answer.error](answer.message)
    return answer.plan
