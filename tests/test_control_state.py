"""Control's decisions, without a broker or a clock: sentences, and a simulated cluster by seed."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from actorhub.actor import ActorOptions
from actorhub.control.messages import (
    Acknowledge,
    ActorFailed,
    ActorPlan,
    ActorStarted,
    ActorStopped,
    Answer,
    AskReport,
    Born,
    Buried,
    BuryActor,
    Command,
    Died,
    Event,
    Forget,
    KillAsked,
    NodeReport,
    Residency,
    Running,
    SessionEnded,
    SpawnAsked,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control.state import ControlState

CLASS = "app:Actor"
TIMEOUT = 8.0


def _plan(actor_id: str = "a", **overrides: Any) -> ActorPlan:
    options = ActorOptions(**overrides.pop("options", {}))
    fields = {"owner": "session", "class_name": CLASS, "namespace": "default"} | overrides
    return ActorPlan(actor_id=actor_id, options=options, **fields)


def _report(node: str, *workers: str | WorkerReport, **fields: Any) -> NodeReport:
    reports = [worker if isinstance(worker, WorkerReport) else WorkerReport(id=worker, pid=1) for worker in workers]
    defaults: dict[str, Any] = {"host": "h", "pid": 1, "version": "1", "classes": [CLASS], "known": True}
    return NodeReport(node=node, workers=reports, **(defaults | fields))


class Console:
    """A state, its clock, and what it ordered last."""

    def __init__(self, *workers: str, node: str = "n1") -> None:
        self.state = ControlState(node_timeout=TIMEOUT, epoch=100)
        self.now = 0.0
        self.last: list[Command] = []
        if workers:
            self.handle(_report(node, *workers))

    def handle(self, event: Event) -> list[Command]:
        self.last = self.state.handle(event, self.now)
        return self.last

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.last if isinstance(command, kind)]

    def spawn(self, plan: ActorPlan, **fields: Any) -> Answer:
        self.handle(SpawnAsked(plan=plan, **fields))
        [answer] = self.of(Answer)
        return answer  # type: ignore[no-any-return]

    def run(self, plan: ActorPlan) -> StartActor:
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
    assert [type(command).__name__ for command in console.last] == ["Born", "Answer", "StartActor", "Changed"]
    assert console.info().state == "starting"


def test_a_spawn_that_is_asked_again_changes_nothing() -> None:
    console = Console("w1")
    console.run(_plan())
    again = console.spawn(_plan())
    assert again.created
    assert console.of(Born) == console.of(StartActor) == []


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
    console.handle(KillAsked(actor="a", cause="c"))
    assert console.state.find("default", "n") is None
    assert console.spawn(_plan("b", name="n")).created


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"node": "n9"}, "asks for node 'n9'; there are: n1"),
        ({"class_name": "app:Unknown"}, "no node knows app:Unknown; start one with `actorhub node app`"),
        ({"labels": {"zone": "b"}}, "asks for labels {'zone': 'b'}"),
        ({"options": {"resources": {"gpu": 2}}}, "asks for resources {'gpu': 2.0}; the most that any node has"),
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
    console.handle(_report("n1", "w1", "w2", resources={"gpu": 1}))
    orders = [console.run(_plan(str(number))).worker for number in range(6)]
    assert sorted(orders) == ["w1"] * 3 + ["w2"] * 3
    console.run(_plan("g1", options={"resources": {"gpu": 1}}))
    console.spawn(_plan("g2", options={"resources": {"gpu": 1}}))
    assert console.info("g2").state == "pending", "there is one, and it is taken"
    assert console.spawn(_plan("small")).created
    assert console.info("small").state == "starting", "one that waits does not hold up the others"
    console.handle(KillAsked(actor="g1", cause="c"))
    assert [order.residency.plan.actor_id for order in console.of(StartActor)] == ["g2"]
    [node] = console.state.nodes()
    assert node.resources_free == {"gpu": 0.0}


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
    console.handle(KillAsked(actor="a", cause="c"))
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
    [bury] = console.of(BuryActor)
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
    assert {died.actor for died in console.of(Died)} == set(dead)
    assert console.state.sessions() == {"another"}


def test_the_dead_are_buried_once_and_again_if_who_buries_them_dies() -> None:
    console = Console("w1", "w2")
    console.run(_plan())
    console.handle(KillAsked(actor="a", cause="c"))
    [bury] = console.of(BuryActor)
    console.handle(Tick())
    assert console.of(BuryActor) == []
    console.handle(WorkerLost(node="n1", worker=bury.worker, cause="c"))
    [again] = console.of(BuryActor)
    assert again.worker != bury.worker
    console.handle(Buried(actor="a"))
    assert [forget.actor for forget in console.of(Forget)] == ["a"]
    console.handle(Buried(actor="a"))
    assert console.of(Forget) == []
    assert console.info().state == "dead", "what it died of can still be asked"


def test_the_dead_wait_for_a_worker_that_can_bury_them() -> None:
    console = Console()
    console.spawn(_plan())
    console.handle(KillAsked(actor="a", cause="c"))
    assert console.of(BuryActor) == []
    console.handle(_report("n1", "w1"))
    assert len(console.of(BuryActor)) == 1


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


# ---- failover


def _successor(*plans: ActorPlan, deaths: tuple[Died, ...] = ()) -> Console:
    console = Console()
    console.state = ControlState(node_timeout=TIMEOUT, epoch=200)
    console.last = console.state.restore(
        {plan.actor_id: plan for plan in plans}, {death.actor: death for death in deaths}, 0.0
    )
    return console


def test_a_successor_asks_for_reports_and_takes_over_what_they_say() -> None:
    console = _successor(_plan("a", name="n"))
    console.handle(_report("n1", "w1"))
    assert [ask.node for ask in console.of(AskReport)] == ["n1"]
    assert console.of(StartActor) == [], "it may live"
    residency = Residency(plan=_plan("a", name="n"), incarnation=107, restarts=2)
    console.handle(_report("n1", WorkerReport(id="w1", pid=1, hosted=[residency])))
    info = console.info()
    assert (info.state, info.worker, info.restarts) == ("running", "w1", 2)
    console.now = TIMEOUT + 1
    console.handle(_report("n1", "w1"))
    console.handle(Tick())
    assert console.info() == info


def test_a_successor_starts_again_what_nobody_has_claimed_and_new_actors_do_not_wait_for_that() -> None:
    console = _successor(_plan("a", name="n"))
    console.handle(_report("n1", "w1"))
    assert console.spawn(_plan("b")).created
    assert len(console.of(StartActor)) == 1
    assert console.spawn(_plan("c", name="n")).error == "name taken"
    assert console.spawn(_plan("d", node="n2")).created, "that node may still report"
    console.now = TIMEOUT
    console.handle(_report("n1", "w1"))
    console.handle(Tick())
    [order] = console.of(StartActor)
    assert (order.residency.plan.actor_id, order.residency.restarts) == ("a", 1)
    assert order.residency.incarnation > 200, "higher than any that a former control started"


def test_a_successor_stops_what_the_journal_does_not_know_and_the_second_of_two() -> None:
    console = _successor(_plan("a"))
    unknown = Residency(plan=_plan("x"), incarnation=1, restarts=0)
    known = Residency(plan=_plan("a"), incarnation=150, restarts=0)
    console.handle(_report("n1", WorkerReport(id="w1", pid=1, hosted=[unknown, known])))
    assert [stop.actor for stop in console.of(StopActor)] == ["x"]
    console.handle(_report("n2", WorkerReport(id="w2", pid=1, hosted=[known])))
    assert console.of(StopActor) == [StopActor(worker="w2", actor="a", incarnation=150)]
    assert console.info().worker == "w1"


def test_a_successor_buries_whom_its_predecessor_did_not_and_their_children() -> None:
    died = Died(actor="a", cause="c", at_birth=False)
    console = _successor(
        _plan("a"), _plan("child", owner="actor:a"), _plan("orphan", owner="actor:gone"), deaths=(died,)
    )
    assert {death.actor for death in console.of(Died)} == {"child", "orphan"}, (
        "what the journal has is not written again"
    )
    console.handle(_report("n1", "w1"))
    assert {bury.plan.actor_id for bury in console.of(BuryActor)} == {"a", "child", "orphan"}


def test_what_a_former_control_stopped_by_mistake_starts_again() -> None:
    console = _successor(_plan("a"))
    residency = Residency(plan=_plan("a"), incarnation=150, restarts=0)
    console.handle(_report("n1", WorkerReport(id="w1", pid=1, hosted=[residency])))
    console.handle(ActorStopped(actor="a", worker="w1", incarnation=150))
    [order] = console.of(StartActor)
    assert (order.residency.restarts, order.residency.incarnation > 150) == (0, True)


def test_an_idle_dedicated_worker_whose_actor_lives_elsewhere_ends() -> None:
    console = _successor()
    idle = _report("n1", WorkerReport(id="own", pid=1, dedicated_to="a", hosted=[]))
    console.handle(idle)
    assert not console.of(StopWorker), "what lives where is not known yet"
    console.now = TIMEOUT
    console.handle(Tick())
    console.handle(idle)
    assert [stop.worker for stop in console.of(StopWorker)] == ["own"]


# ---- a simulated cluster


@dataclass
class SimWorker:
    id: str
    node: str
    dedicated_to: str | None = None
    orders: deque[Command] = field(default_factory=deque)
    hosted: dict[str, Residency] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)


@dataclass
class SimNode:
    id: str
    known: bool = False
    orders: deque[Command] = field(default_factory=deque)
    workers: dict[str, SimWorker] = field(default_factory=dict)


class Simulation:
    """Nodes, workers and one control, with queues between them; everything may be late, and any of them may die.

    What control acknowledged is gone; what it had in hand when it died comes to its successor. The journal keeps its records.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = itertools.count(1)
        self.now = 0.0
        self.nodes: dict[str, SimNode] = {}
        self.to_control: deque[Event] = deque()
        self.journal: list[Born | Died] = []
        self.epoch = 1000
        self.state = ControlState(node_timeout=TIMEOUT, epoch=self.epoch)
        self.asked: dict[str, ActorPlan] = {}
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
            options={"isolation": "process" if isolated else "shared", "max_restarts": 1000},
        )
        self.asked[plan.actor_id] = plan
        self.to_control.append(SpawnAsked(plan=plan))

    def kill_actor(self) -> None:
        if self.answered:
            victim = self.random.choice(sorted(self.answered))
            self.killed.add(victim)
            self.to_control.append(KillAsked(actor=victim, cause="killed"))

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
        """Control dies before it could handle the first `lost` events a second time: they are delivered again."""
        self.epoch += 1000
        self.state = ControlState(node_timeout=TIMEOUT, epoch=self.epoch)
        plans = {record.plan.actor_id: record.plan for record in self.journal if isinstance(record, Born)}
        deaths = {record.actor: record for record in self.journal if isinstance(record, Died)}
        self._carry_out(self.state.restore(plans, deaths, self.now))

    def control_works(self) -> None:
        if self.to_control:
            event = self.to_control.popleft()
            if self.random.random() < 0.05:
                self.to_control.appendleft(event)  # it comes again: the acknowledgement was lost
            self._carry_out(self.state.handle(event, self.now))

    def node_works(self) -> None:
        node = self._some_node()
        if node is not None and node.orders:
            match node.orders.popleft():
                case Acknowledge():
                    node.known = True
                case AskReport():
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
            case BuryActor():
                self.to_control.append(Buried(actor=order.plan.actor_id))

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
                case Answer():
                    if command.created:
                        self.answered[command.actor_id] = None
                case Born() | Died():
                    self.journal.append(command)
                case Forget():
                    self.journal = [
                        record
                        for record in self.journal
                        if (record.plan.actor_id if isinstance(record, Born) else record.actor) != command.actor
                    ]
                case StartActor() | StopActor() | BuryActor():
                    for node in self.nodes.values():
                        if command.worker in node.workers:
                            node.workers[command.worker].orders.append(command)
                case StartWorker() | StopWorker() | Acknowledge() | AskReport():
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
        """Each living actor lives exactly once, where control thinks; each dead one is nowhere, and not in the journal."""
        living = {info.id: info for info in self.state.actors() if info.state != "dead"}
        places: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for worker in node.workers.values():
                for actor_id in worker.hosted:
                    places.setdefault(actor_id, []).append(worker.id)
        assert places == {actor_id: [info.worker] for actor_id, info in living.items()}
        assert {info.state for info in living.values()} <= {"running"}
        assert {record.plan.actor_id for record in self.journal if isinstance(record, Born)} == set(living)
        assert not [record for record in self.journal if isinstance(record, Died)]
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
        load = {worker.id: len(worker.actors) for node in self.state.nodes() for worker in node.workers}
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
