"""One world: a broker, clients, workers, and what chance does to them. All of it follows from a seed."""

from __future__ import annotations

import random

from actorhub.durable.protocol.records import Record
from actorhub.durable.protocol.takeover import JournalLost
from tests.simulation import bank
from tests.simulation.chance import THEMES, Chance
from tests.simulation.client import Client
from tests.simulation.clock import Clock
from tests.simulation.oracle import Oracle
from tests.simulation.rules import Parts, Rules
from tests.simulation.wire import INBOX, JOURNAL, Broken
from tests.simulation.worker import Worker

LIMIT = 30_000  # happenings until all must be at rest


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
            image_after=given.choice(theme.images),
            hold_back=given.choice((30, 300)),
            slowness=given.choice(theme.slownesses),
            always_whole=given.random() < 0.3,
            has_two_ways=given.random() < 0.4,
            resumes=given.random() < 0.4,
            say=self.say,
            appending=self._appending,
        )
        self.oracle = Oracle(parts.rule(), self.rules.decode, self.say)
        self._chance = Chance(self, given, lag, theme)
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
        self._chance.plan(server, self._clients, self._workers)

    def say(self, text: str) -> None:
        if self._traced:
            self.trace.append(f"{self.clock.now:6} {text}")

    def _appending(self, record: Record) -> None:
        self._chance.appending(record)

    def _published(self, queue: str, body: bytes, offset: int) -> None:
        self.oracle.published(queue, body, offset)
        if queue == JOURNAL:
            self._chance.stored(self.rules.decode(body))
        elif queue.startswith("replies."):
            self._chance.answered(queue)

    def run(self) -> None:
        """Until all is at rest, and once more: after all workers have died, and all clients have sent one message more.

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
            if not self.clock.run(LIMIT):
                raise Broken(f"no rest after {LIMIT} happenings")
        except JournalLost as exc:
            raise Broken(f"a journal that keeps all from its low on is held for lost: {exc}") from exc
        self.say(f"all is at rest; {self._server.queue(INBOX).size} bytes are in the inbox")
        self.oracle.judge(self._server, self._clients, self.rules.skipped)
