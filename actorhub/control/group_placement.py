"""Placement strategies of groups: the node for each bundle. Pure.

| strategy | bundles go |
|---|---|
| PACK | on as few nodes as possible |
| SPREAD | on as many nodes as possible |
| STRICT_PACK | all on one node |
| STRICT_SPREAD | each on a node of its own |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from actorhub.control.bin_packing import fewest, most
from actorhub.control_api.specs import Strategy
from actorhub.core.resources import amounts, fits, plus, share

Bundle = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Resources that a node has to offer."""

    id: str
    free: Mapping[str, int]
    """Units of each resource."""
    load: float = 0.0
    """Its load by any measure, such as the number of its actors: of two nodes the one with less is preferred."""


def rank(node: NodeCapacity) -> tuple[float, str]:
    """Sort key of nodes: load, then id."""
    return node.load, node.id


def assign_bundles(
    bundles: Sequence[Bundle], strategy: Strategy, nodes: Sequence[NodeCapacity], placed: Sequence[str | None] = ()
) -> list[str] | None:
    """The node for each bundle of a group; None if they cannot all be placed now.

    Deterministic: equal arguments give equal results. No node gets more than is free on it.

    STRICT_PACK and STRICT_SPREAD find a placement whenever one exists. So do PACK and SPREAD, with the fewest and the most
    nodes possible, if their search ends within `MAX_ROOM_CHECKS`, as it does for nearly all groups of up to 8 bundles; beyond
    that they return the best placement found so far, and None is no proof that none exists.

    Cost: where resources are plenty, the first few nodes are looked at. Otherwise all nodes are, for each distinct bundle:
    about 0.2 ms for 1,000 nodes. PACK takes up to 1 ms for 1,000 nodes once no single node holds the group. Its search, and
    that of SPREAD, may take 30 ms more.

    Args:
        bundles: units of resources of each bundle.
        strategy: how they are distributed.
        nodes: the nodes that may be chosen, in the order of their `rank`; the first of equal ones is preferred.
        placed: the node of each bundle that is placed already and stays there, None for the others; empty if none is. Those
            bundles' units are not in `free`. A node named here need not be among `nodes`, such as one that is leaving. PACK
            prefers these nodes for the other bundles, SPREAD avoids them.

    Returns:
        The ids of the nodes, in the order of the bundles.

    Raises:
        ValueError: `placed` has another length than `bundles`.
    """
    group = _group(bundles, placed)
    chosen = _RULES[strategy](group.needs, nodes, group.kept)
    if chosen is None:
        return None
    rest = iter(chosen)
    return [next(rest) if node is None else node for node in group.places]


def why_not(
    bundles: Sequence[Bundle], strategy: Strategy, nodes: Sequence[NodeCapacity], placed: Sequence[str | None] = ()
) -> str | None:
    """The reason why `assign_bundles` returns None for the same arguments, for people; None if it does not."""
    if assign_bundles(bundles, strategy, nodes, placed) is not None:
        return None
    group = _group(bundles, placed)
    if strategy == "STRICT_PACK":
        wanted = plus(*group.needs)
        if group.kept:
            nodes = [node for node in nodes if node.id in group.kept]
            where = f"node {' and '.join(sorted(group.kept))}, where the others of the group are,"
        else:
            where = "one node"
        return f"STRICT_PACK asks {where} for {amounts(wanted)}; {_nearest(wanted, nodes)}"
    if strategy == "STRICT_SPREAD":
        nodes = _without(nodes, group.kept)
    for index, need in zip(group.indices, group.needs, strict=True):
        if not any(fits(need, node.free) for node in nodes):
            return f"bundle {index} asks for {amounts(need)}; {_nearest(need, nodes)}"
    if strategy == "STRICT_SPREAD":
        matching = _BipartiteMatching(group.needs, nodes)
        rivals = [str(group.indices[at]) for at in matching.rivals]
        return (
            f"STRICT_SPREAD asks for different nodes for bundles {_words(rivals)}; "
            f"only {_words(matching.contested)} {'has' if len(matching.contested) == 1 else 'have'} room for any of them"
        )
    wanted = plus(*group.needs)
    there = plus(*({name: node.free.get(name, 0) for name in wanted} for node in nodes))
    return (
        f"each bundle fits, but not all of them at once; together they ask for {amounts(wanted)}, "
        f"and all nodes together have {amounts(there)}"
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of which some bundles may be placed already."""

    places: Sequence[str | None]
    """The node of each bundle that is placed."""
    indices: list[int]
    """Positions of the other bundles in the group."""
    needs: list[Bundle]
    """These other bundles."""
    kept: set[str]
    """The nodes of the bundles that are placed."""


def _group(bundles: Sequence[Bundle], placed: Sequence[str | None]) -> _Group:
    places = placed or [None] * len(bundles)
    if len(places) != len(bundles):
        raise ValueError(f"{len(bundles)} bundles have {len(places)} places; give one for each, or none at all")
    indices = [index for index, node in enumerate(places) if node is None]
    return _Group(places, indices, [bundles[index] for index in indices], {node for node in places if node is not None})


def _strict_pack(needs: Sequence[Bundle], nodes: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    wanted = plus(*needs)
    for node in nodes:
        if fits(wanted, node.free) and kept <= {node.id}:
            return [node.id] * len(needs)
    return None if needs else []


def _strict_spread(needs: Sequence[Bundle], nodes: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    return _BipartiteMatching(needs, _without(nodes, kept)).complete()


def _pack(needs: Sequence[Bundle], nodes: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    alone = None if kept else _strict_pack(needs, nodes, kept)
    if alone is not None or not needs:
        return alone or []
    home, fresh = [node for node in nodes if node.id in kept], _without(nodes, kept)
    rooms = [*home, *fresh]
    chosen = fewest(needs, [node.free for node in home], [node.free for node in fresh])
    return None if chosen is None else _preferred(needs, [rooms[room].id for room in chosen], fresh, kept)


def _spread(needs: Sequence[Bundle], nodes: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    matching = _BipartiteMatching(needs, _without(nodes, kept))
    apart = matching.complete()
    if apart is not None:
        return apart
    home = [node for node in nodes if node.id in kept]
    rooms = [*home, *matching.offered()]
    chosen = most(needs, [node.free for node in home], [node.free for node in matching.offered()], matching.size)
    return None if chosen is None else [rooms[room].id for room in chosen]


_RULES: Mapping[Strategy, Callable[[Sequence[Bundle], Sequence[NodeCapacity], set[str]], list[str] | None]] = {
    "PACK": _pack,
    "SPREAD": _spread,
    "STRICT_PACK": _strict_pack,
    "STRICT_SPREAD": _strict_spread,
}


class _BipartiteMatching:
    """The largest matching of bundles to nodes, each node with one bundle at most: augmenting paths, after Kuhn.

    Bundles that ask for the same are one kind. Of the nodes with room for a bundle, only the first are considered, as many as
    there are bundles: a bundle that has any other node could always move to one of these that is left.
    """

    def __init__(self, needs: Sequence[Bundle], nodes: Sequence[NodeCapacity]) -> None:
        self._nodes = nodes
        self._members: dict[frozenset[tuple[str, int]], list[int]] = {}
        for at, need in enumerate(needs):
            self._members.setdefault(frozenset(need.items()), []).append(at)
        kinds = list(self._members.values())
        self._offers = [
            list(islice((index for index, node in enumerate(nodes) if fits(needs[members[0]], node.free)), len(needs)))
            for members in kinds
        ]
        self._holder: dict[int, int] = {}  # the kind of the bundle that has a node, by the node's index
        self.rivals: list[int] = []
        """Bundles for which there are too few nodes; empty if each has one."""
        self.contested: list[str] = []
        """The nodes with room for any of `rivals`."""
        for kind in sorted(range(len(kinds)), key=lambda kind: len(self._offers[kind])):
            for _ in kinds[kind]:
                reached = self._augment(kind)
                if reached:
                    self.rivals = sorted(at for each in reached for at in kinds[each])
                    self.contested = [
                        nodes[index].id for index in sorted({i for each in reached for i in self._offers[each]})
                    ]
                    break
        self.size = len(self._holder)
        """Number of bundles with a node."""
        self._count = len(needs)

    def complete(self) -> list[str] | None:
        """The node of each bundle; None if not all have one."""
        if self.size < self._count:
            return None
        ids = [""] * self._count
        rest = [iter(members) for members in self._members.values()]
        for index in sorted(self._holder):
            ids[next(rest[self._holder[index]])] = self._nodes[index].id
        return ids

    def offered(self) -> list[NodeCapacity]:
        """The nodes that are considered, in order."""
        return [self._nodes[index] for index in sorted({index for offers in self._offers for index in offers})]

    def _augment(self, kind: int) -> list[int]:
        """Give one more bundle of a kind a node. Returns nothing then; else the kinds that hold all nodes they could have."""
        came: dict[int, tuple[int, int]] = {}  # the kind and the node by which a kind was reached
        reached = [kind]
        for each in reached:
            for index in self._offers[each]:
                other = self._holder.get(index)
                if other is None:
                    self._holder[index] = each
                    while each != kind:
                        each, index = came[each]
                        self._holder[index] = each
                    return []
                if other != kind and other not in came:
                    came[other] = (each, index)
                    reached.append(other)
        return reached


def _without(nodes: Sequence[NodeCapacity], kept: Collection[str]) -> Sequence[NodeCapacity]:
    return [node for node in nodes if node.id not in kept] if kept else nodes


def _preferred(
    needs: Sequence[Bundle], chosen: Sequence[str], fresh: Sequence[NodeCapacity], kept: set[str]
) -> list[str]:
    """The same partition of bundles, with each part on the first node that has room for it and that no other part has."""
    parts: dict[str, list[int]] = {}
    for at, node_id in enumerate(chosen):
        parts.setdefault(node_id, []).append(at)
    ids = list(chosen)
    for home, part in parts.items():
        if home in kept:
            continue
        wanted = plus(*(needs[at] for at in part))
        better = next(node.id for node in fresh if node.id == home or (node.id not in ids and fits(wanted, node.free)))
        for at in part:
            ids[at] = better
    return ids


def _nearest(wanted: Bundle, nodes: Sequence[NodeCapacity]) -> str:
    if not nodes:
        return "there is no node for it"
    lacks = {node.id: sum(node.free.get(name, 0) < amount for name, amount in wanted.items()) for node in nodes}
    best = min(nodes, key=lambda node: (lacks[node.id], share(wanted, node.free)))
    return f"the nearest is node {best.id} with {amounts({name: best.free.get(name, 0) for name in wanted})}"


def _words(items: Sequence[str]) -> str:
    """A list in words, of at most 10 items."""
    shown = [*items[:10], f"{len(items) - 10} more"] if len(items) > 10 else items
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
