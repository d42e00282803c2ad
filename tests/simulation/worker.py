"""A worker process: owns the mailbox again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pamqp.base import Frame
from pamqp.commands import Basic

from tests.simulation.clock import Clock
from tests.simulation.network import JOURNAL, Arrival, Confirms, Connection, Server
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.ownership import Ownership
    from tests.simulation.rules import Rules


class Worker(Process):
    """Each ownership consumes over a connection of its own; all publish over the same connections."""

    def __init__(self, name: str, clock: Clock, server: Server, lag: Callable[[], int], rules: Rules) -> None:
        super().__init__(name, clock)
        self.server = server
        self.rules = rules
        self.lag = lag
        self._started = 0
        self.is_alive = True
        self._ownership = rules.ownership(self, 0)
        self._publishers = [Publisher(self) for _ in range(2 if rules.separate_journal_connection else 1)]
        self.start()

    # ---- life and death

    def start(self) -> None:
        self.is_alive = True
        for publisher in self._publishers:
            publisher.open()
        self._started += 1
        self._ownership = self.rules.ownership(self, self._started)
        self._ownership.begin()

    def own_again(self, steps: int) -> None:
        """Try again after an ownership has ended."""
        ended = self._ownership
        self.later(steps, lambda: self.start() if self.is_alive and self._ownership is ended else None)

    def kill(self, *, with_its_machine: bool) -> None:
        """If its machine survives, what it has written to its connections still arrives."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._ownership.over = True
        self.paused_until = 0
        for connection in self.connections:
            if with_its_machine:
                connection.break_off()
            else:
                connection.close()
        for publisher in self._publishers:
            publisher.forget()
        self.clock.after(self.server.chance.randint(10, 100), self._revive)

    def _revive(self) -> None:
        if not self.is_alive:
            self.start()

    def leave(self) -> None:
        self._ownership.stop()

    # ---- connections

    @property
    def consuming(self) -> Connection | None:
        return self._ownership.connection

    @property
    def publishing(self) -> list[Connection]:
        return [publisher.connection for publisher in self._publishers if publisher.connection is not None]

    @property
    def connections(self) -> list[Connection]:
        return [one for one in (self.consuming, *self.publishing) if one is not None and one.is_open]

    def publish(self, publish: Publish) -> None:
        """Publish for the current ownership, again until it is confirmed or the ownership is over."""
        publish.ownership = self._ownership
        self._publishers[-1 if publish.queue == JOURNAL else 0].publish(publish)


@dataclass(eq=False)
class Publish:
    queue: str
    body: bytes
    confirmed: Callable[[], None]
    content_type: str = ""
    persistent: bool = True
    ownership: Ownership | None = None

    @property
    def is_wanted(self) -> bool:
        return self.ownership is not None and not self.ownership.over


class Publisher:
    """Publishes over one connection after another."""

    def __init__(self, worker: Worker) -> None:
        self.connection: Connection | None = None
        self._worker = worker
        self._confirms: Confirms | None = None
        self._unconfirmed: dict[Publish, None] = {}

    def open(self) -> None:
        worker = self._worker
        if self.connection is not None or not worker.is_alive:
            return
        self.connection = worker.server.connect(worker, self, worker.lag())
        self._confirms = Confirms(self.connection)
        self._unconfirmed = {publish: None for publish in self._unconfirmed if publish.is_wanted}
        for publish in self._unconfirmed:
            self._send(publish, self._confirms)

    def publish(self, publish: Publish) -> None:
        self._unconfirmed[publish] = None
        if self._confirms is not None:
            self._send(publish, self._confirms)

    def _send(self, publish: Publish, confirms: Confirms) -> None:
        def settle() -> None:
            self._unconfirmed.pop(publish, None)
            if publish.is_wanted:
                publish.confirmed()

        confirms.publish(
            publish.queue, publish.body, settle, content_type=publish.content_type, persistent=publish.persistent
        )

    def forget(self) -> None:
        self.connection = self._confirms = None
        self._unconfirmed.clear()

    # ---- from the broker

    def arrived(self, connection: Connection, arrival: Arrival) -> None:
        """Nothing is consumed here."""

    def answered(self, connection: Connection, channel: int, method: Frame) -> None:
        if isinstance(method, Basic.Ack) and connection is self.connection and self._confirms is not None:
            self._confirms.settle(method)

    def lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = self._confirms = None
            self._worker.later(self._worker.server.chance.randint(5, 60), self.open)
