"""The placement groups that control knows: bundles of resources that are reserved together or not at all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from actorhub.control_api.info import BundleInfo, GroupInfo
from actorhub.control_api.specs import PlacementGroupSpec
from actorhub.core.resources import fits, units


@dataclass(eq=False)
class GroupEntry:
    """`nodes`: where each bundle is; None where it has no place. `free`: the units of each bundle that nobody has taken."""

    plan: PlacementGroupSpec
    number: int
    nodes: list[str | None] = field(default_factory=list)
    bundles: list[Mapping[str, int]] = field(init=False)
    free: list[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.bundles = [units(bundle) for bundle in self.plan.bundles]
        self.free = [dict(bundle) for bundle in self.bundles]
        self.nodes = self.nodes or [None] * len(self.bundles)

    @property
    def id(self) -> str:
        return self.plan.group_id

    @property
    def is_ready(self) -> bool:
        """All of it is reserved."""
        return None not in self.nodes

    def has_room(self, index: int, wanted: Mapping[str, int]) -> bool:
        return self.nodes[index] is not None and fits(wanted, self.free[index])

    def take(self, index: int, wanted: Mapping[str, int], sign: int = 1) -> None:
        for name, amount in wanted.items():
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
    """`touched`: the ids of those that have changed since somebody took that down."""

    def __init__(self) -> None:
        self.touched: dict[str, None] = {}
        self._groups: dict[str, GroupEntry] = {}
        self._names: dict[tuple[str, str], GroupEntry] = {}
        self._owned: dict[str, dict[str, GroupEntry]] = {}
        self._on: dict[str, dict[str, GroupEntry]] = {}

    def get(self, group_id: str) -> GroupEntry | None:
        return self._groups.get(group_id)

    def find(self, namespace: str, name: str) -> GroupEntry | None:
        return self._names.get((namespace, name))

    def all(self) -> Iterable[GroupEntry]:
        """In the order of their making."""
        return self._groups.values()

    def owned_by(self, owner: str) -> list[GroupEntry]:
        """Those that end with `owner`."""
        return list(self._owned.get(owner, {}).values())

    def owners(self) -> list[str]:
        return list(self._owned)

    def on(self, node: str) -> list[GroupEntry]:
        """Those that have a bundle there."""
        return list(self._on.get(node, {}).values())

    def add(self, group: GroupEntry) -> None:
        plan = group.plan
        self.touched[group.id] = None
        self._groups[group.id] = group
        if plan.name is not None:
            self._names[plan.namespace, plan.name] = group
        if plan.lifetime == "session":
            self._owned.setdefault(plan.owner, {})[group.id] = group
        self._note_nodes(group, group.nodes)

    def place(self, group: GroupEntry, nodes: list[str | None]) -> None:
        """Its bundles are there from now on."""
        self.touched[group.id] = None
        for node in group.nodes:
            if node is not None:
                self._on.get(node, {}).pop(group.id, None)
        group.nodes = nodes
        self._note_nodes(group, nodes)

    def remove(self, group: GroupEntry) -> None:
        plan = group.plan
        self.place(group, [None] * len(group.nodes))
        del self._groups[group.id]
        if plan.name is not None:
            self._names.pop((plan.namespace, plan.name), None)
        owned = self._owned.get(plan.owner, {})
        owned.pop(group.id, None)
        if not owned:
            self._owned.pop(plan.owner, None)

    def _note_nodes(self, group: GroupEntry, nodes: list[str | None]) -> None:
        for node in nodes:
            if node is not None:
                self._on.setdefault(node, {})[group.id] = group
