"""Placement: groups, bundles, waiting, and that no node is ever given away twice; sentences, and worlds by chance."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actorhub.actors.spec import ActorOptions
from actorhub.control import pending
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Command,
    DeleteMailbox,
    DeleteTaskQueue,
    GroupReply,
    SpawnReply,
    StartActor,
    StartSlot,
    StartWorker,
    StopActor,
    StopSlot,
    StopWorker,
    TaskQueueReply,
)
from actorhub.control_api.events import (
    ActorStarted,
    Event,
    GroupRemoved,
    GroupRequested,
    KillRequested,
    MailboxDeleted,
    NodeReport,
    QueueDepths,
    SessionEnded,
    SlotEnded,
    SpawnRequested,
    TaskQueueUsed,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control_api.info import ActorInfo, GroupInfo
from actorhub.control_api.requirements import Bundle, Requirements
from actorhub.control_api.specs import PlacementGroupSpec, SpawnSpec
from actorhub.core.resources import fits, plus, units

CLASS = "app:Actor"
TIMEOUT = 8.0


class Console:
    """A state and what it ordered last. After each event a successor would know the same, and no node is given away twice."""

    def __init__(self) -> None:
        self.state = ControlState(node_timeout=TIMEOUT)
        self.parts: dict[str, bytes] = {}
        self.now = 0.0
        self.last: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        self.last = self.state.handle(event, self.now)
        for key, body in self.state.changes().items():
            if body is None:
                self.parts.pop(key, None)
            else:
                self.parts[key] = body
        check(self.state)
        restored = ControlState.restored(self.parts, node_timeout=TIMEOUT, now=self.now)
        assert told(restored) == told(self.state)
        return self.last

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.last if isinstance(command, kind)]

    def node(
        self,
        node: str,
        *,
        workers: int = 1,
        own: dict[str, str] | None = None,
        placed: tuple[str, ...] = (),
        leaving: bool = False,
        pid: int = 1,
        run: str = "",
        **resources: float,
    ) -> None:
        """`own`: workers for one actor each."""
        reports = [WorkerReport(id=f"{node}-{number}-{pid}", pid=1) for number in range(workers)]
        reports += [WorkerReport(id=worker, pid=1, dedicated_to=actor) for worker, actor in (own or {}).items()]
        self.handle(
            NodeReport(
                node=node,
                host="h",
                pid=pid,
                version="1",
                labels={"name": node},
                resources=resources,
                classes=[CLASS],
                workers=reports,
                slots=dict.fromkeys(placed, 1),
                placed=list(placed),
                known=True,
                leaving=leaving,
                run=run,
            )
        )

    def spawn(self, actor_id: str, *, bundle: Bundle | None = None, **fields: Any) -> SpawnReply:
        options = ActorOptions(**fields.pop("options", {}), resources=fields.pop("resources", {}))
        given: dict[str, Any] = {"namespace": "default", "class_name": CLASS, "owner": "s", **fields}
        self.handle(SpawnRequested(plan=SpawnSpec(actor_id=actor_id, options=options, bundle=bundle, **given)))
        return self.of(SpawnReply)[0]  # type: ignore[no-any-return]

    def group(
        self, group_id: str, bundles: list[dict[str, float]], strategy: Any = "PACK", **fields: Any
    ) -> GroupReply:
        get = fields.pop("get_if_exists", False)
        given: dict[str, Any] = {"namespace": "default", "owner": "s", **fields}
        plan = PlacementGroupSpec(group_id=group_id, bundles=bundles, strategy=strategy, **given)
        self.handle(GroupRequested(plan=plan, get_if_exists=get))
        return self.of(GroupReply)[0]  # type: ignore[no-any-return]

    def info(self, actor_id: str) -> ActorInfo:
        found = self.state.describe(actor_id)
        assert found is not None
        return found

    def nodes_of(self, group_id: str) -> list[str | None]:
        found = self.state.group(group_id)
        assert found is not None
        return [bundle.node for bundle in found.bundles]


def told(state: ControlState) -> object:
    """What a state says of itself, in an order that is not chance."""
    nodes = [node.model_dump() for node in sorted(state.nodes(), key=lambda node: node.id)]
    for node in nodes:
        for worker in node["workers"]:
            worker["actors"].sort()
    queues = sorted((queue.model_dump() for queue in state.task_queues()), key=lambda queue: str(queue["name"]))
    return list(state.actors()), list(state.groups()), nodes, queues


def check(state: ControlState) -> None:
    """No node is given away twice, and no bundle; what is reserved is what there is to be reserved for; strategies hold."""
    taken: dict[str, list[dict[str, int]]] = {}
    inside: dict[Bundle, list[dict[str, int]]] = {}
    for actor in state._tables.directory.all():
        places = [actor.node] if actor.standby is None else [actor.node, actor.standby.node]
        for node in places:
            if node is not None and actor.plan.bundle is None:
                taken.setdefault(node, []).append(dict(actor.request.units))
            elif node is not None and actor.plan.bundle is not None:
                inside.setdefault(actor.plan.bundle, []).append(dict(actor.request.units))
    for queue in state._tables.task_queues.all():
        for slot in queue.slots.values():
            assert slot.node is not None
            if slot.bundle is None:
                taken.setdefault(slot.node, []).append(dict(slot.request.units))
            else:
                inside.setdefault(slot.bundle, []).append(dict(slot.request.units))
    for group in state._tables.groups.all():
        for bundle, node in zip(group.bundles, group.nodes, strict=True):
            if node is not None:
                taken.setdefault(node, []).append(dict(bundle))
        strategy_holds(group.plan.strategy, [node for node in group.nodes if node is not None])
    for node_id, several in taken.items():
        node = state._tables.nodes.by_id[node_id]
        assert fits(plus(*several), node.total), f"{node_id} is given away twice"
        assert dict(node.reserved) == plus(*several)
    for node in state._tables.nodes.by_id.values():
        assert node.id in taken or not node.reserved
    for bundle, several in inside.items():
        group = state._tables.groups.get(bundle.group)
        assert group is not None
        assert fits(plus(*several), group.bundles[bundle.index]), f"{bundle} is given away twice"


def strategy_holds(strategy: str, nodes: list[str]) -> None:
    if strategy == "STRICT_PACK":
        assert len(set(nodes)) <= 1
    if strategy == "STRICT_SPREAD":
        assert len(set(nodes)) == len(nodes)


# ---- groups


def test_a_group_is_reserved_whole_or_not_at_all_and_waits_in_order() -> None:
    console = Console()
    console.node("n1", cpu=4)
    assert console.group("g", [{"cpu": 2}, {"cpu": 2}]).created
    assert console.nodes_of("g") == ["n1", "n1"]
    assert console.group("late", [{"cpu": 1}, {"cpu": 1}]).created
    assert console.nodes_of("late") == [None, None]
    found = console.state.group("late")
    assert found is not None
    assert "the nearest is node n1 with {'cpu': 0.0}" in found.waits_for
    console.handle(GroupRemoved(group="g", cause="c"))
    assert console.nodes_of("late") == ["n1", "n1"]


@pytest.mark.parametrize(
    ("strategy", "bundles", "nodes"),
    [
        ("PACK", [{"cpu": 1}, {"cpu": 1}], [{"n1"}, {"n1"}]),
        ("STRICT_PACK", [{"cpu": 3}, {"cpu": 1}], [{"n1"}, {"n1"}]),
        ("SPREAD", [{"cpu": 1}, {"cpu": 1}], [{"n1", "n2"}]),
        ("STRICT_SPREAD", [{"cpu": 2}, {"cpu": 1}], [{"n1", "n2"}]),
    ],
)
def test_the_four_strategies(strategy: str, bundles: list[dict[str, float]], nodes: list[set[str]]) -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.node("n2", cpu=4)
    assert console.group("g", bundles, strategy).created
    found = console.nodes_of("g")
    assert {frozenset(each) for each in nodes} == {frozenset(found)} if "SPREAD" in strategy else len(set(found)) == 1


@pytest.mark.parametrize(
    ("strategy", "bundles", "words"),
    [
        ("PACK", [{"gpu": 1}], "bundle 0 asks for {'gpu': 1.0}; the nearest is node n1 with {'gpu': 0.0}"),
        ("STRICT_PACK", [{"cpu": 3}, {"cpu": 3}], "STRICT_PACK asks one node for {'cpu': 6.0}"),
        ("STRICT_SPREAD", [{"cpu": 1}] * 3, "STRICT_SPREAD asks for different nodes for bundles 0, 1 and 2"),
    ],
)
def test_a_group_that_can_never_fit_is_refused_with_the_best_there_is(
    strategy: str, bundles: list[dict[str, float]], words: str
) -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.node("n2", cpu=4)
    answer = console.group("g", bundles, strategy)
    assert (answer.error, answer.plan) == ("infeasible", None)
    assert words in answer.message
    assert console.state.group("g") is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bundles": []}, "at least 1 item"),
        ({"bundles": [{}]}, "bundle 0 asks for nothing"),
        ({"bundles": [{"cpu": -1}]}, "'cpu' cannot be -1"),
        ({"bundles": [{"cpu": float("nan")}]}, "'cpu' cannot be nan"),
        ({"bundles": [{"cpu": 1}], "strategy": "RANDOM"}, "'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD'"),
    ],
)
def test_a_group_that_makes_no_sense_says_why(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PlacementGroupSpec(group_id="g", namespace="default", **fields)


def test_a_group_has_its_name_for_itself_and_can_be_had_again() -> None:
    console = Console()
    console.node("n1", cpu=4)
    bundles: list[dict[str, float]] = [{"cpu": 1}]
    assert console.group("a", bundles, name="train").created
    assert console.group("b", bundles, name="train").error == "name taken"
    same = console.group("b", bundles, name="train", get_if_exists=True)
    assert same.plan is not None
    assert (same.plan.group_id, same.created) == ("a", False)
    assert console.group("c", [{"cpu": 2}], name="train", get_if_exists=True).error == "name taken"
    assert console.group("d", bundles, name="train", namespace="other").created
    console.handle(GroupRemoved(group="a", cause="c"))
    assert console.group("e", bundles, name="train").created


def test_actors_of_a_group_live_where_their_bundle_is_and_take_from_it_only() -> None:
    console = Console()
    console.node("n1", cpu=2)
    console.node("n2", cpu=2, gpu=1)
    console.group("g", [{"cpu": 1}, {"cpu": 2, "gpu": 1}], "STRICT_SPREAD")
    first, second = Bundle(group="g", index=0), Bundle(group="g", index=1)
    assert console.spawn("a", bundle=second, resources={"gpu": 1}).created
    assert console.info("a").node == "n2"
    assert console.spawn("b", bundle=first).created
    assert console.info("b").node == "n1"
    assert console.spawn("late", bundle=second, resources={"gpu": 0.5}).created
    assert console.info("late").waits_for == (
        "it asks for {'gpu': 0.5}, and free in bundle 1 of its group are: {'cpu': 2.0, 'gpu': 0.0}"
    )
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.info("late").node == "n2"
    free = {node.id: node.resources_free for node in console.state.nodes()}
    assert free == {"n1": {"cpu": 1.0}, "n2": {"cpu": 0.0, "gpu": 0.0}}, "what a bundle has is reserved, used or not"


@pytest.mark.parametrize(
    ("bundle", "resources", "words"),
    [
        (Bundle(group="g", index=1), {}, "has bundles 0 to 0, and no 1"),
        (Bundle(group="g", index=-1), {}, "and no -1"),
        (Bundle(group="gone", index=0), {}, "there is no placement group gone"),
        (Bundle(group="g", index=0), {"cpu": 2}, "asks for {'cpu': 2.0}, and bundle 0 of its group has {'cpu': 1.0}"),
    ],
)
def test_an_actor_that_does_not_fit_its_bundle_is_refused(
    bundle: Bundle, resources: dict[str, float], words: str
) -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 1}])
    answer = console.spawn("a", bundle=bundle, resources=resources)
    assert answer.error == "infeasible"
    assert words in answer.message


def test_a_group_that_is_removed_takes_its_actors_along_and_gives_everything_back() -> None:
    console = Console()
    console.node("n1", cpu=2)
    console.group("g", [{"cpu": 2}], name="n")
    console.spawn("a", bundle=Bundle(group="g", index=0), resources={"cpu": 1}, lifetime="detached")
    console.spawn("other")
    console.handle(GroupRemoved(group="g", cause="its group was removed"))
    assert (console.info("a").state, console.info("a").last_error) == ("dead", "its group was removed")
    assert [stop.actor for stop in console.of(StopActor)] == ["a"]
    assert console.info("other").state == "starting"
    assert console.state.nodes()[0].resources_free == {"cpu": 2.0}
    console.handle(GroupRemoved(group="g", cause="again"))


def test_a_session_s_groups_end_with_it_and_detached_ones_stay() -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 1}])
    console.group("kept", [{"cpu": 1}], lifetime="detached")
    console.spawn("a", bundle=Bundle(group="g", index=0))
    assert console.state.sessions() == {"s"}
    console.handle(SessionEnded(session="s"))
    assert [group.id for group in console.state.groups()] == ["kept"]
    assert console.info("a").state == "dead"


def test_bundles_of_a_lost_node_go_elsewhere_and_their_actors_follow() -> None:
    console = Console()
    for node in ("n1", "n2", "n3"):
        console.node(node, cpu=2)
    console.group("g", [{"cpu": 2}, {"cpu": 2}], "STRICT_SPREAD")
    before = console.nodes_of("g")
    console.spawn("a", bundle=Bundle(group="g", index=0), options={"max_restarts": 5})
    console.now = TIMEOUT + 1
    for node in ("n1", "n2", "n3"):
        if node != before[0]:
            console.node(node, cpu=2)
    console.handle(Tick())
    after = console.nodes_of("g")
    assert after[1] == before[1]
    assert {*before, *after} == {"n1", "n2", "n3"}
    assert console.info("a").node == after[0]


def test_a_group_whose_node_is_lost_waits_for_room_and_its_actors_with_it() -> None:
    console = Console()
    console.node("n1", cpu=2)
    console.node("n2", cpu=1)
    console.group("g", [{"cpu": 2}])
    console.spawn("a", bundle=Bundle(group="g", index=0), options={"max_restarts": 5})
    console.now = TIMEOUT + 1
    console.node("n2", cpu=1)
    console.handle(Tick())
    assert console.nodes_of("g") == [None]
    assert console.info("a").waits_for.startswith("its placement group, which waits for bundle 0 asks for {'cpu': 2.0}")
    console.node("n3", cpu=2)
    assert console.nodes_of("g") == ["n3"]
    assert console.info("a").node == "n3"


def test_a_node_that_leaves_gives_its_bundles_to_others_before_its_actors_have_moved() -> None:
    console = Console()
    console.node("n1", cpu=2)
    console.group("g", [{"cpu": 2}])
    console.spawn("a", bundle=Bundle(group="g", index=0))
    console.node("n2", cpu=2)
    console.node("n1", leaving=True, cpu=2)
    assert console.nodes_of("g") == ["n2"]
    assert console.info("a").node == "n1"


def test_a_scaler_adds_nodes_for_groups_and_not_for_what_waits_inside_them() -> None:
    """No node makes room in a bundle."""
    console = Console()
    console.node("n1", cpu=1)
    console.group("g", [{"cpu": 1}])
    console.group("h", [{"cpu": 1}])
    for number in range(3):
        console.spawn(f"a{number}", bundle=Bundle(group="g", index=0), resources={"cpu": 1})
        console.spawn(f"b{number}", bundle=Bundle(group="h", index=0), resources={"cpu": 1})
    needs = Requirements(resources={"cpu": 1}, bundle=Bundle(group="g", index=0))
    console.handle(TaskQueueUsed(queue="q", namespace="default", needs=needs))
    console.handle(QueueDepths(waiting={"q": 5}))
    assert [(demand.kind, demand.resources, demand.count) for demand in console.state.demand()] == [
        ("group", {"cpu": 1.0}, 1)
    ]


ISOLATED = {"isolation": "process"}


@pytest.mark.parametrize("worker_first", [False, True])
def test_an_actor_on_its_way_to_a_node_that_left_in_order_goes_elsewhere(worker_first: bool) -> None:
    """A node that leaves starts no worker any more, and what it has never started it never names."""
    console = Console()
    console.node("n1", cpu=2)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    assert [order.node for order in console.of(StartWorker)] == ["n1"]
    console.node("n2", cpu=2)
    console.node("n1", cpu=2, leaving=True)
    if worker_first:
        console.handle(WorkerStopped(node="n1", worker="n1-0-1"))
    else:
        console.node("n1", workers=0, cpu=2, leaving=True)
    assert [order.node for order in console.of(StartWorker)] == ["n2"]
    assert (console.info("a").node, console.info("a").restarts) == ("n2", 0)


def test_an_actor_on_its_way_to_a_node_that_starts_again_is_on_its_way_to_the_new_one() -> None:
    console = Console()
    console.node("n1", cpu=2)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    [first] = console.of(StartWorker)
    console.node("n1", cpu=1, pid=2)
    [again] = console.of(StartWorker)
    assert (again.node, again.actor) == ("n1", "a")
    assert again.worker != first.worker
    assert console.state.nodes()[0].resources_free == {"cpu": 0.0}


def test_a_node_that_comes_back_with_less_has_what_it_says() -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.group("g", [{"cpu": 3}])
    console.spawn("a", resources={"cpu": 1}, options={"max_restarts": 9})
    console.node("n1", pid=2, cpu=2)
    assert console.nodes_of("g") == [None]
    assert console.info("a").node == "n1"
    assert console.state.nodes()[0].resources_free == {"cpu": 1.0}


# ---- actors


def test_a_container_that_starts_again_has_the_same_host_and_pid_and_is_another_node() -> None:
    console = Console()
    console.node("n1", cpu=4)
    console.spawn("a", resources={"cpu": 1}, options=ISOLATED)
    console.node("n1", run="2", cpu=2)
    assert console.state.nodes()[0].resources_total == {"cpu": 2.0}
    assert console.of(StartWorker)
    console.node("n1", run="2", cpu=2)
    assert not console.last


def test_labels_that_an_actor_prefers_are_chosen_where_there_is_room_and_those_it_needs_always() -> None:
    console = Console()
    console.node("n1", cpu=1)
    console.node("n2", cpu=1)
    assert console.spawn("a", prefer={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("a").node == "n2"
    assert console.spawn("b", prefer={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("b").node == "n1"
    assert console.spawn("c", labels={"name": "n2"}, resources={"cpu": 1}).created
    assert console.info("c").node is None


def _churn(console: Console, rounds: int) -> int:
    """One small actor at a time gives way to the next, which is there before. Returns when the large one has a place."""
    console.spawn("s0", resources={"cpu": 1}, labels={"name": "n1"})
    console.spawn("large", resources={"cpu": 2})
    for number in range(1, rounds):
        console.spawn(f"s{number}", resources={"cpu": 1})
        console.handle(KillRequested(actor=f"s{number - 1}", cause="c"))
        if console.info("large").node is not None:
            return number
    return rounds


FEW = 10  # others that may go first, in these tests


def test_a_large_request_is_not_starved_by_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", FEW)
    console = Console()
    console.node("n1", cpu=2)
    assert FEW <= _churn(console, 3 * FEW) <= FEW + 2
    assert console.info("large").node == "n1"


def test_small_ones_would_starve_a_large_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", 10**9)
    console = Console()
    console.node("n1", cpu=2)
    assert _churn(console, 3 * FEW) == 3 * FEW


@pytest.mark.parametrize(
    "asked",
    [
        {"resources": {"cpu": 2}},  # where it would fit somebody lives for ever
        {"resources": {"cpu": 1}, "labels": {"name": "n1"}},
        {"resources": {"cpu": 1}, "node": "n1"},
        {"resources": {"cpu": 1}, "bundle": Bundle(group="g", index=0)},
    ],
)
def test_one_that_is_never_served_holds_up_nobody_elsewhere(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "STARVATION_LIMIT", FEW)
    console = Console()
    console.node("n1", cpu=3)
    console.spawn("for ever", resources={"cpu": 2})
    console.group("g", [{"cpu": 1}])
    console.spawn("in the bundle", resources={"cpu": 1}, bundle=Bundle(group="g", index=0))
    console.node("n2", cpu=1)
    assert console.spawn("waits", **asked).created
    for number in range(3 * FEW):
        console.spawn(f"s{number}", resources={"cpu": 1})
        assert console.info(f"s{number}").node == "n2"
        assert console.spawn(f"t{number}").created
        assert console.info(f"t{number}").node is not None, "what asks for nothing waits for nobody"
        console.handle(KillRequested(actor=f"s{number}", cause="c"))
    assert console.info("waits").node is None


def test_a_successor_tries_those_who_wait_in_their_order() -> None:
    console = Console()
    console.node("n1", cpu=1)
    options = {"max_restarts": 9}
    console.spawn("first", resources={"cpu": 1}, options=options)
    console.spawn("second", resources={"cpu": 1}, options=options)
    console.handle(WorkerLost(node="n1", worker="n1-0-1", cause="c"))
    console.state = ControlState.restored(console.parts, node_timeout=TIMEOUT, now=console.now)
    console.node("n1", pid=2, cpu=1)
    assert console.info("second").node == "n1", "it waited before the first one did again"


# ---- worlds by chance

AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0])
RESOURCES = st.fixed_dictionaries({"cpu": AMOUNTS}, optional={"gpu": AMOUNTS}).map(
    lambda resources: {name: amount for name, amount in resources.items() if amount}
)
BUNDLES = st.lists(RESOURCES.filter(bool), min_size=1, max_size=3)
STRATEGIES = st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 4), st.sampled_from([1.0, 2.0, 4.0]), st.sampled_from([0.0, 1.0])),
        st.tuples(st.just("leave"), st.integers(0, 4)),
        st.tuples(st.just("lose"), st.integers(0, 4)),
        st.tuples(st.just("deaf"), st.integers(0, 4)),
        st.tuples(st.just("worker"), st.integers(0, 4)),
        st.tuples(st.just("spawn"), RESOURCES, st.booleans()),
        st.tuples(st.just("inside"), st.integers(0, 9), st.integers(0, 2), RESOURCES),
        st.tuples(st.just("kill"), st.integers(0, 30)),
        st.tuples(st.just("group"), BUNDLES, STRATEGIES),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("tasks"), RESOURCES, st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("tasks_inside"), st.integers(0, 9), st.integers(0, 2), RESOURCES, st.integers(0, 5)),
        st.tuples(st.just("through"), st.integers(0, 9)),
        st.tuples(st.just("time"), st.sampled_from([0.5, 5.0])),
    ),
    max_size=40,
)


Ordered = StartActor | DeleteMailbox | StartWorker | StopWorker | StartSlot | StopSlot | DeleteTaskQueue


class World(Console):
    """Nodes, actors, groups and tasks that come and go; everything that is ordered is done at once, but where a node is deaf:
    it starts no worker any more, and ends or is started anew."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: deque[Ordered] = deque()
        self.there: dict[str, dict[str, float]] = {}
        self.pids: dict[str, int] = {}
        self.deaf: set[str] = set()
        self.own: dict[str, dict[str, str]] = {}
        self.placed: dict[str, dict[str, str]] = {}
        self.tasks: dict[str, int] = {}
        self.count = 0

    def step(self, step: tuple[Any, ...]) -> None:
        getattr(self, f"do_{step[0]}")(*step[1:])
        while self.orders:
            self._obey(self.orders.popleft())

    def handle(self, event: Event) -> list[Command]:
        super().handle(event)
        self.orders.extend(order for order in self.last if isinstance(order, Ordered))
        return self.last

    def _obey(self, order: Ordered) -> None:
        match order:
            case StartActor():
                residency = order.residency
                self.handle(
                    ActorStarted(actor=residency.plan.actor_id, worker=order.worker, incarnation=residency.incarnation)
                )
            case DeleteMailbox():
                self.handle(MailboxDeleted(actor=order.plan.actor_id))
            case DeleteTaskQueue():
                self.tasks.pop(order.queue, None)
                self.handle(MailboxDeleted(actor=order.queue))
            case StartWorker() if order.node in self.there and order.node not in self.deaf:
                self.own[order.node][order.worker] = order.actor
                self._report(order.node)
            case StopWorker() if order.node in self.there:
                if self.own[order.node].pop(order.worker, None) is not None:
                    self.handle(WorkerStopped(node=order.node, worker=order.worker))
            case StartSlot() if order.node in self.there:
                self.placed[order.node][order.slot] = order.queue
                self._report(order.node)
            case StopSlot() if order.node in self.there:
                self.placed[order.node].pop(order.slot, None)
                self.handle(SlotEnded(node=order.node, slot=order.slot))
            case _:
                pass  # its node is gone

    def _report(self, node: str, **more: Any) -> None:
        given: dict[str, Any] = {"workers": 2, "own": self.own[node], "placed": tuple(self.placed[node]), **more}
        self.node(node, pid=self.pids[node], **given, **self.there[node])

    def do_join(self, number: int, cpu: float, gpu: float) -> None:
        node = f"n{number}"
        self.pids[node] = self.pids.get(node, 0) + 1
        self.there[node] = {"cpu": cpu} | ({"gpu": gpu} if gpu else {})
        self.own[node], self.placed[node] = {}, {}
        self.deaf.discard(node)
        self._report(node)

    def do_deaf(self, number: int) -> None:
        self.deaf.add(f"n{number}")

    def do_leave(self, number: int) -> None:
        node = f"n{number}"
        if node in self.there:
            self._report(node, leaving=True)
            self.own[node], self.placed[node] = {}, {}
            self._report(node, workers=0, leaving=True)
            del self.there[node]

    def do_lose(self, number: int) -> None:
        self.there.pop(f"n{number}", None)
        self.now += TIMEOUT + 1
        for node in self.there:
            self._report(node)
        self.handle(Tick())

    def do_worker(self, number: int) -> None:
        node = f"n{number}"
        if node in self.there:
            self.handle(WorkerLost(node=node, worker=f"{node}-0-{self.pids[node]}", cause="killed"))
            self._report(node)

    def do_tasks(self, resources: dict[str, float], count: int, priority: int) -> None:
        self._submit(Requirements(resources=resources or {"cpu": 1}), count, priority)

    def do_tasks_inside(self, group: int, index: int, resources: dict[str, float], count: int) -> None:
        self._submit(Requirements(resources=resources, bundle=Bundle(group=f"g{group}", index=index)), count, 0)

    def _submit(self, needs: Requirements, count: int, priority: int) -> None:
        queue = f"q{needs.suffix}"
        self.handle(TaskQueueUsed(queue=queue, namespace="default", needs=needs, priority=priority))
        if self.of(TaskQueueReply)[0].error is None:
            self.tasks[queue] = self.tasks.get(queue, 0) + count
            self.look()

    def look(self) -> None:
        if self.state.would_act_on(self.tasks):
            self.handle(QueueDepths(waiting=dict(self.tasks)))

    def do_through(self, number: int) -> None:
        """One queue's tasks are done, and its slots end."""
        for queue in list(self.tasks)[number : number + 1]:
            self.tasks[queue] = 0
            self.look()
            for node, slots in self.placed.items():
                for slot in [slot for slot, of in slots.items() if of == queue]:
                    del slots[slot]
                    self.handle(SlotEnded(node=node, slot=slot))

    def do_time(self, seconds: float) -> None:
        self.now += seconds
        for node in self.there:
            self._report(node)
        self.look()
        self.handle(Tick())

    def do_spawn(self, resources: dict[str, float], standby: bool) -> None:
        self.count += 1
        backed = standby and "gpu" not in resources
        options: dict[str, Any] = {"durable": True, "standby": True} if backed else {"max_restarts": 1000}
        self.spawn(f"a{self.count}", resources=resources, options=options)

    def do_inside(self, group: int, index: int, resources: dict[str, float]) -> None:
        self.count += 1
        bundle = Bundle(group=f"g{group}", index=index)
        self.spawn(f"a{self.count}", bundle=bundle, resources=resources, options={"max_restarts": 1000})

    def do_kill(self, number: int) -> None:
        self.handle(KillRequested(actor=f"a{number}", cause="killed"))

    def do_group(self, bundles: list[dict[str, float]], strategy: str) -> None:
        taken = {info.id for info in self.state.groups()}
        free = next((f"g{number}" for number in range(10) if f"g{number}" not in taken), None)
        if free is not None:
            self.group(free, bundles, strategy)

    def do_remove(self, number: int) -> None:
        self.handle(GroupRemoved(group=f"g{number}", cause="removed"))

    def settle(self) -> None:
        """What is deaf starts anew, large nodes join, and everything that can be placed is."""
        for node in sorted(self.deaf & self.there.keys()):
            self.step(("join", int(node[1:]), 4.0, 1.0))
        for number in range(5, 13):
            self.step(("join", number, 400.0, 100.0))
        for _ in range(10):
            self.step(("time", 0.5))
            for queue in self.state.task_queues():
                if queue.needs.bundle is not None and queue.slots:  # a bundle may have no room for more
                    self.tasks[queue.name] = 0
        self.step(("time", 0.5))


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None)
@given(STEPS)
@example([("group", [{"gpu": 0.5}], "PACK"), ("tasks_inside", 0, 0, {"gpu": 0.5}, 5)])
def test_whatever_happens_no_node_is_given_away_twice_and_all_that_wait_are_served_in_the_end(
    steps: list[tuple[Any, ...]],
) -> None:
    world = World()
    for step in steps:
        world.step(step)
    world.settle()
    waiting = [info for info in world.state.actors() if info.state not in ("running", "dead")]
    assert not waiting
    assert all(isinstance(group, GroupInfo) and group.is_ready for group in world.state.groups())
    assert not world.state._pending.items()
    for queue in world.state.task_queues():
        assert queue.slots or not world.tasks[queue.name], "nobody serves a queue in which tasks wait"
    for queue in world.state._tables.task_queues.all():
        for slot in queue.slots.values():
            assert slot.id in world.placed[slot.node or ""]
    for group in world.state._tables.groups.all():
        for actor in world.state._tables.directory.owned_by(f"group:{group.id}"):
            assert actor.plan.bundle is not None
            assert actor.node == group.nodes[actor.plan.bundle.index]


def test_amounts_never_drift() -> None:
    console = Console()
    console.node("n1", cpu=1)
    for number in range(200):
        console.spawn(f"a{number}", resources={"cpu": 0.1})
        if number >= 10:
            console.handle(KillRequested(actor=f"a{number - 10}", cause="c"))
    assert sum(info.node is not None for info in console.state.actors()) == 10
    assert units({"cpu": 0.1})["cpu"] * 10 == units({"cpu": 1})["cpu"]
