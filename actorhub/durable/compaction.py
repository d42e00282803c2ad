"""Compaction of a journal: the oldest states of keys are written again before the broker drops the records that hold them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from actorhub.durable.journal import Journal
from actorhub.durable.protocol.owner import JournalOwner
from actorhub.durable.protocol.takeover import JournalLost
from actorhub.messaging.request import Request

log = logging.getLogger(__name__)

IN_FLIGHT_POLL_SECONDS = 0.005
"""Between two looks whether all commits are confirmed."""

OVERFULL_PAUSE_SECONDS = 5.0
"""Before states that are too many for the journal are all written once more."""


class Compactor:
    """Compacts the journal of one ownership.

    Args:
        name: the mailbox's.
        retention: bytes of the journal that the broker keeps.
        commit_if_due: commits what has been handled meanwhile, if there is room for it.
    """

    def __init__(
        self,
        name: str,
        owner: JournalOwner[Request],
        journal: Journal,
        *,
        retention: int,
        commit_if_due: Callable[[], None],
    ) -> None:
        self._name = name
        self._owner = owner
        self._journal = journal
        self._retention = retention
        self._commit_if_due = commit_if_due

    @property
    def is_due(self) -> bool:
        """The oldest state is so far back that it might be dropped soon."""
        state = self._owner.journal_state
        if not state.positions:
            return False
        oldest = next(iter(state.positions.values()))
        return state.bytes_read - oldest.bytes_read > self._retention // 4

    async def run(self) -> None:
        """Write the oldest states again, as they are in the journal, until none is far back. What has been handled and not
        committed comes after them.

        Raises:
            JournalLost, BrokerUnavailable: the journal cannot be read.
        """
        owner, journal_state = self._owner, self._owner.journal_state
        begin, written = journal_state.next_offset, 0
        while self.is_due:
            position = next(iter(journal_state.positions.values()))
            if position.offset >= begin:  # all have been written once, and much else was appended meanwhile
                if written > self._retention // 4:
                    await self._wait_for_fewer()
                begin, written = journal_state.next_offset, 0
                continue
            try:
                commit = await self._journal.read(position.offset)
            except JournalLost:
                if position in journal_state.positions.values():
                    raise
                continue  # its states have been written again meanwhile
            await self._until_nothing_is_in_flight()
            # without an await from here to the append, so that the journal has nothing newer
            if current := [state for state in commit.states if journal_state.positions.get(state.key) == position]:
                rewritten = owner.seal_rewritten(current, time=time.time())
                size = self._journal.append(rewritten)
                owner.record_size(rewritten, size)
                written += size
            await self._until_nothing_is_in_flight()
            self._commit_if_due()

    async def _wait_for_fewer(self) -> None:
        log.error(
            "the states of %s take more than a quarter of its journal, of which %d bytes are kept; give the class more shards, "
            "or journals more room by `journal_retention`",
            *(self._name, self._retention),
        )
        await asyncio.sleep(OVERFULL_PAUSE_SECONDS)

    async def _until_nothing_is_in_flight(self) -> None:
        while self._owner.in_flight:
            await asyncio.sleep(IN_FLIGHT_POLL_SECONDS)
