"""Reservations of resources on nodes and in bundles: where an actor, slot or group has room, and what each holds. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Protocol

from actorhub.control import group_placement, placement
from actorhub.control.group_registry import GroupEntry, GroupRegistry
from actorhub.control.node_registry import NodeRegistry
from actorhub.control.placement import NodeEntry, PlacementRequest
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.specs import PlacementGroupSpec
from actorhub.core.resources import amounts, fits, minus, share, units

NOTHING_HELD: Set[Hashable] = frozenset()


class Placeable(Protocol):
    """An actor or a slot: it takes up resources of a node, or of a bundle."""

    @property
    def request(self) -> PlacementRequest: ...

    @property
    def bundle(self) -> Bundle | None: ...


class Reservations:
    """Reserves resources for groups on nodes, and for actors and slots on nodes or in bundles of groups.

    A bundle's resources are reserved on its node once, with the group. An actor or slot in it takes its part of the bundle.
    """

    def __init__(self, nodes: NodeRegistry, groups: GroupRegistry) -> None:
        self._nodes = nodes
        self._groups = groups

    # ---- actors and slots

    def choose(
        self, item: Placeable, held: Set[Hashable] = NOTHING_HELD, *, last: str | None = None
    ) -> NodeEntry | None:
        """The node for an actor or slot; None if there is no room.

        Args:
            item: the actor or slot.
            held: nodes and bundles that are held for others. An item that reserves nothing may go there all the same.
            last: a node that is chosen only if no other has room.
        """
        bundle, request = item.bundle, item.request
        if bundle is None:
            nodes = self._nodes.candidates(request)
            if held and request.units:
                nodes = (node for node in nodes if node.id not in held)
            return placement.choose(nodes, request, last=last)
        if (bundle.group, bundle.index) in held and request.units:
            return None
        group = self._groups.get(bundle.group)
        node_id = group.nodes[bundle.index] if group is not None else None
        node = self._nodes.by_id.get(node_id) if node_id is not None else None
        if group is None or node is None or not group.has_room(bundle.index, request.units):
            return None
        return node if request.has_worker(node) else None

    def reserve(self, item: Placeable, node: str, worker: str | None) -> None:
        """Reserve what an actor or slot asks for.

        Args:
            item: the actor or slot.
            node: where it is placed.
            worker: the worker that hosts the actor; None for a slot.
        """
        self._change(item, node, worker, 1)

    def release(self, item: Placeable, node: str, worker: str | None) -> None:
        """Release what `reserve` has reserved with the same arguments."""
        self._change(item, node, worker, -1)

    def _change(self, item: Placeable, node: str, worker: str | None, sign: int) -> None:
        bundle = item.bundle
        if bundle is None:
            self._nodes.reserve(item.request.units, node, worker, sign)
            return
        group = self._groups.get(bundle.group)
        if group is not None:
            group.reserve(bundle.index, item.request.units, sign)
        self._nodes.reserve({}, node, worker, sign)

    def free_in(self, bundle: Bundle) -> Mapping[str, int]:
        """Units that are free in a bundle."""
        group = self._groups.get(bundle.group)
        return group.free[bundle.index] if group is not None else {}

    def misfit(self, bundle: Bundle, what: str, wanted: Mapping[str, int]) -> str | None:
        """The reason why `what`, which asks for these units, can never run in the bundle; None if it can."""
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

    def waits_for(self, bundle: Bundle, request: PlacementRequest) -> str:
        """The thing that is missing before a request can be placed in its bundle, for people."""
        group = self._groups.get(bundle.group)
        if group is None:
            return "a group"
        if group.nodes[bundle.index] is None:
            return f"its placement group, which waits for {self.group_waits_for(group)}"
        if not group.has_room(bundle.index, request.units):
            free = amounts(group.free[bundle.index])
            return f"it asks for {amounts(request.units)}, and free in bundle {bundle.index} of its group are: {free}"
        return f"a worker process on {group.nodes[bundle.index]}"

    # ---- starving items

    def hold_for(self, item: Placeable | GroupEntry, held: Set[Hashable]) -> Set[Hashable]:
        """The nodes, or the bundle, to hold for an item: where it would fit if they were empty.

        Args:
            item: an actor, slot or group that is starving.
            held: nodes and bundles that are held for others already.
        """
        if isinstance(item, GroupEntry):
            empty = [node for node in self._nodes.total_capacities if node.id not in held]
            chosen = group_placement.assign_bundles(item.bundles, item.plan.strategy, empty, item.nodes)
            return {node for node, had in zip(chosen, item.nodes, strict=True) if had is None} if chosen else set()
        bundle = item.bundle
        if bundle is not None:
            return {(bundle.group, bundle.index)}
        able = [
            node
            for node in self._nodes.candidates(item.request)
            if node.id not in held and not node.leaving and item.request.may_run(node)
        ]
        nearest = min(able, key=lambda node: share(minus(item.request.units, node.free), node.total), default=None)
        return {nearest.id} if nearest is not None else set()

    # ---- groups

    def place_group(self, group: GroupEntry, held: Set[Hashable] = NOTHING_HELD) -> bool:
        """Reserve every bundle that waits, or none. Returns False if there is no room for all of them.

        Args:
            group: the group.
            held: nodes that are held for others.
        """
        free = self._nodes.capacities
        if held:
            free = [node for node in free if node.id not in held]
        chosen = group_placement.assign_bundles(group.bundles, group.plan.strategy, free, group.nodes)
        if chosen is None:
            return False
        for index, node in enumerate(chosen):
            if group.nodes[index] is None:
                self._nodes.reserve(group.bundles[index], node, None)
        self._groups.set_nodes(group, list(chosen))
        self._nodes.room_version += 1  # there is room for the group's actors now
        return True

    def release_group(self, group: GroupEntry, node_id: str | None = None) -> None:
        """Release the group's bundles on this node, or on all nodes."""
        nodes = list(group.nodes)
        for index, node in enumerate(nodes):
            if node is not None and node_id in (None, node):
                self._nodes.reserve(group.bundles[index], node, None, -1)
                nodes[index] = None
        self._groups.set_nodes(group, nodes)

    def restore_group(self, group: GroupEntry) -> None:
        """Reserve again the bundles of a persisted group."""
        for index, node in enumerate(group.nodes):
            if node is not None:
                self._nodes.reserve(group.bundles[index], node, None)

    def group_infeasible(self, plan: PlacementGroupSpec) -> str | None:
        """The reason why a group could never be placed, even on empty nodes; None if it could, or without nodes."""
        bundles = [units(bundle) for bundle in plan.bundles]
        empty = self._nodes.total_capacities
        return group_placement.why_not(bundles, plan.strategy, empty) if empty else None

    def group_waits_for(self, group: GroupEntry) -> str:
        """The thing that is missing before a group can be placed, for people; empty if it is placed."""
        if group.is_ready:
            return ""
        if not self._nodes.capacities:
            return "a node"
        reason = group_placement.why_not(group.bundles, group.plan.strategy, self._nodes.capacities, group.nodes)
        return reason or "others that have waited for longer, and ask for the same resources"
