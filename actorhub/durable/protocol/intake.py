"""Intake of messages: each sender's in the order of their numbers, each once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from actorhub.durable.protocol.deduplication import AppliedSequences
from actorhub.durable.protocol.journal_state import MAX_SENDERS, JournalState

RequestT = TypeVar("RequestT")


class Intake(Enum):
    """Decision on a message that has come."""

    RUN = "run"
    """It is its turn."""

    HELD = "held"
    """An earlier message of its sender is missing."""

    IN_HAND = "in hand"
    """It was taken before, and is not acknowledged yet."""

    DONE = "done"
    """It was applied, and all its effects are confirmed."""


@dataclass(eq=False)
class _Sender(Generic[RequestT]):
    taken: AppliedSequences
    """Numbers that have been taken, whether they have been handled or not."""

    held: dict[int, RequestT] = field(default_factory=dict)
    """Messages that wait for an earlier one."""

    in_hand: int = 0
    """Messages taken whose effects are not confirmed."""


class MessageIntake(Generic[RequestT]):
    """Decides which messages run, and in what order. A `RequestT` stands for a message.

    Args:
        journal_state: says what has been applied already.
    """

    def __init__(self, journal_state: JournalState) -> None:
        self._journal_state = journal_state
        self._senders: OrderedDict[str, _Sender[RequestT]] = OrderedDict()  # the one silent for longest first
        self._in_hand: dict[tuple[str, int], RequestT] = {}

    def take(self, sender: str, seq: int, request: RequestT) -> tuple[Intake, RequestT | None]:
        """Decide on a message. IN_HAND comes with the request that was taken first: both are done at the same time. A message
        with an empty sender runs whenever it comes."""
        if not sender:
            return Intake.RUN, None
        known = self._sender(sender)
        first = self._in_hand.get((sender, seq), known.held.get(seq))
        if first is not None:
            return Intake.IN_HAND, first
        if known.taken.has(seq):
            return Intake.DONE, None
        if seq > known.taken.next:
            known.held[seq] = request
            return Intake.HELD, None
        self._admit(known, sender, seq, request)
        return Intake.RUN, None

    def take_held(self, sender: str) -> Iterator[RequestT]:
        """The sender's messages that were held back and have their turn now, in order."""
        known = self._senders.get(sender)
        while known is not None and known.taken.next in known.held:
            seq = known.taken.next
            request = known.held.pop(seq)
            self._admit(known, sender, seq, request)
            yield request

    def skip_gaps(self) -> list[tuple[str, range]]:
        """Stop waiting for missing messages; they run whenever they come. Those held back come from `take_held`.

        Returns the senders, and the numbers that are missing.
        """
        return [(sender, known.taken.skip_to(min(known.held))) for sender, known in self._senders.items() if known.held]

    @property
    def holds_back(self) -> bool:
        return any(known.held for known in self._senders.values())

    def settled(self, sender: str, seq: int) -> None:
        """All effects of a message are confirmed."""
        if self._in_hand.pop((sender, seq), None) is not None:
            self._senders[sender].in_hand -= 1

    def _admit(self, known: _Sender[RequestT], sender: str, seq: int, request: RequestT) -> None:
        known.taken.add(seq, seq)
        known.in_hand += 1
        self._in_hand[sender, seq] = request

    def _sender(self, sender: str) -> _Sender[RequestT]:
        known = self._senders.get(sender)
        if known is None:
            applied = self._journal_state.applied(sender)
            known = _Sender(AppliedSequences(applied.numbers if applied is not None else (1, ())))
            self._senders[sender] = known
            if len(self._senders) > 4 * MAX_SENDERS:
                self._forget_oldest()
        else:
            self._senders.move_to_end(sender)
        return known

    def _forget_oldest(self) -> None:
        """Forget the oldest sender with nothing in hand: the journal has all its messages."""
        for sender, known in self._senders.items():
            if not known.held and not known.in_hand:
                del self._senders[sender]
                return
