"""How others ask control."""

from __future__ import annotations

from typing import cast

from actorhub.actor import spec_of
from actorhub.control.actor import Control
from actorhub.control.desks import system_ticket
from actorhub.control.messages import ActorPlan, Answer
from actorhub.errors import ActorDied, ActorNotFound, NameTaken, PlacementInfeasible
from actorhub.handle import Handle
from actorhub.session import Session

_REFUSALS = {"name taken": NameTaken, "infeasible": PlacementInfeasible, "parent dead": ActorDied}


def control_of(session: Session) -> Control:
    """The control of the session's cluster, on whichever node it runs."""
    return cast(Control, Handle(session, system_ticket(session.names.control, Control), spec_of(Control)))


async def find(session: Session, namespace: str, name: str) -> ActorPlan:
    """The living actor that has the name.

    Raises:
        ActorNotFound: there is none.
    """
    plan = await control_of(session).find(namespace, name)
    if plan is None:
        raise ActorNotFound(f"no actor is called {name!r} in namespace {namespace!r}; spawn it with that name first")
    return plan


def granted(answer: Answer) -> ActorPlan:
    """What a spawn has made.

    Raises:
        NameTaken, PlacementInfeasible, ActorDied: nothing was made. ActorDied: the actor that spawns it is dead.
    """
    if answer.plan is None:
        assert answer.error is not None
        raise _REFUSALS[answer.error](answer.message)
    return answer.plan
