"""Which node has room for an actor or a group, and what is reserved where. Pure."""

from __future__ import annotations

from actorhub.control import placement, strategies
from actorhub.control.directory import Actor
from actorhub.control.fleet import Fleet
from actorhub.control.groups import Group, Groups
from actorhub.control.messages import ActorPlan, Bundle, GroupPlan
from actorhub.control.placement import Ask, Node
from actorhub.resources import amounts, fits, units


class Reserving:
    """What a bundle has is reserved on its node once, with its group; actors in it take their part of that."""

    def __init__(self, fleet: Fleet, groups: Groups) -> None:
        self._fleet = fleet
        self._groups = groups

    # ---- actors

    def choose(self, actor: Actor, *, beside: str | None = None) -> Node | None:
        """A node with room for it. `beside`: where it is already."""
        bundle = actor.plan.bundle
        if bundle is None:
            return placement.choose(self._fleet.candidates(actor.ask), actor.ask, beside=beside)
        group = self._groups.get(bundle.group)
        node_id = group.nodes[bundle.index] if group is not None else None
        node = self._fleet.nodes.get(node_id) if node_id is not None else None
        if group is None or node is None or not group.has_room(bundle.index, actor.ask.units):
            return None
        return node if actor.ask.has_worker(node) else None

    def take(self, actor: Actor, node: str, worker: str | None, sign: int = 1) -> None:
        """It takes up room there; with -1 it takes it up no longer."""
        bundle = actor.plan.bundle
        if bundle is None:
            self._fleet.take(actor.ask.units, node, worker, sign)
            return
        group = self._groups.get(bundle.group)
        if group is not None:
            group.take(bundle.index, actor.ask.units, sign)
        self._fleet.take({}, node, worker, sign)

    def misfit(self, bundle: Bundle, plan: ActorPlan) -> str | None:
        """Why the actor can never run in this bundle."""
        group = self._groups.get(bundle.group)
        if group is None:
            return f"there is no placement group {bundle.group} (any more); make one with hub.placement_group"
        if not 0 <= bundle.index < len(group.bundles):
            last = len(group.bundles) - 1
            return f"placement group {group.plan.name or group.id} has bundles 0 to {last}, and no {bundle.index}"
        wanted = units(plan.options.resources)
        if not fits(wanted, group.bundles[bundle.index]):
            has = group.plan.bundles[bundle.index]
            return f"{plan.class_name} asks for {amounts(wanted)}, and bundle {bundle.index} of its group has {has}"
        return None

    def waits_for(self, bundle: Bundle, ask: Ask) -> str:
        group = self._groups.get(bundle.group)
        if group is None or group.nodes[bundle.index] is None:
            return (
                f"its placement group, which waits for {self.group_waits_for(group)}"
                if group is not None
                else "a group"
            )
        if not group.has_room(bundle.index, ask.units):
            free = amounts(group.free[bundle.index])
            return f"it asks for {amounts(ask.units)}, and free in bundle {bundle.index} of its group are: {free}"
        return f"a worker process on {group.nodes[bundle.index]}"

    # ---- groups

    def place(self, group: Group) -> bool:
        """Reserve all of it, or what has lost its place; or nothing."""
        plan = group.plan
        chosen = strategies.assign(group.bundles, plan.strategy, self._fleet.sites, group.nodes)
        if chosen is None:
            return False
        for index, node in enumerate(chosen):
            if group.nodes[index] is None:
                self._fleet.take(group.bundles[index], node, None)
        self._groups.place(group, list(chosen))
        self._fleet.room += 1  # for its actors
        return True

    def give_back(self, group: Group, node_id: str | None = None) -> None:
        """What it has on this node; or everything."""
        nodes = list(group.nodes)
        for index, node in enumerate(nodes):
            if node is not None and node_id in (None, node):
                self._fleet.take(group.bundles[index], node, None, -1)
                nodes[index] = None
        self._groups.place(group, nodes)

    def restore(self, group: Group) -> None:
        for index, node in enumerate(group.nodes):
            if node is not None:
                self._fleet.take(group.bundles[index], node, None)

    def infeasible(self, plan: GroupPlan) -> str | None:
        """Why it can never be placed, were all nodes empty; None where it can, or where there is no node yet."""
        bundles = [units(bundle) for bundle in plan.bundles]
        return strategies.why_not(bundles, plan.strategy, self._fleet.wholes) if self._fleet.wholes else None

    def group_waits_for(self, group: Group) -> str:
        """What there is not that it needs."""
        if group.is_ready:
            return ""
        if not self._fleet.sites:
            return "a node"
        reason = strategies.why_not(group.bundles, group.plan.strategy, self._fleet.sites, group.nodes)
        return reason or "others that have waited for longer, and ask for the same resources"
