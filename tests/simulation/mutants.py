"""Shortcuts that look right and are not. The oracle must find out each.

Not among them, since no promise is broken by them:
- Cancelling the inbox's consumer before its channel is closed. The next owner gets later messages first, and holds them back
  until the earlier ones are there, for its windows begin where the journal says. It costs time; a mailbox without a journal,
  whose windows begin at what comes first, would lose the order.
- Numbering tells under a name of each life's own. What a commit releases has its final name and number; but receivers would
  have to keep the names of all lives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actorhub.durable.protocol.deduplication import AppliedSequences
from actorhub.durable.protocol.journal_state import FencingRule, JournalState
from actorhub.durable.protocol.owner import Intake, JournalOwner
from actorhub.durable.protocol.records import Checkpoint, Commit, OutboxEntry, Record, SequenceSet
from actorhub.durable.protocol.takeover import Append, JournalLost, ReadFrom, Takeover, _Phase
from actorhub.wire.envelope import decode, encode
from tests.simulation.history import Rule
from tests.simulation.life import Life, Receipt, Work, read_record
from tests.simulation.rules import Parts
from tests.simulation.wire import JOURNAL, NOWHERE, Connection, Server

MUTANTS: dict[str, Parts] = {}


def parts_of(name: str) -> Parts:
    return MUTANTS[name] if name else Parts()


def _mutant(name: str, **parts: Any) -> None:
    MUTANTS[name] = replace(Parts(), name=name, **parts)


# ---- without validity: whatever is appended counts


class _AllCount(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit):
            return super().counts(record)
        self.next = record.seq + 1
        return True


class _AllCountRule(Rule):
    def counts(self, record: Record) -> bool:
        return isinstance(record, Commit)


class _AllCountPast(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.validity = _AllCount()


class _NeverDeposed(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        self.past.read(offset, record, size)
        if not isinstance(record, Commit) or record.owner != self.me or record.seq not in self._appended:
            return None
        commit, self._counted[record.seq], _ = self._appended.pop(record.seq)
        return commit


class _Snapshots(Life):
    def is_whole(self, owner: JournalOwner[Work]) -> bool:
        return True


class _WithoutEpoch(Takeover):
    """At the end of the journal it takes itself for the owner, and tells nobody."""

    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        actions = super().read(offset, record, size)
        if not self.caught_up or self.over:
            return actions
        self._phase = _Phase.OVER
        self.past.validity.owner = self._me
        return []


_mutant(
    "the last snapshot wins",
    past=_AllCountPast, owner=_NeverDeposed, rule=_AllCountRule, life=_Snapshots,
)  # fmt: skip
_mutant(
    "the single active consumer is the only fence",
    past=_AllCountPast, owner=_NeverDeposed, rule=_AllCountRule, takeover=_WithoutEpoch,
)  # fmt: skip


# ---- half of validity


class _BySeq(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit) or record.seq != self.next:
            return False
        self.next += 1
        self.owner = record.owner
        return True


class _BySeqRule(Rule):
    def __init__(self) -> None:
        self._validity = _BySeq()

    def counts(self, record: Record) -> bool:
        return self._validity.counts(record)


class _BySeqPast(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.validity = _BySeq()


class _ByOwner(FencingRule):
    def counts(self, record: Record) -> bool:
        if not isinstance(record, Commit):
            return super().counts(record)
        self.next = record.seq + 1
        return (record.epoch, record.owner) == (self.epoch, self.owner)


class _ByOwnerRule(Rule):
    def __init__(self) -> None:
        self._validity = _ByOwner()

    def counts(self, record: Record) -> bool:
        return self._validity.counts(record) and isinstance(record, Commit)


class _ByOwnerPast(JournalState):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.validity = _ByOwner()


class _ReadsCopies(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        if isinstance(record, Commit) and record.owner == self.me and record.seq not in self._appended:
            self.past.read(offset, record, size)
            return None
        return super().read(offset, record, size)


_mutant("sequence numbers without epochs", past=_BySeqPast, takeover=_WithoutEpoch, rule=_BySeqRule)
_mutant("epochs without sequence numbers", past=_ByOwnerPast, owner=_ReadsCopies, rule=_ByOwnerRule)


# ---- too early


class _EffectsOnConfirm(Life):
    _early: frozenset[int] = frozenset()

    def appended(self, record: Record) -> None:
        if isinstance(record, Commit):
            self.release(record)

    def read_back(self, commit: Commit) -> None:
        if commit.seq in self._early:
            super().posted(commit.seq)

    def posted(self, seq: int) -> None:
        assert self.owner is not None
        if self.owner.past.last < seq:
            self._early |= {seq}
        else:
            super().posted(seq)


class _AcknowledgesAtOnce(Life):
    def sealed(self, commit: Commit) -> None:
        for work in self.unreleased[commit.seq]:
            self.acknowledge(work)


class _AcknowledgesOnReadBack(Life):
    def read_back(self, commit: Commit) -> None:
        for work in self.unreleased[commit.seq]:
            self.acknowledge(work)
        super().read_back(commit)


class _AcknowledgesInTheEnd(Life):
    def leave(self, why: str) -> None:
        for works in self.unreleased.values():
            for work in works:
                self.acknowledge(work)
        super().leave(why)


class _FlushesEarly(JournalOwner[Any]):
    def seal(self, *args: Any, **options: Any) -> Commit:
        self._unconfirmed.clear()
        return super().seal(*args, **options)


_mutant("effects on the confirm", life=_EffectsOnConfirm)
_mutant("acknowledges before the commit is read back", life=_AcknowledgesAtOnce)
_mutant("acknowledges before what follows is confirmed", life=_AcknowledgesOnReadBack)
_mutant("acknowledges when deposed", life=_AcknowledgesInTheEnd)
_mutant("says flushed before it is confirmed", owner=_FlushesEarly)


# ---- what a successor does


class _ForgetsInherited(Life):
    def inherit(self, owner: JournalOwner[Work]) -> None:
        for seq, _ in owner.inherited:
            owner.posted(seq)


class _HurriesInherited(Life):
    def inherit(self, owner: JournalOwner[Work]) -> None:
        super().inherit(owner)
        self._inherited.clear()


class _RenamesInherited(Life):
    def inherit(self, owner: JournalOwner[Work]) -> None:
        owner.inherited = [(seq, tuple(self._renamed(one) for one in postings)) for seq, postings in owner.inherited]
        super().inherit(owner)

    def _renamed(self, posting: OutboxEntry) -> OutboxEntry:
        if posting.replies:
            return posting
        parcels = [
            (known.model_copy(update={"sender": f"{known.sender}.{self.me}"}), payload)
            for known, payload in decode(posting.body, posting.content_type)
        ]
        return posting.model_copy(update={"body": encode(parcels)[0]})


class _NumbersFromNothing(JournalOwner[Any]):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sent = {}


class _DoesNotAwaitEpoch(Takeover):
    def read(self, offset: int, record: Record | None, size: int = 0) -> list[ReadFrom | Append]:
        actions = super().read(offset, record, size)
        if self.caught_up and not self.over:
            self._phase = _Phase.OVER
            self.past.validity.epoch += 1
            self.past.validity.owner = self._me
        return actions


_mutant("inherited effects are not sent", life=_ForgetsInherited)
_mutant("inherited effects are not awaited", life=_HurriesInherited)
_mutant("inherited effects get new names", life=_RenamesInherited)
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


class _HighWaterMark(JournalOwner[Any]):
    def _of(self, sender: str) -> Any:
        is_new = sender not in self._senders
        who = super()._of(sender)
        if is_new:
            who.taken = _HighWater(who.taken.numbers)
        return who


class _NeverHolds(JournalOwner[Any]):
    def take(self, sender: str, seq: int, acked_below: int, work: Any) -> tuple[Intake, Any]:
        who = self._of(sender)
        if seq > who.taken.next:
            who.taken.skip_to(seq)
        return super().take(sender, seq, acked_below, work)


class _NumbersOfTheFailed(Life):
    def failed(self, owner: JournalOwner[Work]) -> None:
        owner.number("destination.0")


_mutant("a high-water mark", owner=_HighWaterMark)
_mutant("nothing is held back", owner=_NeverHolds)
_mutant("failed handlers use up numbers", life=_NumbersOfTheFailed)


# ---- answers


class _NoAnswerAgain(Life):
    def known(self, owner: JournalOwner[Work], work: Work) -> None:
        work.receipts[0].done()


class _RunsAgain(Life):
    def known(self, owner: JournalOwner[Work], work: Work) -> None:
        if work.envelope.reply_to and owner.past.answers.find(*work.key):
            self._turn.append(work)
        else:
            super().known(owner, work)


class _ForgetsLateCopies(Life):
    def repeated(self, known: Work, receipt: Receipt) -> None:
        known.receipts.append(receipt)


class _AcknowledgesCopies(Life):
    def repeated(self, known: Work, receipt: Receipt) -> None:
        if known.is_released:
            super().repeated(known, receipt)
        else:
            receipt.done()


class _ImageWithoutAnswers(JournalState):
    def image(self) -> Checkpoint:
        return super().image().model_copy(update={"postings": ()})


_mutant("answers are not given again", life=_NoAnswerAgain)
_mutant("a repeated ask runs again", life=_RunsAgain)
_mutant("a copy that came during the answer is not answered", life=_ForgetsLateCopies)
_mutant("copies of what is in hand are acknowledged", life=_AcknowledgesCopies)
_mutant("images without answers", past=_ImageWithoutAnswers)


# ---- images and retention


class _ImageAmidUnconfirmed(JournalOwner[Any]):
    @property
    def gives_image(self) -> bool:
        return self.wants_image and not self._appended


class _ImageAmidCommits(JournalOwner[Any]):
    @property
    def gives_image(self) -> bool:
        return self.wants_image and len(self._appended) < 3


class _PatchWithImage(Life):
    def is_whole(self, owner: JournalOwner[Work]) -> bool:
        return False


class _AnyImageIsLow(JournalState):
    def read(self, offset: int, record: Record | None, size: int = 0) -> bool:
        counts = super().read(offset, record, size)
        if isinstance(record, Commit) and record.image is not None:
            self.low = max(self.low, offset)
        return counts


class _OverlooksRetention(JournalOwner[Any]):
    def read(self, offset: int, record: Record | None, size: int = 0) -> Commit | None:
        self.past.end = offset
        return super().read(offset, record, size)


class _TrustsTheTail(Takeover):
    def _search(self) -> list[ReadFrom | Append]:
        raise JournalLost("it does not begin where the last records say")


class _OverlooksThat(Takeover):
    def _misses(self, offset: int) -> bool:
        self._next = offset + 1
        return False


_mutant("an image while effects are not confirmed", owner=_ImageAmidUnconfirmed)
_mutant("an image while commits are under way", owner=_ImageAmidCommits)
_mutant("a patch beside an image", life=_PatchWithImage)
_mutant("low at an image that does not count", past=_AnyImageIsLow)
_mutant("an owner overlooks that retention overtook it", owner=_OverlooksRetention)
_mutant("a successor trusts the last records", takeover=_TrustsTheTail)
_mutant("a successor overlooks that retention overtook it", takeover=_OverlooksThat)


# ---- the broker's fences


class _Deduplicates(Server):
    """A stream producer named after the mailbox, whose publishing id is the commit's number."""

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
    "a stream's deduplication is the fence",
    past=_BySeqPast, takeover=_WithoutEpoch, rule=_BySeqRule, server=_Deduplicates, life=_EffectsOnConfirm,
)  # fmt: skip
