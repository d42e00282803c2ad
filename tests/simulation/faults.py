"""The faults of a simulated world, by chance: crashes, pauses, lost connections and confirms, retention."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from actorhub.durable.protocol.records import Commit, Epoch, ReadMarker, Record
from tests.simulation.client import Client
from tests.simulation.network import Server
from tests.simulation.ownership import INBOX_CHANNEL
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

SENDING_STEPS = 500
"""In which clients send."""

FAULT_STEPS = 700
"""In which faults happen at any time."""


S = TypeVar("S")
Act = Callable[["Faults", S], None]


class Moments(Generic[S]):
    """Faults that happen when something is done for the n-th time."""

    def __init__(self) -> None:
        self._count = 0
        self._acts: dict[int, Act[S]] = {}

    def plan(self, count: int, act: Act[S]) -> None:
        self._acts[count] = act

    def next(self) -> Act[S] | None:
        self._count += 1
        return self._acts.pop(self._count, None)


class Faults:
    """Injects faults: some at any time, more of them just when a worker appends, or when the broker stores a record or a
    reply."""

    def __init__(self, world: World, given: random.Random, lag: int, theme: Theme) -> None:
        self._given = given
        self._clock = world.clock
        self._oracle = world.oracle
        self._rules = world.rules
        self._say = world.say
        self._clients: list[Client] = []
        self._workers: list[Worker] = []
        self._lag = lag
        self._theme = theme
        self._retention = given.choice(theme.retention)
        self._slow_next = False
        self._appends: Moments[Worker] = Moments()
        self._stores: Moments[Worker] = Moments()
        self._replies: Moments[Client] = Moments()

    def plan(self, server: Server, clients: list[Client], workers: list[Worker]) -> None:
        self._server, self._clients, self._workers = server, clients, workers
        given, theme = self._given, self._theme
        is_busy = given.random() < theme.busy
        for client in clients:
            for _ in range(given.randint(1, 2 if is_busy else 5)):
                count = given.choice((6, 8) if is_busy else (1, 1, 2, 4))
                self._at_any_time(SENDING_STEPS, Faults.send, client, count)
        for _ in range(given.choice((1, 3, 6, 10))):
            kind = given.choices(("workers", "appends", "stores", "clients", "replies"), theme.kinds)[0]
            if kind == "workers":
                self._at_any_time(FAULT_STEPS, given.choice((*theme.workers, *ANY_TIME_FAULTS)), given.choice(workers))
            elif kind == "appends":
                self._appends.plan(given.randint(1, 12), given.choice(theme.workers))
            elif kind == "stores":
                self._stores.plan(given.randint(1, 12), given.choice(theme.workers))
            elif kind == "clients":
                self._at_any_time(FAULT_STEPS, given.choice(CLIENT_FAULTS), given.choice(clients))
            else:
                self._replies.plan(given.randint(1, 6), given.choice(CLIENT_FAULTS))

    def _at_any_time(self, horizon: int, act: Callable[..., None], *args: object) -> None:
        self._clock.at(self._given.randrange(horizon), act, self, *args)

    # ---- moments

    def appending(self, record: Record) -> None:
        if not isinstance(record, ReadMarker):
            self._strike(self._appends, self._writer(record))

    def stored(self, record: Record | None) -> None:
        """A record has been stored in the journal."""
        if self._given.random() < self._retention:
            self._clock.after(self._given.randint(0, 20), Faults.truncate, self)
        if isinstance(record, ReadMarker):
            self._taking_over(record)
        elif record is not None:
            writer = self._writer(record)
            self._strike(self._stores, writer)
            self._let_go(writer)

    def replied(self, queue: str) -> None:
        self._strike(self._replies, next(client for client in self._clients if client.queue == queue))

    def _strike(self, moments: Moments[S], subject: S) -> None:
        act = moments.next()
        if act is not None:
            self._clock.after(self._given.choice((0, 0, 1, 5, 20)), act, self, subject)

    def _writer(self, record: Commit | Epoch) -> Worker:
        return self._named(record.owner)

    def _named(self, owner: str) -> Worker:
        name = owner.partition(".")[0]
        return next(worker for worker in self._workers if worker.name == name)

    def _let_go(self, writer: Worker) -> None:
        """Let arrive now what other workers have appended long ago."""
        for worker in self._workers:
            if worker is not writer and self._given.random() < 0.3:
                for connection in worker.publishing:
                    connection.stall_no_longer_than(self._given.choice((0, 1, 5)))

    def _taking_over(self, marker: ReadMarker) -> None:
        """A worker reads the journal to take over; slowly, if the former owner is still at work."""
        if self._slow_next:
            self._slow_next = False
            worker = self._named(marker.id.removeprefix("marker "))
            self._say(f"{worker.name} reads slowly")
            for _ in range(5):
                self._clock.after(self._lag * self._given.randint(2, 30), worker.pause, self._lag * 10)

    # ---- on clients

    def send(self, client: Client, count: int) -> None:
        for _ in range(count):
            client.send(self._given.randint(-6, 12), self._given.random() < 0.5)

    def break_client(self, client: Client) -> None:
        """Break the connection of a client: its replies may be lost, and their senders get confirms late."""
        self._say(f"{client.name} loses its connection")
        client.break_off()
        client.forgotten = self._given.random() < 0.7
        if self._given.random() < 0.5:
            for worker in self._workers:
                for connection in worker.publishing:
                    connection.deafen(self._given.choice((100, 300)))

    # ---- on the broker

    def restart(self, _: object) -> None:
        self._say("the broker restarts")
        self._server.restart()

    def truncate(self, _: object = None) -> None:
        """Retention never drops what a commit that counts still needs."""
        low = self._oracle.low - self._given.choice((0, 0, 1, 3))
        if low > 0:
            self._say(f"retention drops the journal below {low}")
            self._server.truncate(low)

    # ---- on workers

    def kill(self, worker: Worker) -> None:
        self._say(f"{worker.name} is killed")
        worker.kill(with_its_machine=self._given.random() < 0.5)

    def leave(self, worker: Worker) -> None:
        worker.leave()

    def pause(self, worker: Worker) -> None:
        """Meanwhile the broker may end its connections, or one of them."""
        steps = self._given.choice((30, 200, 600))
        self._say(f"{worker.name} is paused for {steps}")
        worker.pause(steps)
        for connection in worker.connections:
            if self._given.random() < 0.5:
                self._clock.after(self._given.randrange(steps), self._server.disconnect, connection)

    def cut(self, worker: Worker) -> None:
        for connection in worker.connections:
            if self._given.random() < 0.6:
                self._say(f"connection {connection.number} of {worker.name} is cut")
                self._server.disconnect(connection, loses=self._given.random() < 0.5)

    def stall(self, worker: Worker) -> None:
        for connection in worker.connections:
            if self._given.random() < 0.6:
                steps = self._given.choice((50, 300, 800))
                self._say(f"connection {connection.number} of {worker.name} stalls for {steps}")
                connection.stall(steps)

    def lose_confirms(self, worker: Worker) -> None:
        """Lose the confirms for a worker: it will publish again."""
        self._say(f"confirms for {worker.name} are lost")
        for connection in worker.publishing[-1:]:
            self._server.disconnect(connection, loses=True)

    def hold_effects(self, worker: Worker) -> None:
        """Let the records of a worker arrive, and hold up its messages for a while or for ever."""
        steps = self._lag * self._given.choice((10, 30, 60))
        self._say(f"messages of {worker.name} are held up for {steps}")
        for connection in worker.publishing[:1]:
            connection.stall(steps)
        if self._given.random() < 0.7:
            self._clock.after(self._given.randint(steps // 2, steps), Faults.kill, self, worker)

    def outlive(self, worker: Worker) -> None:
        """Depose a worker that does not know it: it hears nothing, or is paused, or only the inbox is taken from it."""
        given, consuming = self._given, worker.consuming
        if consuming is None or not consuming.is_open:
            return
        steps = self._lag * given.choice(self._theme.absences)
        how = given.choice(self._theme.outliving)
        self._say(f"the inbox is taken from {worker.name}, which is {how} for {steps}")
        if how == "awake":
            self._slow_next = given.random() < 0.7
        else:
            for publishing in worker.publishing:
                if given.random() < 0.7:
                    publishing.stall(given.randint(steps // 2, 2 * steps))
        if how == "deaf":
            consuming.deafen(steps)
            self._server.disconnect(consuming)
        else:
            if how == "asleep":
                worker.pause(steps)
            self._server.retire(consuming, INBOX_CHANNEL)
            self._clock.after(2 * steps, self._server.disconnect, consuming)


ANY_TIME_FAULTS = (Faults.leave, Faults.stall, Faults.truncate, Faults.restart)
CLIENT_FAULTS = (Faults.break_client, Faults.break_client, Faults.restart)


@dataclass(frozen=True)
class Theme:
    """Kinds of faults in a world, and their frequencies."""

    kinds: tuple[int, int, int, int, int] = (2, 2, 2, 1, 1)
    """Weights of faults of workers at any time, when they append, when a record is stored, and of clients at any time and when
    a reply is stored."""

    workers: tuple[Act[Worker], ...] = (
        Faults.kill, Faults.kill, Faults.pause, Faults.cut, Faults.lose_confirms, Faults.hold_effects, Faults.outlive,
        Faults.outlive,
    )  # fmt: skip
    outliving: tuple[str, ...] = ("deaf", "asleep", "awake")
    absences: tuple[int, ...] = (10, 30, 60)
    busy: float = 0.1
    """Probability that many messages come at once."""

    retention: tuple[float, ...] = (0, 0.1, 0.5)
    checkpoints: tuple[int, ...] = (1, 2, 4, 1000)
    windows: tuple[int, ...] = (1, 4, 50)
    prefetches: tuple[int, ...] = (3, 8, 100, 100)
    slownesses: tuple[int, ...] = (1, 4, 15)


THEMES = (
    Theme(),
    Theme(
        workers=(Faults.kill, Faults.kill, Faults.hold_effects, Faults.hold_effects, Faults.cut), kinds=(1, 3, 3, 0, 0),
        checkpoints=(1, 2, 4), busy=0.3,
    ),
    Theme(workers=(Faults.outlive, Faults.outlive, Faults.outlive, Faults.lose_confirms), kinds=(1, 3, 3, 0, 0), busy=0.4),
    Theme(kinds=(2, 0, 1, 2, 4)),
    Theme(
        workers=(Faults.outlive, Faults.outlive, Faults.outlive, Faults.kill), kinds=(1, 3, 3, 0, 0), busy=0.8,
        outliving=("awake", "asleep"), retention=(0.8,), checkpoints=(1, 2, 4), windows=(1, 2), prefetches=(100,),
        slownesses=(4, 15), absences=(30, 60, 100),
    ),
)  # fmt: skip
"""All faults; crashes; owners that do not know that they have lost the journal; lost replies; retention that overtakes
readers."""
