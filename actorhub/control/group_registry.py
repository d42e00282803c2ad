"""Registry of placement groups: bundles of resources that are reserved together or not at all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actorhub.control_api.info import BundleInfo, GroupInfo
from actorhub.control_api.specs import PlacementGroupSpec
from actorhub.core.resources import fits, units


@dataclass(eq=False)
class GroupEntry:
    """One placement group."""

    plan: PlacementGroupSpec
    number: int
    """Position among all actors and groups, in the order of their creation."""
    nodes: list[str | None] = field(default_factory=list)
    """The node on which each bundle is reserved; None for a bundle that waits."""
    bundles: list[Mapping[str, int]] = field(init=False)
    """Units of resources of each bundle."""
    free: list[dict[str, int]] = field(init=False)
    """Units of each bundle that no actor or slot in it has reserved."""

    def __post_init__(self) -> None:
        self.bundles = [units(bundle) for bundle in self.plan.bundles]
        self.free = [dict(bundle) for bundle in self.bundles]
        self.nodes = self.nodes or [None] * len(self.bundles)

    @property
    def id(self) -> str:
        return self.plan.group_id

    @property
    def pending_key(self) -> str:
        """Key among pending placements."""
        return f"group:{self.id}"

    @property
    def is_ready(self) -> bool:
        """True if every bundle is reserved."""
        return None not in self.nodes

    def has_room(self, index: int, wanted: Mapping[str, int]) -> bool:
        """True if the bundle is reserved, and has these units free."""
        return self.nodes[index] is not None and fits(wanted, self.free[index])

    def reserve(self, index: int, units: Mapping[str, int], sign: int = 1) -> None:
        """Reserve units of a bundle for an actor or slot; a `sign` of -1 releases them."""
        for name, amount in units.items():
            self.free[index][name] -= sign * amount

    def info(self, waits_for: str = "") -> GroupInfo:
        plan = self.plan
        bundles = [
            BundleInfo(resources=bundle, node=node) for bundle, node in zip(plan.bundles, self.nodes, strict=True)
        ]
        return GroupInfo(
            id=plan.group_id,
            name=plan.name,
            namespace=plan.namespace,
            strategy=plan.strategy,
            is_ready=self.is_ready,
            bundles=bundles,
            waits_for=waits_for,
        )


class GroupRegistry:
    """Index of placement groups: by id, name, owner and node."""

    def __init__(self) -> None:
        self.changed: dict[str, None] = {}
        """Ids of groups that have changed since they were last persisted, in order."""
        self._groups: dict[str, GroupEntry] = {}
        self._by_name: dict[tuple[str, str], GroupEntry] = {}
        self._by_owner: dict[str, dict[str, GroupEntry]] = {}
        self._by_node: dict[str, dict[str, GroupEntry]] = {}

    def get(self, group_id: str) -> GroupEntry | None:
        return self._groups.get(group_id)

    def find(self, namespace: str, name: str) -> GroupEntry | None:
        return self._by_name.get((namespace, name))

    def all(self) -> Iterable[GroupEntry]:
        """All groups in the order of their creation."""
        return self._groups.values()

    def owned_by(self, owner: str) -> list[GroupEntry]:
        """Groups that end with `owner`."""
        return list(self._by_owner.get(owner, {}).values())

    def owners(self) -> list[str]:
        return list(self._by_owner)

    def on_node(self, node: str) -> list[GroupEntry]:
        """Groups with a bundle on the node."""
        return list(self._by_node.get(node, {}).values())

    def add(self, group: GroupEntry) -> None:
        plan = group.plan
        self.changed[group.id] = None
        self._groups[group.id] = group
        if plan.name is not None:
            self._by_name[plan.namespace, plan.name] = group
        if plan.lifetime == "session":
            self._by_owner.setdefault(plan.owner, {})[group.id] = group
        self._index_nodes(group)

    def set_nodes(self, group: GroupEntry, nodes: list[str | None]) -> None:
        """Set the node of each bundle."""
        self.changed[group.id] = None
        for node in group.nodes:
            if node is not None:
                self._by_node.get(node, {}).pop(group.id, None)
        group.nodes = nodes
        self._index_nodes(group)

    def remove(self, group: GroupEntry) -> None:
        plan = group.plan
        self.set_nodes(group, [None] * len(group.nodes))
        del self._groups[group.id]
        if plan.name is not None:
            self._by_name.pop((plan.namespace, plan.name), None)
        owned = self._by_owner.get(plan.owner, {})
        owned.pop(group.id, None)
        if not owned:
            self._by_owner.pop(plan.owner, None)

    def _index_nodes(self, group: GroupEntry) -> None:
        for node in group.nodes:
            if node is not None:
                self._by_node.setdefault(node, {})[group.id] = group
