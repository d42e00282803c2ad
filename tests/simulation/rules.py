"""What a simulated world goes by: the protocol's parts, which a mutant replaces, and numbers that chance gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Record
from actorhub.durable.protocol.takeover import Takeover
from tests.simulation.history import Rule, TrueRule
from tests.simulation.life import Life, read_record
from tests.simulation.wire import Server


@dataclass(frozen=True)
class Parts:
    """The protocol. `rule` is by what the oracle tells which commits count."""

    name: str = "true"
    life: type[Life] = Life
    owner: type[JournalOwner[Any]] = JournalOwner
    past: type[JournalState] = JournalState
    takeover: type[Takeover] = Takeover
    server: type[Server] = Server
    rule: type[Rule] = TrueRule


@dataclass
class Rules:
    """`hold_back`: steps; 0 is for ever. `window`: records that a reader has in hand. `skipped`: senders whose gaps were given
    up, so that their order counts no more. `has_two_ways`: the journal has a connection for itself. `resumes`: an owner that
    lost its connection goes on over another one."""

    parts: Parts
    prefetch: int
    window: int
    image_after: int
    hold_back: int
    slowness: int
    always_whole: bool
    has_two_ways: bool
    resumes: bool
    say: Callable[[str], None]
    appending: Callable[[Record], None]
    skipped: list[str] = field(default_factory=list)
    _decoded: dict[bytes, Record | None] = field(default_factory=dict)

    @property
    def life(self) -> type[Life]:
        return self.parts.life

    @property
    def owner(self) -> type[JournalOwner[Any]]:
        return self.parts.owner

    @property
    def past(self) -> type[JournalState]:
        return self.parts.past

    @property
    def takeover(self) -> type[Takeover]:
        return self.parts.takeover

    def decode(self, body: bytes) -> Record | None:
        if body not in self._decoded:
            self._decoded[body] = read_record(body)
        return self._decoded[body]
