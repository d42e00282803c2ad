"""Journal records and owners for the tests of the protocol."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from actorhub.durable.protocol.journal_state import JournalState
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.records import Checkpoint, Commit, Epoch, OutboxEntry, StateRecord


def epoch(number: int, owner: str, low: int = 0) -> Epoch:
    return Epoch(epoch=number, owner=owner, low=low)


def commit(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return Commit(epoch=number, owner=owner, seq=seq, **fields)


owners = st.sampled_from("AB")
small_epochs = st.builds(epoch, st.integers(1, 4), owners)
small_commits = st.builds(commit, st.integers(1, 4), owners, st.integers(1, 6))


def seal(owner: JournalOwner[str], states: list[StateRecord], outbox: list[OutboxEntry]) -> Commit:
    owner.close_batch(states, outbox)
    return owner.seal()


def own(state: JournalState | None = None, **options: Any) -> JournalOwner[str]:
    state = state if state is not None else JournalState()
    state.read(state.next_offset, epoch(state.fencing.epoch + 1, "me"))
    return JournalOwner("box", "me", state, **options)


def with_checkpoint(number: int, owner: str, seq: int, **fields: Any) -> Commit:
    return commit(number, owner, seq, image=Checkpoint(windows={}, sent={}, lineage=0, postings=()), **fields)
