"""Which node has room for an actor or a group, and what is reserved where. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Protocol

from actorhub.control import placement, strategies
from actorhub.control.fleet import Fleet
from actorhub.control.groups import Group, Groups
from actorhub.control.placement import Ask, Node
from actorhub.control.plans import GroupPlan
from actorhub.needs import Bundle
from actorhub.resources import amounts, fits, minus, share, units


class Tenant(Protocol):
    """What takes up room on a node, or in a bundle: an actor or a slot."""

    @property
    def ask(self) -> Ask: ...

    @property
    def bundle(self) -> Bundle | None: ...


class Reserving:
    """What a bundle has is reserved on its node once, with its group; actors in it take their part of that."""

    def __init__(self, fleet: Fleet, groups: Groups) -> None:
        self._fleet = fleet
        self._groups = groups

    # ---- actors and slots

    def choose(self, tenant: Tenant, kept: Set[Hashable] = frozenset(), *, beside: str | None = None) -> Node | None:
        """A node with room for it, which is not kept for others, if it asks for anything. `beside`: where it is already."""
        bundle, ask = tenant.bundle, tenant.ask
        if bundle is None:
            nodes = self._fleet.candidates(ask)
            if kept and ask.units:
                nodes = (node for node in nodes if node.id not in kept)
            return placement.choose(nodes, ask, beside=beside)
        if (bundle.group, bundle.index) in kept and ask.units:
            return None
        group = self._groups.get(bundle.group)
        node_id = group.nodes[bundle.index] if group is not None else None
        node = self._fleet.nodes.get(node_id) if node_id is not None else None
        if group is None or node is None or not group.has_room(bundle.index, ask.units):
            return None
        return node if ask.has_worker(node) else None

    def take(self, tenant: Tenant, node: str, worker: str | None, sign: int = 1) -> None:
        """It takes up room there; with -1 it takes it up no longer."""
        bundle = tenant.bundle
        if bundle is None:
            self._fleet.take(tenant.ask.units, node, worker, sign)
            return
        group = self._groups.get(bundle.group)
        if group is not None:
            group.take(bundle.index, tenant.ask.units, sign)
        self._fleet.take({}, node, worker, sign)

    def free_in(self, bundle: Bundle) -> Mapping[str, int]:
        """What nobody in it has taken."""
        group = self._groups.get(bundle.group)
        return group.free[bundle.index] if group is not None else {}

    def misfit(self, bundle: Bundle, what: str, wanted: Mapping[str, int]) -> str | None:
        """Why `what` can never run in this bundle."""
        group = self._groups.get(bundle.group)
        if group is None:
            return f"there is no placement group {bundle.group} (any more); make one with hub.placement_group"
        if not 0 <= bundle.index < len(group.bundles):
            last = len(group.bundles) - 1
            return f"placement group {group.plan.name or group.id} has bundles 0 to {last}, and no {bundle.index}"
        if not fits(wanted, group.bundles[bundle.index]):
            has = group.plan.bundles[bundle.index]
            return f"{what} asks for {amounts(wanted)}, and bundle {bundle.index} of its group has {has}"
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

    # ---- what is kept for who has waited for long

    def keep(self, item: Tenant | Group, kept: Set[Hashable]) -> Set[Hashable]:
        """The nodes, or the bundle, where it would be if they were empty, of those that are not kept for others."""
        if isinstance(item, Group):
            wholes = [site for site in self._fleet.wholes if site.id not in kept]
            chosen = strategies.assign(item.bundles, item.plan.strategy, wholes, item.nodes)
            return {node for node, had in zip(chosen, item.nodes, strict=True) if had is None} if chosen else set()
        bundle = item.bundle
        if bundle is not None:
            return {(bundle.group, bundle.index)}
        able = [
            node
            for node in self._fleet.candidates(item.ask)
            if node.id not in kept and not node.leaving and item.ask.may_run(node)
        ]
        nearest = min(able, key=lambda node: share(minus(item.ask.units, node.free), node.total), default=None)
        return {nearest.id} if nearest is not None else set()

    # ---- groups

    def place(self, group: Group, kept: Set[Hashable] = frozenset()) -> bool:
        """Reserve all of it, or what has lost its place; or nothing. Not on nodes that are kept for others."""
        sites = [site for site in self._fleet.sites if site.id not in kept] if kept else self._fleet.sites
        chosen = strategies.assign(group.bundles, group.plan.strategy, sites, group.nodes)
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
