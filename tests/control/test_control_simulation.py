"""Control with simulated nodes and workers, of which any may be lost or late, by seed."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Acknowledge,
    Command,
    DeleteMailbox,
    RequestReport,
    SpawnReply,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
)
from actorhub.control_api.events import (
    ActorStarted,
    ActorStopped,
    Event,
    KillRequested,
    MailboxDeleted,
    SessionEnded,
    SpawnRequested,
    Tick,
    WorkerLost,
    WorkerReport,
    WorkerStopped,
)
from actorhub.control_api.specs import Activation, SpawnSpec
from tests.control.console import TIMEOUT, known_to, node_report, persist, spawn_spec, successor


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
    """Nodes, workers and one control, with queues between them. Every message may be late, and each of them may be lost.

    Each event that control handles is committed with its commands, and the changed rows are kept.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = itertools.count(1)
        self.now = 0.0
        self.nodes: dict[str, SimNode] = {}
        self.to_control: deque[Event] = deque()
        self.rows: dict[str, bytes] = {}
        self.state = ControlState(node_timeout=TIMEOUT)
        self.requested: dict[str, SpawnSpec] = {}
        self.confirmed: dict[str, None] = {}
        self.killed: set[str] = set()
        for _ in range(2):
            self.add_node()

    # -- steps

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
        self.to_control.append(node_report(node.id, *workers, known=node.known))

    def spawn(self) -> None:
        number = next(self.ids)
        name = f"name{self.random.randrange(6)}" if self.random.random() < 0.4 else None
        isolated = self.random.random() < 0.2
        plan = spawn_spec(
            f"a{number}",
            name=name,
            owner=self.random.choice(["s1", "s2", *(f"actor:{actor}" for actor in list(self.confirmed)[-2:])]),
            options={"isolation": "process", "max_restarts": 1000}
            if isolated
            else {"durable": True, "standby": True}
            if self.random.random() < 0.3
            else {"max_restarts": 1000},
            lifetime="session",
        )
        self.requested[plan.actor_id] = plan
        self.to_control.append(SpawnRequested(plan=plan))

    def kill_actor(self) -> None:
        if self.confirmed:
            victim = self.random.choice(sorted(self.confirmed))
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
        self.state = successor(self.rows, self.now)

    def run_control(self) -> None:
        if self.to_control:
            commands = self.state.handle(self.to_control.popleft(), self.now)
            persist(self.rows, self.state)
            if self.random.random() < 0.02:
                assert known_to(successor(self.rows, self.now)) == known_to(self.state)
            self._deliver(commands)

    def run_node(self) -> None:
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

    def run_worker(self) -> None:
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

    def pass_time(self) -> None:
        self.now += 1.0
        for node in self.nodes.values():
            self.report(node, full=not node.known)
        self.to_control.append(Tick())

    def _some_node(self) -> SimNode | None:
        return self.nodes[self.random.choice(sorted(self.nodes))] if self.nodes else None

    def _deliver(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SpawnReply():
                    if command.created:
                        self.confirmed[command.actor_id] = None
                case StartActor() | StopActor() | DeleteMailbox():
                    for node in self.nodes.values():
                        if command.worker in node.workers:
                            node.workers[command.worker].orders.append(command)
                case StartWorker() | StopWorker() | Acknowledge() | RequestReport():
                    if command.node in self.nodes:
                        self.nodes[command.node].orders.append(command)

    # -- checks

    def settle(self) -> None:
        """Run until every message is handled; nothing is lost any more."""
        for _ in range(int(TIMEOUT) * 3):
            self.pass_time()
            while self.to_control or any(
                node.orders or any(worker.orders for worker in node.workers.values()) for node in self.nodes.values()
            ):
                self.run_control()
                self.run_node()
                self.run_worker()

    def check(self) -> None:
        """Each living actor is hosted exactly where control says; each dead one nowhere, and its mailbox is deleted."""
        living = {info.id: info for info in self.state.actors() if info.state != "dead"}
        places: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for worker in node.workers.values():
                for actor_id in worker.hosted:
                    places.setdefault(actor_id, []).append(worker.id)
        for actor_id, info in living.items():
            homes = [info.worker] if info.standby is None else [info.worker, info.standby]
            assert sorted(places.pop(actor_id)) == sorted(homes)
            assert (info.standby is not None) == self.requested[actor_id].options.standby
        assert not places
        assert {info.state for info in living.values()} <= {"running"}
        assert all(actor.is_mailbox_deleted for actor in self.state._tables.directory.all() if actor.state == "dead")
        assert {f"life.{actor_id}" for actor_id in living} <= set(self.rows)
        names = [info.name for info in living.values() if info.name is not None]
        assert len(names) == len(set(names))
        for info in living.values():
            if info.name is not None:
                found = self.state.find("default", info.name)
                assert found is not None
                assert found.actor_id == info.id
        for actor_id in living:
            owner = self.requested[actor_id].owner.removeprefix("actor:")
            assert owner in {"s1", "s2"} or owner in living, "an actor without its parent"
        assert not self.killed & set(living)
        hosts = {worker.dedicated_to for node in self.nodes.values() for worker in node.workers.values()} - {None}
        assert hosts == {actor_id for actor_id in living if self.requested[actor_id].options.isolation == "process"}
        load = {worker.id: worker.load for worker in self.state._tables.nodes.workers.values()}
        assert load == {
            worker.id: len(worker.hosted) for node in self.nodes.values() for worker in node.workers.values()
        }


@pytest.mark.parametrize("seed", range(300))
def test_a_simulated_cluster_ends_with_every_living_actor_in_one_place(seed: int) -> None:
    """Invariant: no actor that was confirmed is lost, none is hosted twice, and no dead one is left over."""
    simulation = Simulation(seed)
    often = [simulation.run_control] * 8 + [simulation.run_worker] * 5 + [simulation.run_node] * 4
    sometimes = [simulation.spawn] * 2 + [simulation.pass_time]
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
    lost = set(simulation.confirmed) - {info.id for info in simulation.state.actors()}
    assert all(_ended(simulation, actor_id) for actor_id in lost)


def _ended(simulation: Simulation, actor_id: str) -> bool:
    """True if an actor was killed, or ended with its owner: nothing else may make it disappear."""
    owner = simulation.requested[actor_id].owner
    if actor_id in simulation.killed or owner == "s2":
        return True
    parent = owner.removeprefix("actor:")
    return parent != owner and _ended(simulation, parent)
