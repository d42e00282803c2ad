"""One simulated world: a broker, clients, workers and faults. All of it follows from a seed."""

from __future__ import annotations

import random

from actorhub.durable.protocol.records import Record
from actorhub.durable.protocol.takeover import JournalLost
from tests.simulation import bank
from tests.simulation.client import Client
from tests.simulation.clock import Clock
from tests.simulation.faults import THEMES, Faults
from tests.simulation.network import INBOX, JOURNAL, Broken
from tests.simulation.oracle import Oracle
from tests.simulation.rules import Parts, Rules
from tests.simulation.worker import Worker

MAX_EVENTS = 30_000
"""After which nothing must be left to do."""


class World:
    def __init__(self, seed: int, parts: Parts, *, traced: bool = False) -> None:
        self.trace: list[str] = []
        self.clock = Clock()
        self._traced = traced
        given = random.Random(seed)
        theme = given.choice(THEMES)
        lag = given.choice((2, 5, 15))
        is_calm = given.random() < 0.3

        def lags() -> int:
            return lag if is_calm else given.choice((1, lag, lag, 4 * lag))

        self.rules = Rules(
            parts,
            prefetch=given.choice(theme.prefetches),
            window=given.choice(theme.windows),
            checkpoint_after=given.choice(theme.checkpoints),
            hold_back=given.choice((30, 300)),
            slowness=given.choice(theme.slownesses),
            always_whole=given.random() < 0.3,
            separate_journal_connection=given.random() < 0.4,
            resumes=given.random() < 0.4,
            say=self.say,
            appending=self._appending,
        )
        self.oracle = Oracle(parts.rule(), self.rules.decode, self.say)
        self._faults = Faults(self, given, lag, theme)
        server = self._server = parts.server(
            self.clock,
            given,
            self._published,
            self.oracle.acknowledged,
            tail_chance=given.choice((0, 0, 0.5)),
            hole_chance=given.choice((0, 0, 0.04)),
        )
        for number in range(bank.DESTINATIONS):
            server.declare(bank.destination(number))
        self._clients = [Client(f"c{n}", self.clock, server, lags) for n in range(given.choice((1, 2, 2, 3)))]
        self._workers = [
            Worker(f"w{n}", self.clock, server, lags, self.rules) for n in range(given.choice((1, 2, 2, 2, 3)))
        ]
        self._faults.plan(server, self._clients, self._workers)

    def say(self, text: str) -> None:
        if self._traced:
            self.trace.append(f"{self.clock.now:6} {text}")

    def _appending(self, record: Record) -> None:
        self._faults.appending(record)

    def _published(self, queue: str, body: bytes, offset: int) -> None:
        self.oracle.published(queue, body, offset)
        if queue == JOURNAL:
            self._faults.stored(self.rules.decode(body))
        elif queue.startswith("replies."):
            self._faults.replied(queue)

    def run(self) -> None:
        """Run until nothing happens any more; then kill all workers, let each client send one more message, and run again.

        Raises:
            Broken: a promise was broken.
        """
        self._rest()
        for worker in self._workers:
            worker.kill(with_its_machine=False)
        for client in self._clients:
            client.send(1, True)
        self._rest()

    def _rest(self) -> None:
        try:
            if not self.clock.run(MAX_EVENTS):
                raise Broken(f"not at rest after {MAX_EVENTS} events")
        except JournalLost as exc:
            raise Broken(f"a journal is taken for lost that has all records from its low on: {exc}") from exc
        self.say(f"all is at rest; {self._server.queue(INBOX).size} bytes are in the inbox")
        self.oracle.judge(self._server, self._clients, self.rules.skipped)
