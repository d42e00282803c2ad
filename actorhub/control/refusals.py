"""What who asks for something is told where another has its name. Pure."""

from __future__ import annotations

from actorhub.control.commands import Answer, GroupAnswer
from actorhub.control.events import GroupAsked, SpawnAsked
from actorhub.control.plans import ActorPlan, GroupPlan


def group_name_taken(asked: GroupAsked, holder: GroupPlan) -> GroupAnswer:
    plan = asked.plan
    if asked.get_if_exists and (holder.bundles, holder.strategy) == (plan.bundles, plan.strategy):
        return GroupAnswer(group_id=plan.group_id, plan=holder)
    kind = "another, with other bundles or another strategy" if asked.get_if_exists else "another placement group"
    return GroupAnswer(
        group_id=plan.group_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, remove that one, or "
        "take it with get_if_exists=True",
    )


def name_taken(asked: SpawnAsked, holder: ActorPlan) -> Answer:
    plan = asked.plan
    if asked.get_if_exists and holder.class_name == plan.class_name:
        return Answer(actor_id=plan.actor_id, plan=holder.outline)
    kind = f"a {holder.class_name}" if asked.get_if_exists else "another living actor"
    return Answer(
        actor_id=plan.actor_id,
        error="name taken",
        message=f"{plan.name!r} is taken in namespace {plan.namespace!r} by {kind}; choose another name, kill that one, "
        "or take it with get_if_exists=True",
    )
