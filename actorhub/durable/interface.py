"""Interface between a durable mailbox and the process that runs it: the mailbox's configuration, and the host of its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actorhub.broker import Link, Queue
from actorhub.durable.protocol.records import RECORD_SHARE, StateRecord
from actorhub.messaging.request import Request

JOURNAL_SHARE = 16
"""One state takes no more than this part of what the broker keeps of a journal."""


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """Names and options of one durable mailbox."""

    name: str
    """The actor's id, the same for all owners of the mailbox."""

    inbox: str
    """Queue from which messages come."""

    journal: str
    """Stream to which commits go."""

    dead_letters: str
    """Queue for messages that cannot be processed."""

    journal_to_declare: Queue | None = None
    """The journal, if the owner has to declare it; None if it was declared with the inbox."""

    in_parts: bool = False
    """The state consists of parts, each under a key of its own; a new owner reads all of them."""

    limited: bool = False
    """The inbox has a limit for the messages that wait at the broker, so only few are taken ahead."""

    poison: frozenset[str] = frozenset()
    """Ids of calls that killed their workers too often, and are not run again."""


LoadStates = Callable[[str], Awaitable[Sequence[StateRecord]]]
"""Reads the states of a key from the journal; of the key "" that of the only instance, or all parts."""


@dataclass(frozen=True, slots=True)
class HostContext:
    """Means that the owner of a mailbox provides to the host of its state."""

    link: Link
    """The link to the broker that the owner uses."""

    load_states: LoadStates

    on_broken: Callable[[Exception], None]
    """To be called if states cannot be read. It ends the ownership."""

    may_start: Callable[[], bool]
    """To be asked before a request is started. After a False, `resume` is called when it is True again."""


class StateHost(Protocol):
    """Holds the state of a durable mailbox in memory, and runs requests on it."""

    async def start(self) -> None:
        """Create what has to exist before the first request.

        Raises:
            ActorInitFailed: a constructor or `started` raised, or the state cannot be read here.
        """

    async def stop(self, timeout: float) -> None:
        """Start nothing more; cancel after `timeout` seconds what still runs. What has been handled may still be committed."""

    def accept(self, request: Request) -> None:
        """Run a request, in its turn. It is finished once, unless the host is stopped first."""

    def cancel(self, call_id: str) -> None:
        """Cancel a call that runs or waits."""

    def resume(self) -> None:
        """Start requests again: `may_start` is True again."""

    def capture(self, request: Request) -> int:
        """Keep the state as the request has left it; returns by how many bytes the next commit grows.

        Raises:
            NotSerialisable, UntrustedPayload, PayloadTooLarge: the state cannot be kept as it is.
        """
        ...

    def restore(self, request: Request) -> None:
        """Undo what a failed request has done to the state."""

    def settled(self, request: Request) -> None:
        """The request's commit counts, and all its effects are confirmed. Not every such request was accepted here."""

    def take_changes(self, *, whole: bool) -> list[StateRecord]:
        """The states for the next commit: those that have changed since the last call. `whole`: of a single instance the
        whole state, even if nothing has changed."""
        ...


MakeStateHost = Callable[[HostContext], StateHost]


def max_state_bytes(link: Link, retention: int) -> int:
    """The largest state that fits into a record and into a journal of which the broker keeps `retention` bytes."""
    return min(link.max_message // RECORD_SHARE, retention // JOURNAL_SHARE)
