"""The rules of a simulated world: parts of the protocol, which a mutant replaces, and parameters that the seed gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Record
from actorhub.durable.protocol.takeover import Takeover
from tests.simulation.fencing import Rule, TrueRule
from tests.simulation.messages import read_record
from tests.simulation.network import Server
from tests.simulation.ownership import Ownership


@dataclass(frozen=True)
class Parts:
    """Parts of the protocol. The oracle decides by `rule` which commits count."""

    name: str = "true"
    ownership: type[Ownership] = Ownership
    owner: type[JournalOwner[Any]] = JournalOwner
    journal_state: type[JournalState] = JournalState
    takeover: type[Takeover] = Takeover
    server: type[Server] = Server
    rule: type[Rule] = TrueRule


@dataclass
class Rules:
    """Parameters of one world."""

    parts: Parts

    prefetch: int
    """Messages of the inbox that an owner has in hand."""

    window: int
    """Records of the journal that a reader has in hand."""

    checkpoint_after: int

    hold_back: int
    """Steps that a message waits for an earlier one; 0: for ever."""

    slowness: int
    """Steps that handling or committing takes, at most."""

    always_whole: bool
    """Commits always hold the whole state."""

    separate_journal_connection: bool
    """The journal has a connection of its own: the broker may get an effect later than a record that was appended after it."""

    resumes: bool
    """An owner that has lost its connection goes on over another one."""

    say: Callable[[str], None]
    appending: Callable[[Record], None]

    skipped: list[str] = field(default_factory=list)
    """Senders whose gaps were given up, so that the order of their messages is not checked."""

    _decoded: dict[bytes, Record | None] = field(default_factory=dict)

    @property
    def ownership(self) -> type[Ownership]:
        return self.parts.ownership

    @property
    def owner(self) -> type[JournalOwner[Any]]:
        return self.parts.owner

    @property
    def journal_state(self) -> type[JournalState]:
        return self.parts.journal_state

    @property
    def takeover(self) -> type[Takeover]:
        return self.parts.takeover

    def decode(self, body: bytes) -> Record | None:
        if body not in self._decoded:
            self._decoded[body] = read_record(body)
        return self._decoded[body]
