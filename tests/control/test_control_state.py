"""Control's decisions, without a broker or a clock: sentences, and a simulated cluster by seed."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from actorhub.actors.spec import ActorOptions
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Acknowledge,
    Command,
    CreateMailbox,
    DeleteMailbox,
    MakeDeadLetters,
    RequestReport,
    SpawnReply,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
)
from actorhub.control_api.events import (
    ActorFailed,
    ActorStarted,
    ActorStopped,
    Event,
    KillRequested,
    MailboxDeleted,
    NodeReport,
    Running,
    SessionEnded,
    SpawnRequested,
    TaskQueueUsed,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control_api.specs import Activation, SpawnSpec

CLASS = "app:Actor"
TIMEOUT = 8.0


def _plan(actor_id: str = "a", **overrides: Any) -> SpawnSpec:
    options = ActorOptions(**overrides.pop("options", {}))
    fields = {"owner": "session", "class_name": CLASS, "namespace": "default"} | overrides
    return SpawnSpec(actor_id=actor_id, options=options, **fields)


def _report(node: str, *workers: str | WorkerReport, **fields: Any) -> NodeReport:
    reports = [worker if isinstance(worker, WorkerReport) else WorkerReport(id=worker, pid=1) for worker in workers]
    defaults: dict[str, Any] = {"host": "h", "pid": 1, "version": "1", "classes": [CLASS], "known": True}
    return NodeReport(node=node, workers=reports, **(defaults | fields))


def _keep(parts: dict[str, bytes], state: ControlState) -> None:
    """What a journal does."""
    for key, body in state.changes().items():
        if body is None:
            parts.pop(key, None)
        else:
            parts[key] = body


def _restored(parts: dict[str, bytes], now: float) -> ControlState:
    return ControlState.restored(parts, node_timeout=TIMEOUT, now=now)


def _all_of(state: ControlState) -> object:
    """All that decisions depend on, but for the time of the nodes' last words."""
    cleanup, directory = state._cleanup._queue, state._tables.directory
    actors = list(directory.all())
    keys = [f"{kind}{actor.id}" for actor in actors for kind in ("plan.", "life.")]
    keys += [f"node.{node}" for node in sorted(state._tables.nodes.by_id)] + ["cluster"]
    return (
        {key: state.row(key) for key in keys},
        [actor.id for actor in actors],
        [item.id for item in state._pending.items()],
        sorted(actor.id for actor in cleanup._unassigned),
        sorted(cleanup._assigned),
        {owner: sorted(actor.id for actor in directory.owned_by(owner)) for owner in directory.owners()},
        {worker.id: worker.load for worker in state._tables.nodes.workers.values()},
        {node.id: dict(node.reserved) for node in state._tables.nodes.by_id.values()},
    )


class Console:
    """A state, its clock, and what it ordered last. After each event a successor would know the same."""

    def __init__(self, *workers: str, node: str = "n1") -> None:
        self.state = ControlState(node_timeout=TIMEOUT)
        self.parts: dict[str, bytes] = {}
        self.now = 0.0
        self.last: list[Command] = []
        if workers:
            self.handle(_report(node, *workers))

    def handle(self, event: Event) -> list[Command]:
        self.last = self.state.handle(event, self.now)
        _keep(self.parts, self.state)
        assert _all_of(_restored(self.parts, self.now)) == _all_of(self.state)
        return self.last

    def fail_over(self) -> None:
        self.state = _restored(self.parts, self.now)

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.last if isinstance(command, kind)]

    def spawn(self, plan: SpawnSpec, **fields: Any) -> SpawnReply:
        self.handle(SpawnRequested(plan=plan, **fields))
        [answer] = self.of(SpawnReply)
        return answer  # type: ignore[no-any-return]

    def run(self, plan: SpawnSpec) -> StartActor:
        """Spawn it, and say that it has started."""
        self.spawn(plan)
        [order] = self.of(StartActor)
        incarnation = order.residency.incarnation
        self.handle(ActorStarted(actor=plan.actor_id, worker=order.worker, incarnation=incarnation))
        return order  # type: ignore[no-any-return]

    def info(self, actor_id: str = "a") -> Any:
        return self.state.describe(actor_id)


# ---- spawning and names


def test_a_spawn_is_recorded_answered_and_ordered_at_once() -> None:
    console = Console("w1")
    assert console.spawn(_plan()).created
    assert [type(command).__name__ for command in console.last] == [
        *("CreateMailbox", "SpawnReply", "MakeDeadLetters", "StartActor", "ActorStateChanged")
    ]
    assert console.info().state == "starting"


def test_a_spawn_that_is_asked_again_changes_nothing() -> None:
    console = Console("w1")
    console.run(_plan())
    again = console.spawn(_plan())
    assert again.created
    assert console.of(CreateMailbox) == console.of(StartActor) == []


def test_a_spawn_waits_for_the_first_worker() -> None:
    console = Console()
    assert console.spawn(_plan()).created
    assert console.of(StartActor) == []
    console.handle(_report("n1", "w1"))
    assert [order.worker for order in console.of(StartActor)] == ["w1"]


def test_a_name_has_one_living_holder_and_is_free_after_its_death() -> None:
    console = Console("w1")
    console.run(_plan("a", name="n"))
    refused = console.spawn(_plan("b", name="n"))
    assert (refused.plan, refused.error) == (None, "name taken")
    assert console.info("b") is None
    shared = console.spawn(_plan("b", name="n"), get_if_exists=True)
    assert shared.plan is not None
    assert (shared.plan.actor_id, shared.created) == ("a", False)
    other_class = console.spawn(_plan("b", name="n", class_name="app:Other"), get_if_exists=True)
    assert other_class.error == "name taken"
    assert console.spawn(_plan("c", name="n", namespace="elsewhere")).created
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.state.find("default", "n") is None
    assert console.spawn(_plan("b", name="n")).created


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"node": "n9"}, "asks for node 'n9'; there are: n1"),
        ({"class_name": "app:Unknown"}, "no node knows app:Unknown; start one with `actorhub node app`"),
        ({"labels": {"zone": "b"}}, "asks for labels {'zone': 'b'}"),
        ({"options": {"resources": {"disk": 2}}}, "asks for resources {'disk': 2.0}; the most that any node has"),
    ],
)
def test_what_no_node_can_ever_run_is_refused_with_the_best_there_is(overrides: dict[str, Any], words: str) -> None:
    console = Console("w1")
    answer = console.spawn(_plan(**overrides))
    assert (answer.error, answer.plan) == ("infeasible", None)
    assert words in answer.message


# ---- placement


def test_actors_go_to_the_worker_with_the_fewest_and_resources_are_given_back() -> None:
    console = Console()
    console.handle(_report("n1", "w1", "w2", resources={"disk": 1}))
    orders = [console.run(_plan(str(number))).worker for number in range(6)]
    assert sorted(orders) == ["w1"] * 3 + ["w2"] * 3
    console.run(_plan("g1", options={"resources": {"disk": 1}}))
    console.spawn(_plan("g2", options={"resources": {"disk": 1}}))
    assert console.info("g2").state == "pending", "there is one, and it is taken"
    assert console.spawn(_plan("small")).created
    assert console.info("small").state == "starting", "one that waits does not hold up the others"
    console.handle(KillRequested(actor="g1", cause="c"))
    assert [order.residency.plan.actor_id for order in console.of(StartActor)] == ["g2"]
    [node] = console.state.nodes()
    assert node.resources_free == {"disk": 0.0}


def test_an_isolated_actor_gets_a_worker_of_its_own_which_ends_with_it() -> None:
    console = Console("w1")
    console.spawn(_plan(options={"isolation": "process"}))
    [asked] = console.of(StartWorker)
    assert console.of(StartActor) == []
    own = WorkerReport(id=asked.worker, pid=2, dedicated_to="a", hosted=[])
    console.handle(_report("n1", "w1", own))
    [order] = console.of(StartActor)
    assert order.worker == asked.worker
    assert console.of(StopWorker) == []
    console.handle(KillRequested(actor="a", cause="c"))
    assert [stop.worker for stop in console.of(StopWorker)] == [asked.worker]
    console.spawn(_plan("b"))
    assert [order.worker for order in console.of(StartActor)] == ["w1"], "nobody else moves in"


# ---- dying


def test_a_lost_worker_s_actors_start_again_elsewhere_with_a_higher_incarnation() -> None:
    console = Console("w1", "w2")
    first = console.run(_plan())
    other = "w2" if first.worker == "w1" else "w1"
    console.handle(WorkerLost(node="n1", worker=first.worker, cause="killed by SIGKILL"))
    [again] = console.of(StartActor)
    assert again.worker == other
    assert again.residency.incarnation > first.residency.incarnation
    assert (again.residency.restarts, console.info().last_error) == (1, "killed by SIGKILL")


def test_an_actor_restarts_max_restarts_times_and_then_dies_of_the_cause() -> None:
    console = Console("w1", "w2", "w3")
    order = console.run(_plan(options={"max_restarts": 1}))
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="first"))
    [order] = console.of(StartActor)
    running = [Running(actor="a", call="c1", method="crash")]
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="second", running=running))
    assert console.info().state == "dead"
    assert console.info().last_error == "second, while it ran crash; it was restarted 1 times before"


def test_restarts_that_are_long_ago_do_not_count_where_there_is_a_window() -> None:
    console = Console("w1", "w2")
    order = console.run(_plan(options={"max_restarts": 1, "restart_window": 60.0}))
    for now in (100.0, 200.0):
        console.now = now
        console.handle(
            ActorFailed(
                actor="a", worker=order.worker, incarnation=order.residency.incarnation, phase="life", error="e"
            )
        )
        [order] = console.of(StartActor)
        assert console.info().state == "starting"
    console.now = 230.0
    console.handle(
        ActorFailed(actor="a", worker=order.worker, incarnation=order.residency.incarnation, phase="life", error="e")
    )
    assert console.info().state == "dead"
    assert console.info().last_error == "e; it was restarted 1 times before in 60 s"


def test_a_durable_actor_is_made_anew_however_often_its_worker_dies() -> None:
    console = Console(*(f"w{number}" for number in range(6)))
    order = console.run(_plan(options={"durable": True, "max_restarts": 0}))
    for _ in range(4):
        console.handle(WorkerLost(node="n1", worker=order.worker, cause="c"))
        [order] = console.of(StartActor)
    assert (console.info().state, console.info().restarts) == ("starting", 4)


def test_a_call_that_kills_its_workers_too_often_is_poison() -> None:
    console = Console(*(f"w{number}" for number in range(6)))
    order = console.run(_plan(options={"max_restarts": 100, "max_redeliveries": 2}))
    poison = []
    for _ in range(4):
        running = [Running(actor="a", call="bad", method="m")]
        console.handle(WorkerLost(node="n1", worker=order.worker, cause="c", running=running))
        [order] = console.of(StartActor)
        poison.append(order.poison)
    assert poison == [[], [], ["bad"], ["bad"]]


def test_a_constructor_that_raises_is_death_at_birth_without_restart() -> None:
    console = Console("w1")
    console.spawn(_plan())
    [order] = console.of(StartActor)
    console.handle(
        ActorFailed(
            actor="a", worker="w1", incarnation=order.residency.incarnation, phase="birth", error="ValueError: no"
        )
    )
    info = console.info()
    assert (info.state, info.died_at_birth, info.restarts) == ("dead", True, 0)
    [bury] = console.of(DeleteMailbox)
    assert (bury.cause, bury.at_birth) == ("ValueError: no", True)


def test_a_session_s_end_takes_its_actors_and_their_children_and_spares_detached_ones() -> None:
    console = Console("w1")
    for plan in (
        _plan("a"),
        _plan("child", owner="actor:a"),
        _plan("grandchild", owner="actor:child"),
        _plan("kept", lifetime="detached"),
        _plan("other", owner="another"),
    ):
        console.run(plan)
    assert console.state.sessions() == {"session", "another"}
    console.handle(SessionEnded(session="session"))
    states = {info.id: info.state for info in console.state.actors()}
    dead = ["a", "child", "grandchild"]
    assert states == dict.fromkeys(dead, "dead") | {"kept": "running", "other": "running"}
    assert console.state.sessions() == {"another"}


def test_the_dead_are_buried_once_and_again_if_who_buries_them_dies() -> None:
    console = Console("w1", "w2")
    console.run(_plan())
    console.handle(KillRequested(actor="a", cause="c"))
    [bury] = console.of(DeleteMailbox)
    console.handle(Tick())
    assert console.of(DeleteMailbox) == []
    console.handle(WorkerLost(node="n1", worker=bury.worker, cause="c"))
    [again] = console.of(DeleteMailbox)
    assert again.worker != bury.worker
    console.handle(MailboxDeleted(actor="a"))
    console.handle(MailboxDeleted(actor="a"))
    console.handle(WorkerLost(node="n1", worker=again.worker, cause="c"))
    console.handle(_report("n1", "w3"))
    assert console.of(DeleteMailbox) == []
    assert console.info().state == "dead", "what it died of can still be asked"


def test_who_should_bury_may_be_the_last_worker_and_die() -> None:
    console = Console("w1")
    console.run(_plan())
    console.handle(KillRequested(actor="a", cause="c"))
    console.handle(WorkerLost(node="n1", worker="w1", cause="c"))
    assert console.of(DeleteMailbox) == []
    console.fail_over()
    console.handle(_report("n1", "w2"))
    assert [order.worker for order in console.of(DeleteMailbox)] == ["w2"]


def test_the_dead_wait_for_a_worker_that_can_bury_them() -> None:
    console = Console()
    console.spawn(_plan())
    console.handle(KillRequested(actor="a", cause="c"))
    assert console.of(DeleteMailbox) == []
    console.handle(_report("n1", "w1"))
    assert len(console.of(DeleteMailbox)) == 1


# ---- standing by


def _backed(console: Console) -> tuple[StartActor, StartActor]:
    """The orders to live somewhere, and to stand by somewhere else; both are carried out."""
    console.spawn(_plan(options={"durable": True, "standby": True}))
    home, spot = console.of(StartActor)
    for order in (home, spot):
        console.handle(ActorStarted(actor="a", worker=order.worker, incarnation=order.residency.incarnation))
    return home, spot


def test_who_stands_by_is_on_another_node_and_goes_on_at_once() -> None:
    console = Console("w1", "w2")
    console.handle(_report("n2", "w3", resources={"x": 1}))
    home, spot = _backed(console)
    assert {home.worker, spot.worker} >= {"w3"}
    assert (console.info().worker, console.info().standby) == (home.worker, spot.worker)
    node = "n2" if home.worker == "w3" else "n1"
    console.handle(WorkerLost(node=node, worker=home.worker, cause="c"))
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.last_error) == ("running", spot.worker, 1, "c")
    [another] = console.of(StartActor)
    assert info.standby == another.worker not in (home.worker, spot.worker)
    late = ActorStarted(actor="a", worker=home.worker, incarnation=home.residency.incarnation)
    console.handle(late)
    assert [stop.worker for stop in console.of(StopActor)] == [home.worker]


def test_who_stood_by_and_is_lost_is_replaced_and_the_actor_hears_nothing_of_it() -> None:
    console = Console("w1", "w2", "w3")
    home, spot = _backed(console)
    console.handle(WorkerLost(node="n1", worker=spot.worker, cause="c"))
    [another] = console.of(StartActor)
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.standby) == ("running", home.worker, 0, another.worker)
    console.handle(ActorStopped(actor="a", worker=another.worker, incarnation=another.residency.incarnation))
    assert console.info().standby is not None, "its worker drained, and is still there"


def test_who_cannot_stand_by_is_replaced_and_the_actor_hears_nothing_of_it() -> None:
    console = Console("w1", "w2", "w3")
    home, spot = _backed(console)
    console.handle(
        ActorFailed(actor="a", worker=spot.worker, incarnation=spot.residency.incarnation, phase="life", error="e")
    )
    [another] = console.of(StartActor)
    info = console.info()
    assert (info.state, info.worker, info.restarts, info.standby) == ("running", home.worker, 0, another.worker)


def test_nobody_stands_by_where_there_is_one_worker_until_another_comes() -> None:
    console = Console("w1")
    console.spawn(_plan(options={"durable": True, "standby": True}))
    assert console.info().standby is None
    console.handle(_report("n2", "w2"))
    assert console.info().standby == "w2"
    console.handle(KillRequested(actor="a", cause="c"))
    assert {stop.worker for stop in console.of(StopActor)} == {"w1", "w2"}
    assert console.state._tables.nodes.workers["w2"].load == 0


def test_a_standby_needs_a_journal_and_a_worker_that_it_shares() -> None:
    for options in ({"standby": True}, {"standby": True, "durable": True, "isolation": "process"}):
        with pytest.raises(ValueError, match="a standby goes on from the journal"):
            ActorOptions(**options)


# ---- nodes


def test_a_silent_node_is_lost_with_its_workers() -> None:
    console = Console("w1")
    console.handle(_report("n2", "w2"))
    order = console.run(_plan())
    silent, other = ("n1", "n2") if order.worker == "w1" else ("n2", "n1")
    console.now = TIMEOUT - 1
    console.handle(_report(other, "w2" if other == "n2" else "w1"))
    console.now = TIMEOUT + 1
    console.handle(Tick())
    [again] = console.of(StartActor)
    assert again.worker != order.worker
    assert f"node {silent} was lost: silent for 9.0 s" in console.info().last_error
    assert [node.id for node in console.state.nodes()] == [other]


def test_a_leaving_node_gets_nothing_new_and_its_actors_move_without_a_restart() -> None:
    console = Console("w1")
    console.run(_plan())
    console.handle(_report("n1", "w1", leaving=True))
    console.handle(_report("n2", "w2"))
    console.run(_plan("b"))
    assert console.info("b").node == "n2"
    console.handle(WorkerStopped(node="n1", worker="w1"))
    assert [order.worker for order in console.of(StartActor)] == ["w2"]
    assert console.info().restarts == 0
    assert [node.id for node in console.state.nodes()] == ["n2"]


def test_a_word_of_an_old_incarnation_stops_it_and_changes_nothing_else() -> None:
    console = Console("w1", "w2")
    first = console.run(_plan())
    console.handle(WorkerLost(node="n1", worker=first.worker, cause="c"))
    before = console.info()
    old = first.residency.incarnation
    console.handle(ActorStarted(actor="a", worker=first.worker, incarnation=old))
    assert console.of(StopActor) == [StopActor(worker=first.worker, actor="a", incarnation=old)]
    console.handle(ActorFailed(actor="a", worker=first.worker, incarnation=old, phase="birth", error="e"))
    console.handle(ActorStopped(actor="a", worker=first.worker, incarnation=old))
    assert console.info() == before


def test_a_node_that_starts_again_under_its_name_is_another_one() -> None:
    console = Console()
    console.handle(_report("n1", "w1", pid=1, resources={"disk": 2}))
    console.run(_plan(options={"resources": {"disk": 1}}))
    console.handle(_report("n1", pid=2, resources={"disk": 1}, known=False))
    assert [acknowledged.node for acknowledged in console.of(Acknowledge)] == ["n1"]
    assert console.info().state == "restarting"
    assert console.state.nodes()[0].resources_free == {"disk": 1.0}
    console.handle(_report("n1", "w2", pid=2, resources={"disk": 1}))
    assert [order.worker for order in console.of(StartActor)] == ["w2"]


# ---- failover


def test_a_successor_knows_where_everything_is_and_what_it_has_been_through() -> None:
    console = Console("w1", "w2")
    order = console.run(_plan("a", name="n"))
    running = [Running(actor="a", call="bad", method="m")]
    console.handle(WorkerLost(node="n1", worker=order.worker, cause="c", running=running))
    [order] = console.of(StartActor)
    console.handle(ActorStarted(actor="a", worker=order.worker, incarnation=order.residency.incarnation))
    before = console.info()
    console.fail_over()
    assert console.info() == before
    assert (before.restarts, before.last_error) == (1, "c, while it ran m")
    assert console.spawn(_plan("b", name="n")).error == "name taken"
    console.handle(_report("n1", order.worker))
    assert console.of(RequestReport) == console.of(StartActor) == []


def test_a_successor_gives_every_node_its_time_and_then_takes_the_silent_for_lost() -> None:
    console = Console("w1")
    console.handle(_report("n2", "w2"))
    order = console.run(_plan())
    silent, other = ("n1", "n2") if order.worker == "w1" else ("n2", "n1")
    console.now = 100.0
    console.fail_over()
    console.handle(Tick())
    assert console.info().state == "running"
    console.now += TIMEOUT + 1
    console.handle(_report(other, f"w{other[1]}"))
    console.handle(Tick())
    [again] = console.of(StartActor)
    assert again.worker == f"w{other[1]}"
    assert f"node {silent} was lost" in console.info().last_error


def test_a_successor_does_not_refuse_what_a_node_that_it_has_not_heard_yet_may_run() -> None:
    console = Console("w1")
    console.fail_over()
    assert console.spawn(_plan("a", class_name="app:New")).created, "the node may have started again, with more"
    console.handle(_report("n1", "w1"))
    assert console.spawn(_plan("b", class_name="app:Newer")).error == "infeasible"


def test_dead_letters_get_a_place_once_in_each_namespace() -> None:
    console = Console("w1")
    console.spawn(_plan("a"))
    console.fail_over()
    console.spawn(_plan("b"))
    assert console.of(MakeDeadLetters) == []
    console.handle(TaskQueueUsed(queue="q", namespace="other"))
    assert [made.namespace for made in console.of(MakeDeadLetters)] == ["other"]


def test_a_node_that_was_taken_for_lost_says_what_it_hosts_and_ends_what_lives_elsewhere() -> None:
    console = Console("w1")
    order = console.run(_plan())
    console.now = TIMEOUT + 1
    console.handle(_report("n2", "w2"))
    console.handle(Tick())
    assert console.info().worker == "w2"
    console.handle(_report("n1", "w1"))
    assert [ask.node for ask in console.of(RequestReport)] == ["n1"]
    unknown = Activation(plan=_plan("x"), incarnation=1, restarts=0)
    console.handle(_report("n1", WorkerReport(id="w1", pid=1, hosted=[order.residency, unknown])))
    assert {stop.actor for stop in console.of(StopActor)} == {"a", "x"}
    assert console.info().worker == "w2"


def test_an_idle_dedicated_worker_whose_actor_lives_elsewhere_ends() -> None:
    console = Console()
    console.handle(_report("n1", WorkerReport(id="own", pid=1, dedicated_to="a", hosted=[])))
    assert [stop.worker for stop in console.of(StopWorker)] == ["own"]


def test_of_the_dead_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorhub.control.directory.MAX_DEAD_ACTORS", 2)
    console = Console("w1")
    for actor_id in ("a", "b", "c"):
        console.run(_plan(actor_id, arguments=b"long"))
        console.handle(KillRequested(actor=actor_id, cause="c"))
        console.handle(MailboxDeleted(actor=actor_id))
    assert [info.id for info in console.state.actors()] == ["b", "c"]
    assert {key for key in console.parts if key.startswith(("plan.", "life."))} == {
        "plan.b",
        "life.b",
        "plan.c",
        "life.c",
    }
    assert b"long" not in b"".join(console.parts.values())


# ---- a simulated cluster


@dataclass
class SimWorker:
    id: str
    node: str
    dedicated_to: str | None = None
    orders: deque[Command] = field(default_factory=deque)
    hosted: dict[str, Activation] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)


@dataclass
class SimNode:
    id: str
    known: bool = False
    orders: deque[Command] = field(default_factory=deque)
    workers: dict[str, SimWorker] = field(default_factory=dict)


class Simulation:
    """Nodes, workers and one control, with queues between them; everything may be late, and any of them may die.

    What control has handled is committed with all that follows from it; the parts of its state are kept.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = itertools.count(1)
        self.now = 0.0
        self.nodes: dict[str, SimNode] = {}
        self.to_control: deque[Event] = deque()
        self.parts: dict[str, bytes] = {}
        self.state = ControlState(node_timeout=TIMEOUT)
        self.asked: dict[str, SpawnSpec] = {}
        self.answered: dict[str, None] = {}
        self.killed: set[str] = set()
        for _ in range(2):
            self.add_node()

    # -- what happens

    def add_node(self) -> None:
        node = SimNode(f"n{next(self.ids)}")
        self.nodes[node.id] = node
        for _ in range(2):
            self._add_worker(node)

    def _add_worker(self, node: SimNode, worker_id: str | None = None, actor: str | None = None) -> None:
        worker = SimWorker(worker_id or f"w{next(self.ids)}", node.id, actor)
        node.workers[worker.id] = worker
        self.report(node)

    def report(self, node: SimNode, *, full: bool = True) -> None:
        workers = [
            WorkerReport(
                id=worker.id,
                pid=1,
                dedicated_to=worker.dedicated_to,
                hosted=list(worker.hosted.values()) if full else None,
            )
            for worker in node.workers.values()
        ]
        self.to_control.append(_report(node.id, *workers, known=node.known))

    def spawn(self) -> None:
        number = next(self.ids)
        name = f"name{self.random.randrange(6)}" if self.random.random() < 0.4 else None
        isolated = self.random.random() < 0.2
        plan = _plan(
            f"a{number}",
            name=name,
            owner=self.random.choice(["s1", "s2", *(f"actor:{actor}" for actor in list(self.answered)[-2:])]),
            options={"isolation": "process", "max_restarts": 1000}
            if isolated
            else {"durable": True, "standby": True}
            if self.random.random() < 0.3
            else {"max_restarts": 1000},
            lifetime="session",
        )
        self.asked[plan.actor_id] = plan
        self.to_control.append(SpawnRequested(plan=plan))

    def kill_actor(self) -> None:
        if self.answered:
            victim = self.random.choice(sorted(self.answered))
            self.killed.add(victim)
            self.to_control.append(KillRequested(actor=victim, cause="killed"))

    def end_session(self) -> None:
        self.to_control.append(SessionEnded(session="s2"))

    def kill_worker(self) -> None:
        node = self._some_node()
        if node is not None and node.workers:
            worker = node.workers.pop(self.random.choice(sorted(node.workers)))
            self.to_control.append(WorkerLost(node=node.id, worker=worker.id, cause="killed"))
            if worker.dedicated_to is None:
                self._add_worker(node)

    def kill_node(self) -> None:
        if len(self.nodes) > 1:
            node = self._some_node()
            assert node is not None
            del self.nodes[node.id]
            self.add_node()

    def fail_over(self) -> None:
        self.state = _restored(self.parts, self.now)

    def control_works(self) -> None:
        if self.to_control:
            commands = self.state.handle(self.to_control.popleft(), self.now)
            _keep(self.parts, self.state)
            if self.random.random() < 0.02:
                assert _all_of(_restored(self.parts, self.now)) == _all_of(self.state)
            self._carry_out(commands)

    def node_works(self) -> None:
        node = self._some_node()
        if node is not None and node.orders:
            match node.orders.popleft():
                case Acknowledge():
                    node.known = True
                case RequestReport():
                    self.report(node)
                case StartWorker() as order if order.worker not in node.workers:
                    self._add_worker(node, order.worker, order.actor)
                case StopWorker() as order if order.worker in node.workers:
                    del node.workers[order.worker]
                    self.to_control.append(WorkerStopped(node=node.id, worker=order.worker))

    def worker_works(self) -> None:
        workers = [worker for node in self.nodes.values() for worker in node.workers.values() if worker.orders]
        if workers:
            worker = self.random.choice(workers)
            self._obey(worker, worker.orders.popleft())

    def _obey(self, worker: SimWorker, order: Command) -> None:
        match order:
            case StartActor():
                residency = order.residency
                actor_id, incarnation = residency.plan.actor_id, residency.incarnation
                if worker.stopped.get(actor_id, 0) >= incarnation:
                    return
                known = worker.hosted.get(actor_id)
                if known is None or known.incarnation < incarnation:
                    worker.hosted[actor_id] = residency
                running = worker.hosted[actor_id].incarnation
                self.to_control.append(ActorStarted(actor=actor_id, worker=worker.id, incarnation=running))
            case StopActor():
                worker.stopped[order.actor] = max(order.incarnation, worker.stopped.get(order.actor, 0))
                known = worker.hosted.get(order.actor)
                if known is not None and known.incarnation <= order.incarnation:
                    del worker.hosted[order.actor]
                    self.to_control.append(
                        ActorStopped(actor=order.actor, worker=worker.id, incarnation=known.incarnation)
                    )
            case DeleteMailbox():
                self.to_control.append(MailboxDeleted(actor=order.plan.actor_id))

    def time_passes(self) -> None:
        self.now += 1.0
        for node in self.nodes.values():
            self.report(node, full=not node.known)
        self.to_control.append(Tick())

    def _some_node(self) -> SimNode | None:
        return self.nodes[self.random.choice(sorted(self.nodes))] if self.nodes else None

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SpawnReply():
                    if command.created:
                        self.answered[command.actor_id] = None
                case StartActor() | StopActor() | DeleteMailbox():
                    for node in self.nodes.values():
                        if command.worker in node.workers:
                            node.workers[command.worker].orders.append(command)
                case StartWorker() | StopWorker() | Acknowledge() | RequestReport():
                    if command.node in self.nodes:
                        self.nodes[command.node].orders.append(command)

    # -- what must hold

    def settle(self) -> None:
        """Nothing dies any more, until everything has been heard and done."""
        for _ in range(int(TIMEOUT) * 3):
            self.time_passes()
            while self.to_control or any(
                node.orders or any(worker.orders for worker in node.workers.values()) for node in self.nodes.values()
            ):
                self.control_works()
                self.node_works()
                self.worker_works()

    def check(self) -> None:
        """Each living actor lives exactly once, where control thinks; each dead one is nowhere, and buried."""
        living = {info.id: info for info in self.state.actors() if info.state != "dead"}
        places: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for worker in node.workers.values():
                for actor_id in worker.hosted:
                    places.setdefault(actor_id, []).append(worker.id)
        for actor_id, info in living.items():
            homes = [info.worker] if info.standby is None else [info.worker, info.standby]
            assert sorted(places.pop(actor_id)) == sorted(homes)
            assert (info.standby is not None) == self.asked[actor_id].options.standby
        assert not places
        assert {info.state for info in living.values()} <= {"running"}
        assert all(actor.is_mailbox_deleted for actor in self.state._tables.directory.all() if actor.state == "dead")
        assert {f"life.{actor_id}" for actor_id in living} <= set(self.parts)
        names = [info.name for info in living.values() if info.name is not None]
        assert len(names) == len(set(names))
        for info in living.values():
            if info.name is not None:
                found = self.state.find("default", info.name)
                assert found is not None
                assert found.actor_id == info.id
        for actor_id in living:
            owner = self.asked[actor_id].owner.removeprefix("actor:")
            assert owner in {"s1", "s2"} or owner in living, "an actor without its parent"
        assert not self.killed & set(living)
        hosts = {worker.dedicated_to for node in self.nodes.values() for worker in node.workers.values()} - {None}
        assert hosts == {actor_id for actor_id in living if self.asked[actor_id].options.isolation == "process"}
        load = {worker.id: worker.load for worker in self.state._tables.nodes.workers.values()}
        assert load == {
            worker.id: len(worker.hosted) for node in self.nodes.values() for worker in node.workers.values()
        }


@pytest.mark.parametrize("seed", range(300))
def test_a_simulated_cluster_ends_with_every_living_actor_in_one_place(seed: int) -> None:
    """Invariant: whatever dies, whenever: nothing that was answered is lost, nothing lives twice, nothing is left over."""
    simulation = Simulation(seed)
    often = [simulation.control_works] * 8 + [simulation.worker_works] * 5 + [simulation.node_works] * 4
    sometimes = [simulation.spawn] * 2 + [simulation.time_passes]
    seldom = [
        simulation.kill_actor,
        simulation.kill_worker,
        simulation.kill_node,
        simulation.fail_over,
        simulation.end_session,
    ]
    for _ in range(400):
        chance = simulation.random.random()
        steps: list[Any] = often if chance < 0.8 else sometimes if chance < 0.95 else seldom
        simulation.random.choice(steps)()
    simulation.settle()
    simulation.check()
    lost = set(simulation.answered) - {info.id for info in simulation.state.actors()}
    assert all(_ended(simulation, actor_id) for actor_id in lost)


def _ended(simulation: Simulation, actor_id: str) -> bool:
    """It was killed, or ended with its owner: nothing else makes an actor disappear."""
    owner = simulation.asked[actor_id].owner
    if actor_id in simulation.killed or owner == "s2":
        return True
    parent = owner.removeprefix("actor:")
    return parent != owner and _ended(simulation, parent)
