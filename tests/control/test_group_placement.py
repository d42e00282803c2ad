"""Placement strategies, compared with every possible placement and with first-fit decreasing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorhub.control.group_placement import NodeCapacity, assign_bundles, rank, why_not
from actorhub.control_api.specs import Strategy
from actorhub.core.resources import fits, minus, plus, share, units

Amounts = Mapping[str, int]

STRATEGIES: list[Strategy] = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass
class Case:
    bundles: list[dict[str, int]]
    strategy: Strategy
    nodes: list[NodeCapacity]
    placed: list[str | None]

    def assign_bundles(self) -> list[str] | None:
        return assign_bundles(self.bundles, self.strategy, self.nodes, self.placed)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Groups of which some bundles may be placed already, one of them on a node that is not offered any more."""
    amounts = st.dictionaries(st.sampled_from(["cpu", "gpu"]), st.integers(0, 4), max_size=2)
    bundles = draw(st.lists(amounts, min_size=1, max_size=5))
    strategy = draw(st.sampled_from(STRATEGIES))
    free = draw(st.lists(st.tuples(amounts, st.integers(0, 2)), max_size=5))
    nodes = sorted(
        (NodeCapacity(f"n{index}", there, float(load)) for index, (there, load) in enumerate(free)), key=rank
    )
    places = [node.id for node in nodes] + ["gone"]
    if strategy == "STRICT_PACK":
        home = draw(st.sampled_from(places))
        placed = draw(st.lists(st.sampled_from([None, home]), min_size=len(bundles), max_size=len(bundles)))
    else:
        kept = draw(st.lists(st.sampled_from(places), max_size=len(bundles), unique=strategy == "STRICT_SPREAD"))
        placed = draw(st.permutations([*kept, *[None] * (len(bundles) - len(kept))]))
    return Case(bundles, strategy, nodes, placed if draw(st.booleans()) else [None] * len(bundles))


def every_placement(case: Case) -> Iterator[list[str]]:
    def resume(at: int, free: dict[str, Amounts], chosen: list[str]) -> Iterator[list[str]]:
        if at == len(case.bundles):
            yield chosen
            return
        place = case.placed[at]
        if place is not None:
            yield from resume(at + 1, free, [*chosen, place])
            return
        for node_id, there in free.items():
            if fits(case.bundles[at], there):
                yield from resume(at + 1, {**free, node_id: minus(there, case.bundles[at])}, [*chosen, node_id])

    for chosen in resume(0, {node.id: node.free for node in case.nodes}, []):
        new = [node_id for node_id, place in zip(chosen, case.placed, strict=True) if place is None]
        kept = {place for place in case.placed if place is not None}
        if case.strategy == "STRICT_PACK" and new and len({*new, *kept}) > 1:
            continue
        if case.strategy == "STRICT_SPREAD" and (len(set(new)) < len(new) or kept & set(new)):
            continue
        yield chosen


def check(case: Case, chosen: Sequence[str]) -> None:
    """No node gets more than it has, placed bundles stay, and strict strategies hold."""
    assert len(chosen) == len(case.bundles)
    taken: dict[str, dict[str, int]] = {}
    for bundle, node_id, place in zip(case.bundles, chosen, case.placed, strict=True):
        if place is None:
            taken[node_id] = plus(taken.get(node_id, {}), bundle)
        else:
            assert node_id == place
    free = {node.id: node.free for node in case.nodes}
    for node_id, wanted in taken.items():
        assert fits(wanted, free[node_id]), f"{node_id} has {free[node_id]}, and is to hold {wanted}"
    if case.strategy == "STRICT_PACK":
        assert len(set(chosen)) == 1
    if case.strategy == "STRICT_SPREAD":
        assert len(set(chosen)) == len(chosen)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_a_strategy_finds_the_best_placement_whenever_one_exists(case: Case) -> None:
    chosen = case.assign_bundles()
    placements = list(every_placement(case))
    assert (chosen is None) == (not placements)
    if chosen is None:
        return
    check(case, chosen)
    if case.strategy == "PACK":
        assert len(set(chosen)) == min(len(set(each)) for each in placements)
    if case.strategy == "SPREAD":
        assert len(set(chosen)) == max(len(set(each)) for each in placements)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_reason_is_given_exactly_if_there_is_no_placement(case: Case) -> None:
    reason = why_not(case.bundles, case.strategy, case.nodes, case.placed)
    assert (reason is None) == (case.assign_bundles() is not None)
    assert reason is None or "node" in reason


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_only_placement_is_found_among_a_thousand_nodes(strategy: Strategy) -> None:
    """A few nodes have exactly what some bundles take. The others have too little for most."""
    for seed in range(60):
        chance = random.Random(seed)
        bundles = [{"cpu": chance.randint(1, 9), "memory": chance.randint(1, 9)} for _ in range(chance.randint(2, 8))]
        parts = {"STRICT_PACK": 1, "STRICT_SPREAD": len(bundles)}.get(strategy, chance.randint(1, len(bundles)))
        order = chance.sample(bundles, len(bundles))
        free = [plus(*order[part::parts]) for part in range(parts)]
        free += [{"cpu": chance.randint(0, 2), "memory": chance.randint(0, 9)} for _ in range(1000 - parts)]
        chance.shuffle(free)
        case = Case(
            bundles, strategy, [NodeCapacity(f"n{i:04}", each) for i, each in enumerate(free)], [None] * len(bundles)
        )
        chosen = case.assign_bundles()
        assert chosen is not None, seed
        check(case, chosen)
        if strategy == "PACK":
            assert len(set(chosen)) <= parts, seed
        if strategy == "SPREAD":
            assert len(set(chosen)) >= parts, seed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_large_groups_are_placed_where_resources_are_plenty(strategy: Strategy) -> None:
    nodes = [NodeCapacity(f"n{index:03}", units({"cpu": 1000 if index == 7 else 64})) for index in range(300)]
    bundles = [units({"cpu": 1 + index % 3}) for index in range(250)]
    case = Case(bundles, strategy, nodes, [None] * len(bundles))
    chosen = case.assign_bundles()
    assert chosen is not None
    check(case, chosen)
    assert len(set(chosen)) == (1 if "PACK" in strategy else 250)


def test_more_bundles_than_nodes_spread_evenly() -> None:
    nodes = [NodeCapacity(f"n{index}", {"cpu": 100}) for index in range(10)]
    chosen = assign_bundles([{"cpu": 1}] * 200, "SPREAD", nodes)
    assert chosen is not None
    assert {chosen.count(node.id) for node in nodes} == {20}


@pytest.mark.parametrize("placed", [(), ("n4", None, None, None, None)])
def test_bundles_spread_over_all_nodes_though_the_first_placement_found_takes_fewer(
    placed: Sequence[str | None],
) -> None:
    nodes = [
        NodeCapacity("n1", {"a": 1, "b": 1, "c": 1}),
        NodeCapacity("n2", {"a": 1}),
        NodeCapacity("n3", {"b": 1, "c": 1}),
        NodeCapacity("n4", {"d": 2 - len(placed) // 5}),
    ]
    chosen = assign_bundles([{"d": 1}, {"d": 1}, {"a": 1}, {"b": 1}, {"c": 1}], "SPREAD", nodes, placed)
    assert chosen is not None
    assert chosen[:3] == ["n4", "n4", "n2"]
    assert {*chosen[3:]} == {"n1", "n3"}


# ---- which of many


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_first_of_equal_nodes_are_taken(strategy: Strategy) -> None:
    nodes = sorted((NodeCapacity(f"n{9 - index}", {"cpu": 8}, load=index // 5) for index in range(10)), key=rank)
    chosen = assign_bundles([{"cpu": 1}] * 2, strategy, nodes)
    assert chosen == (["n5", "n5"] if "PACK" in strategy else ["n5", "n6"])


def test_packed_bundles_go_to_the_first_nodes_that_have_room_for_them() -> None:
    nodes = [
        NodeCapacity("a", {"cpu": 3}),
        NodeCapacity("b", {"cpu": 4}),
        NodeCapacity("c", {"cpu": 8}),
        NodeCapacity("d", {"cpu": 5}),
    ]
    assert assign_bundles([{"cpu": 4}] * 2, "PACK", nodes[:2] + nodes[3:]) == ["b", "d"]
    assert assign_bundles([{"cpu": 4}] * 2, "PACK", nodes) == ["c", "c"]


def test_a_bundle_that_lost_its_node_joins_the_others_in_pack_and_avoids_them_in_spread() -> None:
    nodes = [NodeCapacity(name, {"cpu": 4}) for name in "abc"]
    bundles = [{"cpu": 1}] * 3
    assert assign_bundles(bundles, "PACK", nodes, ["c", None, None]) == ["c", "c", "c"]
    assert assign_bundles(bundles, "SPREAD", nodes, ["a", None, None]) == ["a", "b", "c"]
    assert assign_bundles(bundles, "STRICT_PACK", nodes, ["b", "b", None]) == ["b", "b", "b"]
    assert assign_bundles(bundles, "STRICT_SPREAD", nodes, ["a", "gone", None]) == ["a", "gone", "b"]
    assert assign_bundles(bundles, "STRICT_PACK", nodes, ["gone", None, None]) is None
    assert assign_bundles(bundles, "STRICT_PACK", nodes, ["gone"] * 3) == ["gone"] * 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_node_with_a_negative_amount_of_one_resource_still_offers_the_others(strategy: Strategy) -> None:
    assert assign_bundles([{"gpu": 1}], strategy, [NodeCapacity("a", {"cpu": -3, "gpu": 1})]) == ["a"]
    assert assign_bundles([{"cpu": 1}], strategy, [NodeCapacity("a", {"cpu": -3, "gpu": 1})]) is None
    if "STRICT" not in strategy:
        nodes = [NodeCapacity("a", {"cpu": -3, "gpu": 2}), NodeCapacity("b", {"cpu": 1})]
        assert assign_bundles([{"gpu": 1}, {"gpu": 1}, {"cpu": 1}], strategy, nodes) == ["a", "a", "b"]


def test_the_list_of_placed_bundles_must_have_one_entry_for_each() -> None:
    with pytest.raises(ValueError, match="2 bundles have 1 places; give one for each, or none at all"):
        assign_bundles([{}, {}], "PACK", [], ["a"])


@pytest.mark.parametrize("seed", range(3))
def test_packed_groups_take_few_more_nodes_than_first_fit_decreasing(seed: int) -> None:
    """First-fit decreasing knows all bundles beforehand, and may split groups."""
    chance = random.Random(seed)
    whole = units({"cpu": 32, "memory": 128, "gpu": 4})
    groups = [
        [
            units(
                {
                    "cpu": chance.choice([1, 2, 4, 8]),
                    "memory": chance.choice([1, 4, 8, 32]),
                    "gpu": chance.choice([0, 0, 0.5, 1]),
                }
            )
            for _ in range(chance.randint(2, 8))
        ]
        for _ in range(900)
    ]
    nodes = [NodeCapacity(f"{index:04}", whole) for index in range(1000)]
    for bundles in groups:
        chosen = assign_bundles(bundles, "PACK", nodes)
        assert chosen is not None
        for bundle, node_id in zip(bundles, chosen, strict=True):
            nodes[int(node_id)] = NodeCapacity(node_id, minus(nodes[int(node_id)].free, bundle))
    taken = sum(node.free != whole for node in nodes)

    bins: list[Amounts] = []
    for bundle in sorted((bundle for group in groups for bundle in group), key=lambda bundle: -share(bundle, whole)):
        at = next((at for at, there in enumerate(bins) if fits(bundle, there)), len(bins))
        bins[at:] = [minus(bins[at] if at < len(bins) else whole, bundle), *bins[at + 1 :]]
    assert taken <= 1.1 * len(bins), f"{taken} against {len(bins)}"


# ---- reasons

NODES = [
    NodeCapacity("n1", units({"cpu": 8})),
    NodeCapacity("n2", units({"cpu": 4, "gpu": 2})),
    NodeCapacity("n3", units({"cpu": 4, "gpu": 1})),
]


@pytest.mark.parametrize(
    ("bundles", "strategy", "placed", "reason"),
    [
        ([{"gpu": 4}], "PACK", (), "bundle 0 asks for {'gpu': 4.0}; the nearest is node n2 with {'gpu': 2.0}"),
        ([{"cpu": 1}, {"cpu": 8, "gpu": 1}], "SPREAD", (),
         "bundle 1 asks for {'cpu': 8.0, 'gpu': 1.0}; the nearest is node n2 with {'cpu': 4.0, 'gpu': 2.0}"),
        ([{"cpu": 5}, {"cpu": 5}], "STRICT_PACK", (),
         "STRICT_PACK asks one node for {'cpu': 10.0}; the nearest is node n1 with {'cpu': 8.0}"),
        ([{"cpu": 5}, {"cpu": 5}], "STRICT_PACK", (None, "n2"),
         "STRICT_PACK asks node n2, where the others of the group are, for {'cpu': 5.0}; "
         "the nearest is node n2 with {'cpu': 4.0}"),
        ([{"cpu": 1}, {"gpu": 1}, {"gpu": 1}, {"gpu": 0.5}], "STRICT_SPREAD", (),
         "STRICT_SPREAD asks for different nodes for bundles 1, 2 and 3; only n2 and n3 have room for any of them"),
        ([{"cpu": 6}, {"cpu": 6}], "STRICT_SPREAD", (),
         "STRICT_SPREAD asks for different nodes for bundles 0 and 1; only n1 has room for any of them"),
        ([{"cpu": 6}, {"cpu": 6}], "PACK", (),
         "each bundle fits, but not all of them at once; together they ask for {'cpu': 12.0}, "
         "and all nodes together have {'cpu': 16.0}"),
    ],
)  # fmt: skip
def test_a_reason_names_the_request_and_the_best_that_nodes_have(
    bundles: list[dict[str, float]], strategy: Strategy, placed: Sequence[str | None], reason: str
) -> None:
    assert why_not([units(bundle) for bundle in bundles], strategy, NODES, placed) == reason


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_nodes_the_reason_says_so(strategy: Strategy) -> None:
    assert "there is no node for it" in (why_not([{"cpu": 1}] * 2, strategy, []) or "")
