"""Which node has room for an actor or a group, and what is reserved where. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Protocol

from actorhub.control import placement, strategies
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.placement import NodeEntry, PlacementRequest
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.specs import PlacementGroupSpec
from actorhub.core.resources import amounts, fits, minus, share, units


class Placeable(Protocol):
    """What takes up room on a node, or in a bundle: an actor or a slot."""

    @property
    def ask(self) -> PlacementRequest: ...

    @property
    def bundle(self) -> Bundle | None: ...


class Reservations:
    """What a bundle has is reserved on its node once, with its group; actors in it take their part of that."""

    def __init__(self, nodes: NodeRegistry, groups: GroupRegistry) -> None:
        self._nodes = nodes
        self._groups = groups

    # ---- actors and slots

    def choose(
        self, item: Placeable, kept: Set[Hashable] = frozenset(), *, beside: str | None = None
    ) -> NodeEntry | None:
        """A node with room for it, which is not kept for others, if it asks for anything. `beside`: where it is already."""
        bundle, ask = item.bundle, item.ask
        if bundle is None:
            nodes = self._nodes.candidates(ask)
            if kept and ask.units:
                nodes = (node for node in nodes if node.id not in kept)
            return placement.choose(nodes, ask, beside=beside)
        if (bundle.group, bundle.index) in kept and ask.units:
            return None
        group = self._groups.get(bundle.group)
        node_id = group.nodes[bundle.index] if group is not None else None
        node = self._nodes.by_id.get(node_id) if node_id is not None else None
        if group is None or node is None or not group.has_room(bundle.index, ask.units):
            return None
        return node if ask.has_worker(node) else None

    def take(self, item: Placeable, node: str, worker: str | None, sign: int = 1) -> None:
        """It takes up room there; with -1 it takes it up no longer."""
        bundle = item.bundle
        if bundle is None:
            self._nodes.take(item.ask.units, node, worker, sign)
            return
        group = self._groups.get(bundle.group)
        if group is not None:
            group.take(bundle.index, item.ask.units, sign)
        self._nodes.take({}, node, worker, sign)

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

    def waits_for(self, bundle: Bundle, ask: PlacementRequest) -> str:
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

    def keep(self, item: Placeable | GroupEntry, kept: Set[Hashable]) -> Set[Hashable]:
        """The nodes, or the bundle, where it would be if they were empty, of those that are not kept for others."""
        if isinstance(item, GroupEntry):
            wholes = [site for site in self._nodes.wholes if site.id not in kept]
            chosen = strategies.assign(item.bundles, item.plan.strategy, wholes, item.nodes)
            return {node for node, had in zip(chosen, item.nodes, strict=True) if had is None} if chosen else set()
        bundle = item.bundle
        if bundle is not None:
            return {(bundle.group, bundle.index)}
        able = [
            node
            for node in self._nodes.candidates(item.ask)
            if node.id not in kept and not node.leaving and item.ask.may_run(node)
        ]
        nearest = min(able, key=lambda node: share(minus(item.ask.units, node.free), node.total), default=None)
        return {nearest.id} if nearest is not None else set()

    # ---- groups

    def place(self, group: GroupEntry, kept: Set[Hashable] = frozenset()) -> bool:
        """Reserve all of it, or what has lost its place; or nothing. Not on nodes that are kept for others."""
        sites = [site for site in self._nodes.sites if site.id not in kept] if kept else self._nodes.sites
        chosen = strategies.assign(group.bundles, group.plan.strategy, sites, group.nodes)
        if chosen is None:
            return False
        for index, node in enumerate(chosen):
            if group.nodes[index] is None:
                self._nodes.take(group.bundles[index], node, None)
        self._groups.place(group, list(chosen))
        self._nodes.room += 1  # for its actors
        return True

    def give_back(self, group: GroupEntry, node_id: str | None = None) -> None:
        """What it has on this node; or everything."""
        nodes = list(group.nodes)
        for index, node in enumerate(nodes):
            if node is not None and node_id in (None, node):
                self._nodes.take(group.bundles[index], node, None, -1)
                nodes[index] = None
        self._groups.place(group, nodes)

    def restore(self, group: GroupEntry) -> None:
        for index, node in enumerate(group.nodes):
            if node is not None:
                self._nodes.take(group.bundles[index], node, None)

    def infeasible(self, plan: PlacementGroupSpec) -> str | None:
        """Why it can never be placed, were all nodes empty; None where it can, or where there is no node yet."""
        bundles = [units(bundle) for bundle in plan.bundles]
        return strategies.why_not(bundles, plan.strategy, self._nodes.wholes) if self._nodes.wholes else None

    def group_waits_for(self, group: GroupEntry) -> str:
        """What there is not that it needs."""
        if group.is_ready:
            return ""
        if not self._nodes.sites:
            return "a node"
        reason = strategies.why_not(group.bundles, group.plan.strategy, self._nodes.sites, group.nodes)
        return reason or "others that have waited for longer, and ask for the same resources"
