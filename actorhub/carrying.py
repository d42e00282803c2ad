"""Keeping states that have a key where the journal does not lose them: the oldest are written anew before they are lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from actorhub.journal.owner import Owner
from actorhub.journal.records import State
from actorhub.logbook import Logbook
from actorhub.residents import Household
from actorhub.work import Work

PAUSE = 0.005  # seconds between looks whether a state that is written anew has come back


class Carrying:
    """For one life of an owner. `room`: bytes that the broker keeps of the journal. `flush` commits what has been handled; room
    or not, where it is called with False."""

    def __init__(
        self, owner: Owner[Work], logbook: Logbook, household: Household, *, room: int, flush: Callable[[bool], None]
    ) -> None:
        self._owner = owner
        self._logbook = logbook
        self._household = household
        self._room = room
        self._flush = flush

    @property
    def is_due(self) -> bool:
        """The oldest state is far back."""
        past = self._owner.past
        return bool(past.places) and past.size - next(iter(past.places.values())).size > self._room // 4

    async def run(self) -> None:
        """Write the oldest states anew. Those in use are written with their next commit.

        Raises:
            JournalLost, BrokerUnavailable: the journal cannot be read.
        """
        owner, past = self._owner, self._owner.past
        while self.is_due:
            place = next(iter(past.places.values()))
            commit = await self._logbook.read(place.offset)
            await self._until_nothing_is_in_flight()  # from here on without an await: nothing is newer
            there = [state for state in commit.states if past.places.get(state.key) == place]
            if old := [state for state in there if not self._household.has_changed(state.key)]:
                sealed = owner.seal_old(old, time=time.time())
                owner.weigh(sealed, self._logbook.append(sealed))
            else:
                self._rewrite(there)
            await self._until_nothing_is_in_flight()
            self._flush(True)

    async def _until_nothing_is_in_flight(self) -> None:
        while self._owner.in_flight:
            await asyncio.sleep(PAUSE)

    def _rewrite(self, states: Sequence[State]) -> None:
        """What has been handled and waits for room has newer states of these instances: it must go first, room or not."""
        for state in states:
            self._household.renew(state.key)
        self._flush(False)
