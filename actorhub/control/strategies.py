"""On which nodes the bundles of a placement group go. Pure.

| strategy | its bundles |
|---|---|
| PACK | on as few nodes as can be |
| SPREAD | on as many different nodes as can be |
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
    """A node, and the units that are free on it. `load` is what the caller counts, such as the workers there."""

    id: str
    free: Mapping[str, int]
    load: float = 0.0


def rank(site: NodeCapacity) -> tuple[float, str]:
    """The key by which sites are kept in order: `insort(sites, site, key=rank)`."""
    return site.load, site.id


def assign(
    bundles: Sequence[Bundle], strategy: Strategy, sites: Sequence[NodeCapacity], placed: Sequence[str | None] = ()
) -> list[str] | None:
    """For each bundle the id of its site, or None where they cannot all be placed now.

    `sites` come in order of their `rank`, and what comes first is preferred among equals: the same arguments always give the
    same answer. `placed` says which bundles keep their sites, and is empty where none does; what they hold is not in the
    sites' `free`. A site that is not offered, since it is leaving, can be kept all the same.

    No site gets more than is free. STRICT_PACK and STRICT_SPREAD find a way wherever there is one. So do PACK and SPREAD, with
    the fewest and the most sites that can be, where their search ends within `LOOKS`, as it does for nearly all groups of up
    to 8 bundles; past that they give the best way found so far, and None is no proof. PACK prefers sites that are kept, and
    SPREAD others.

    Where plenty fits it looks at the first few sites only. Where not, it looks at all sites for each different bundle, about
    0.2 ms for 1,000 sites and a bundle. PACK takes up to 1 ms for 1,000 sites as soon as no single one holds the group. Its
    search, and that of SPREAD, may take 30 ms more; one way takes as many looks as bundles times sites.

    Raises:
        ValueError: `placed` has another length than `bundles`.
    """
    group = _group(bundles, placed)
    chosen = _RULES[strategy](group.needs, sites, group.kept)
    if chosen is None:
        return None
    rest = iter(chosen)
    return [next(rest) if site is None else site for site in group.places]


def why_not(
    bundles: Sequence[Bundle], strategy: Strategy, sites: Sequence[NodeCapacity], placed: Sequence[str | None] = ()
) -> str | None:
    """What is in the way, and the best that there is, for people; None where `assign` finds a way."""
    if assign(bundles, strategy, sites, placed) is not None:
        return None
    group = _group(bundles, placed)
    if strategy == "STRICT_PACK":
        wanted = plus(*group.needs)
        if group.kept:
            sites = [site for site in sites if site.id in group.kept]
            where = f"node {' and '.join(sorted(group.kept))}, where the others of the group are,"
        else:
            where = "one node"
        return f"STRICT_PACK asks {where} for {amounts(wanted)}; {_nearest(wanted, sites)}"
    if strategy == "STRICT_SPREAD":
        sites = _without(sites, group.kept)
    for index, need in zip(group.indices, group.needs, strict=True):
        if not any(fits(need, site.free) for site in sites):
            return f"bundle {index} asks for {amounts(need)}; {_nearest(need, sites)}"
    if strategy == "STRICT_SPREAD":
        matching = _BipartiteMatching(group.needs, sites)
        rivals = [str(group.indices[at]) for at in matching.rivals]
        return (
            f"STRICT_SPREAD asks for different nodes for bundles {_words(rivals)}; "
            f"only {_words(matching.contested)} {'has' if len(matching.contested) == 1 else 'have'} room for any of them"
        )
    wanted = plus(*group.needs)
    there = plus(*({name: site.free.get(name, 0) for name in wanted} for site in sites))
    return (
        f"each bundle fits, but not all of them at once; together they ask for {amounts(wanted)}, "
        f"and all nodes together have {amounts(there)}"
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """`needs` are the bundles to be placed, `indices` where they are in the group, `kept` the sites of the others."""

    places: Sequence[str | None]
    indices: list[int]
    needs: list[Bundle]
    kept: set[str]


def _group(bundles: Sequence[Bundle], placed: Sequence[str | None]) -> _Group:
    places = placed or [None] * len(bundles)
    if len(places) != len(bundles):
        raise ValueError(f"{len(bundles)} bundles have {len(places)} places; give one for each, or none at all")
    indices = [index for index, site in enumerate(places) if site is None]
    return _Group(places, indices, [bundles[index] for index in indices], {site for site in places if site is not None})


def _strict_pack(needs: Sequence[Bundle], sites: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    wanted = plus(*needs)
    for site in sites:
        if fits(wanted, site.free) and kept <= {site.id}:
            return [site.id] * len(needs)
    return None if needs else []


def _strict_spread(needs: Sequence[Bundle], sites: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    return _BipartiteMatching(needs, _without(sites, kept)).complete()


def _pack(needs: Sequence[Bundle], sites: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    alone = None if kept else _strict_pack(needs, sites, kept)
    if alone is not None or not needs:
        return alone or []
    home, fresh = [site for site in sites if site.id in kept], _without(sites, kept)
    rooms = [*home, *fresh]
    chosen = fewest(needs, [site.free for site in home], [site.free for site in fresh])
    return None if chosen is None else _preferred(needs, [rooms[room].id for room in chosen], fresh, kept)


def _spread(needs: Sequence[Bundle], sites: Sequence[NodeCapacity], kept: set[str]) -> list[str] | None:
    matching = _BipartiteMatching(needs, _without(sites, kept))
    apart = matching.complete()
    if apart is not None:
        return apart
    home = [site for site in sites if site.id in kept]
    rooms = [*home, *matching.offered()]
    chosen = most(needs, [site.free for site in home], [site.free for site in matching.offered()], matching.size)
    return None if chosen is None else [rooms[room].id for room in chosen]


_RULES: Mapping[Strategy, Callable[[Sequence[Bundle], Sequence[NodeCapacity], set[str]], list[str] | None]] = {
    "PACK": _pack,
    "SPREAD": _spread,
    "STRICT_PACK": _strict_pack,
    "STRICT_SPREAD": _strict_spread,
}


class _BipartiteMatching:
    """Bundles and sites, so that as many bundles as can be have a site of their own: augmenting paths, as of Kuhn.

    Bundles that ask for the same are one kind. Of the sites that have room for a bundle, the first ones are enough, as many
    as there are bundles: whoever sits elsewhere can always move to one of these that is left.
    """

    def __init__(self, needs: Sequence[Bundle], sites: Sequence[NodeCapacity]) -> None:
        self._sites = sites
        self._members: dict[frozenset[tuple[str, int]], list[int]] = {}
        for at, need in enumerate(needs):
            self._members.setdefault(frozenset(need.items()), []).append(at)
        kinds = list(self._members.values())
        self._offers = [
            list(islice((index for index, site in enumerate(sites) if fits(needs[members[0]], site.free)), len(needs)))
            for members in kinds
        ]
        self._holder: dict[int, int] = {}  # kinds, by the site that one of them has
        self.rivals: list[int] = []  # bundles that too few sites have room for
        self.contested: list[str] = []  # these sites
        for kind in sorted(range(len(kinds)), key=lambda kind: len(self._offers[kind])):
            for _ in kinds[kind]:
                reached = self._augment(kind)
                if reached:
                    self.rivals = sorted(at for each in reached for at in kinds[each])
                    self.contested = [
                        sites[index].id for index in sorted({i for each in reached for i in self._offers[each]})
                    ]
                    break
        self.size = len(self._holder)
        self._count = len(needs)

    def complete(self) -> list[str] | None:
        """The site of each bundle; None where not all have one."""
        if self.size < self._count:
            return None
        ids = [""] * self._count
        rest = [iter(members) for members in self._members.values()]
        for index in sorted(self._holder):
            ids[next(rest[self._holder[index]])] = self._sites[index].id
        return ids

    def offered(self) -> list[NodeCapacity]:
        """The sites that are enough, in order."""
        return [self._sites[index] for index in sorted({index for offers in self._offers for index in offers})]

    def _augment(self, kind: int) -> list[int]:
        """Gives one more of the kind a site; or else the kinds that hold all sites that they could have."""
        came: dict[int, tuple[int, int]] = {}  # from which kind, by which site
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


def _without(sites: Sequence[NodeCapacity], kept: Collection[str]) -> Sequence[NodeCapacity]:
    return [site for site in sites if site.id not in kept] if kept else sites


def _preferred(
    needs: Sequence[Bundle], chosen: Sequence[str], fresh: Sequence[NodeCapacity], kept: set[str]
) -> list[str]:
    """The same bundles stay together, each lot on the first site that has room for it and that no other lot has."""
    lots: dict[str, list[int]] = {}
    for at, site_id in enumerate(chosen):
        lots.setdefault(site_id, []).append(at)
    ids = list(chosen)
    for home, lot in lots.items():
        if home in kept:
            continue
        wanted = plus(*(needs[at] for at in lot))
        better = next(site.id for site in fresh if site.id == home or (site.id not in ids and fits(wanted, site.free)))
        for at in lot:
            ids[at] = better
    return ids


def _nearest(wanted: Bundle, sites: Sequence[NodeCapacity]) -> str:
    if not sites:
        return "there is no node for it"
    lacks = {site.id: sum(site.free.get(name, 0) < amount for name, amount in wanted.items()) for site in sites}
    best = min(sites, key=lambda site: (lacks[site.id], share(wanted, site.free)))
    return f"the nearest is node {best.id} with {amounts({name: best.free.get(name, 0) for name in wanted})}"


def _words(items: Sequence[str]) -> str:
    """At most 10 of them."""
    shown = [*items[:10], f"{len(items) - 10} more"] if len(items) > 10 else items
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
