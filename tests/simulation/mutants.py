"""Mutants of the protocol: shortcuts that look right and are wrong. The oracle must catch each.

These are not among them, since they break no promise:
- Cancelling the inbox's consumer before its channel is closed. The next owner gets later messages first, and holds them back
  until the earlier ones have come, since it knows from the journal which numbers are next. That costs time. A mailbox without a
  journal, which begins with the first number that comes, would lose the order.
- Numbering tells under a name of each owner's own. What a commit releases has its final name and number; but receivers would
  have to remember the names of all owners.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actorhub.durable.protocol.deduplication import AppliedSequences
from actorhub.durable.protocol.intake import Intake, MessageIntake
from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Checkpoint, Commit, OutboxEntry, Record, SequenceSet
from actorhub.durable.protocol.takeover import Append, JournalLost, ReadFrom, Takeover, _Phase
from actorhub.wire.envelope import decode, encode
from tests.simulation.broken_fencing import (
    AllCountRule,
    AllCountState,
    ByOwnerRule,
    ByOwnerState,
    BySeqRule,
    BySeqState,
    NeverLosesOwnership,
    ReadsCopies,
    Snapshots,
    WithoutEpoch,
)
from tests.simulation.messages import Receipt, Request, read_record
from tests.simulation.network import JOURNAL, NOWHERE, Connection, Server
from tests.simulation.ownership import Ownership
from tests.simulation.rules import Parts

MUTANTS: dict[str, Parts] = {}


def parts_of(name: str) -> Parts:
    return MUTANTS[name] if name else Parts()


def _mutant(name: str, **parts: Any) -> None:
    MUTANTS[name] = replace(Parts(), name=name, **parts)


# ---- fencing


_mutant(
    "the last snapshot wins",
    journal_state=AllCountState, owner=NeverLosesOwnership, rule=AllCountRule, ownership=Snapshots,
)  # fmt: skip
_mutant(
    "the single active consumer is the only fence",
    journal_state=AllCountState, owner=NeverLosesOwnership, rule=AllCountRule, takeover=WithoutEpoch,
)  # fmt: skip


_mutant("sequence numbers without epochs", journal_state=BySeqState, takeover=WithoutEpoch, rule=BySeqRule)
_mutant("epochs without sequence numbers", journal_state=ByOwnerState, owner=ReadsCopies, rule=ByOwnerRule)


# ---- too early


class _EffectsOnConfirm(Ownership):
    _confirmed_early: frozenset[int] = frozenset()

    def appended(self, record: Record) -> None:
        if isinstance(record, Commit):
            self.release(record)

    def read_back(self, commit: Commit) -> None:
        if commit.seq in self._confirmed_early:
            super().settle(commit.seq)

    def settle(self, seq: int) -> None:
        assert self.owner is not None
        if self.owner.journal_state.last_seq < seq:
            self._confirmed_early |= {seq}
        else:
            super().settle(seq)


class _AcknowledgesAtOnce(Ownership):
    def after_append(self, commit: Commit) -> None:
        for request in self.unreleased[commit.seq]:
            self.acknowledge(request)


class _AcknowledgesOnReadBack(Ownership):
    def read_back(self, commit: Commit) -> None:
        for request in self.unreleased[commit.seq]:
            self.acknowledge(request)
        super().read_back(commit)


class _AcknowledgesInTheEnd(Ownership):
    def leave(self, why: str) -> None:
        for requests in self.unreleased.values():
            for request in requests:
                self.acknowledge(request)
        super().leave(why)


class _FlushesEarly(JournalOwner[Any]):
    def seal(self, *args: Any, **options: Any) -> Commit:
        self._unconfirmed.clear()
        return super().seal(*args, **options)


_mutant("effects on the confirm", ownership=_EffectsOnConfirm)
_mutant("acknowledges before the commit is read back", ownership=_AcknowledgesAtOnce)
_mutant("acknowledges before effects are confirmed", ownership=_AcknowledgesOnReadBack)
_mutant("acknowledges when it has lost the ownership", ownership=_AcknowledgesInTheEnd)
_mutant("says flushed before effects are confirmed", owner=_FlushesEarly)


# ---- inherited effects


class _ForgetsInherited(Ownership):
    def inherit(self, owner: JournalOwner[Request]) -> None:
        for seq, _ in owner.inherited:
            owner.confirmed(seq)


class _HurriesInherited(Ownership):
    def inherit(self, owner: JournalOwner[Request]) -> None:
        super().inherit(owner)
        self._inherited.clear()


class _RenamesInherited(Ownership):
    def inherit(self, owner: JournalOwner[Request]) -> None:
        owner.inherited = [(seq, tuple(self._renamed(one) for one in entries)) for seq, entries in owner.inherited]
        super().inherit(owner)

    def _renamed(self, entry: OutboxEntry) -> OutboxEntry:
        if entry.replies:
            return entry
        parcels = [
            (known.model_copy(update={"sender": f"{known.sender}.{self.me}"}), payload)
            for known, payload in decode(entry.body, entry.content_type)
        ]
        return entry.model_copy(update={"body": encode(parcels)[0]})


class _NumbersFromNothing(JournalOwner[Any]):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sent = {}


class _DoesNotAwaitEpoch(Takeover):
    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        actions = super().read(offset, record, size)
        if self.has_caught_up and not self.is_done:
            self._phase = _Phase.DONE
            self.journal_state.fencing.epoch += 1
            self.journal_state.fencing.owner = self._me
        return actions


_mutant("inherited effects are not sent", ownership=_ForgetsInherited)
_mutant("inherited effects are not awaited", ownership=_HurriesInherited)
_mutant("inherited effects get new names", ownership=_RenamesInherited)
_mutant("numbers not from the journal", owner=_NumbersFromNothing)
_mutant("the epoch is not read back", takeover=_DoesNotAwaitEpoch)


# ---- numbers


class _HighWater(AppliedSequences):
    def __init__(self, numbers: SequenceSet = (1, ())) -> None:
        super().__init__((numbers[0], ()))

    def skip_to(self, seq: int) -> range:
        gap = super().skip_to(seq)
        self._missing.clear()
        return gap


class _HighWaterIntake(MessageIntake[Any]):
    def _sender(self, sender: str) -> Any:
        is_new = sender not in self._senders
        known = super()._sender(sender)
        if is_new:
            known.taken = _HighWater(known.taken.numbers)
        return known


class _HighWaterMark(JournalOwner[Any]):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.intake = _HighWaterIntake(self.journal_state)


class _NeverHolds(JournalOwner[Any]):
    def take(self, sender: str, seq: int, acked_below: int, request: Any) -> tuple[Intake, Any]:
        known = self.intake._sender(sender)
        if seq > known.taken.next:
            known.taken.skip_to(seq)
        return super().take(sender, seq, acked_below, request)


class _NumbersOfTheFailed(Ownership):
    def failed(self, owner: JournalOwner[Request]) -> None:
        owner.number("destination.0")


_mutant("a high-water mark", owner=_HighWaterMark)
_mutant("nothing is held back", owner=_NeverHolds)
_mutant("failed handlers use up numbers", ownership=_NumbersOfTheFailed)


# ---- repeated messages


class _NoReplyAgain(Ownership):
    def repeat_done(self, owner: JournalOwner[Request], request: Request) -> None:
        request.receipts[0].done()


class _RunsAgain(Ownership):
    def repeat_done(self, owner: JournalOwner[Request], request: Request) -> None:
        if request.envelope.reply_to and owner.journal_state.replies.find(*request.key):
            self._ready.append(request)
        else:
            super().repeat_done(owner, request)


class _ForgetsLateCopies(Ownership):
    def repeat_in_hand(self, first: Request, receipt: Receipt) -> None:
        first.receipts.append(receipt)


class _AcknowledgesCopies(Ownership):
    def repeat_in_hand(self, first: Request, receipt: Receipt) -> None:
        if first.is_released:
            super().repeat_in_hand(first, receipt)
        else:
            receipt.done()


class _CheckpointWithoutReplies(JournalState):
    def checkpoint(self) -> Checkpoint:
        return super().checkpoint().model_copy(update={"postings": ()})


_mutant("replies are not given again", ownership=_NoReplyAgain)
_mutant("a repeated call runs again", ownership=_RunsAgain)
_mutant("a copy that came during the reply gets none", ownership=_ForgetsLateCopies)
_mutant("copies of messages in hand are acknowledged", ownership=_AcknowledgesCopies)
_mutant("checkpoints without replies", journal_state=_CheckpointWithoutReplies)


# ---- checkpoints and retention


class _CheckpointAmidUnconfirmed(JournalOwner[Any]):
    @property
    def _may_checkpoint(self) -> bool:
        return not self._appended


class _CheckpointAmidCommits(JournalOwner[Any]):
    @property
    def _may_checkpoint(self) -> bool:
        return len(self._appended) < 3


class _PatchWithCheckpoint(Ownership):
    def is_whole(self, owner: JournalOwner[Request]) -> bool:
        return False


class _CheckpointWithoutState(JournalOwner[Any]):
    def seal_confirmation(self, *, time: float = 0.0) -> Commit:
        return self.seal_rewritten((), time=time)


class _AnyCheckpointIsLow(JournalState):
    def read(self, offset: int, record: Record | None, size: int = 0) -> bool:
        counts = super().read(offset, record, size)
        if isinstance(record, Commit) and record.image is not None:
            self.low = max(self.low, offset)
        return counts


class _OverlooksRetention(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        self.journal_state.next_offset = offset
        return super().read(offset, record, size)


class _TrustsTheTail(Takeover):
    def _search(self) -> list[ReadFrom | Append]:
        raise JournalLost("the journal does not begin where the last records say")


class _OverlooksThat(Takeover):
    def _misses(self, offset: int) -> bool:
        self._next_offset = offset + 1
        return False


_mutant("a checkpoint while effects are not confirmed", owner=_CheckpointAmidUnconfirmed)
_mutant("a checkpoint while commits are in flight", owner=_CheckpointAmidCommits)
_mutant("a patch beside a checkpoint", ownership=_PatchWithCheckpoint)
_mutant("a checkpoint without the state", owner=_CheckpointWithoutState)
_mutant("low at a checkpoint that does not count", journal_state=_AnyCheckpointIsLow)
_mutant("an owner overlooks that retention overtook it", owner=_OverlooksRetention)
_mutant("a new owner trusts the last records", takeover=_TrustsTheTail)
_mutant("a new owner overlooks that retention overtook it", takeover=_OverlooksThat)


# ---- the broker's fences


class _Deduplicates(Server):
    """A stream with producer deduplication: the producer is the mailbox, the publishing id the commit's number."""

    _highest = 0

    def store(self, connection: Connection, channel: int, queue: str, header: bytes, body: bytes) -> None:
        record = read_record(body) if queue == JOURNAL else None
        if isinstance(record, Commit):
            if record.seq <= self._highest:
                super().store(connection, channel, NOWHERE, header, b"")
                return
            self._highest = record.seq
        super().store(connection, channel, queue, header, body)


_mutant(
    "stream deduplication is the only fence",
    journal_state=BySeqState, takeover=WithoutEpoch, rule=BySeqRule, server=_Deduplicates, ownership=_EffectsOnConfirm,
)  # fmt: skip
