"""Keeping states that have a key where the journal does not lose them: the oldest are written anew before they are lost."""

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

PAUSE = 0.005  # seconds between looks whether a state that is written anew has come back
CROWDED = 5.0  # seconds before states that are too many for the journal are written anew once more


class Compactor:
    """For one life of the owner of `name`. `room`: bytes that the broker keeps of the journal. `flush` commits what has been
    handled, if there is room for it."""

    def __init__(
        self, name: str, owner: JournalOwner[Request], logbook: Journal, *, room: int, flush: Callable[[], None]
    ) -> None:
        self._name = name
        self._owner = owner
        self._logbook = logbook
        self._room = room
        self._flush = flush

    @property
    def is_due(self) -> bool:
        """The oldest state is far back."""
        past = self._owner.past
        return bool(past.places) and past.size - next(iter(past.places.values())).size > self._room // 4

    async def run(self) -> None:
        """Write the oldest states anew, as they are in the journal: what has been handled since comes after them.

        Raises:
            JournalLost, BrokerUnavailable: the journal cannot be read.
        """
        owner, past = self._owner, self._owner.past
        begin, written = past.end, 0
        while self.is_due:
            place = next(iter(past.places.values()))
            if place.offset >= begin:  # all of them have been written anew, and so much else was written meanwhile
                if written > self._room // 4:
                    await self._wait_for_fewer()
                begin, written = past.end, 0
                continue
            try:
                commit = await self._logbook.read(place.offset)
            except JournalLost:
                if place in past.places.values():
                    raise
                continue  # all of it was written anew meanwhile
            await self._until_nothing_is_in_flight()  # from here on without an await: the journal has nothing newer
            if there := [state for state in commit.states if past.places.get(state.key) == place]:
                sealed = owner.seal_rewritten(there, time=time.time())
                size = self._logbook.append(sealed)
                owner.record_size(sealed, size)
                written += size
            await self._until_nothing_is_in_flight()
            self._flush()

    async def _wait_for_fewer(self) -> None:
        """They alone take too much."""
        log.error(
            "the states of %s need more than a quarter of its journal, of which %d bytes are kept; give the class more shards, "
            "or journals more room by `journal_retention`",
            *(self._name, self._room),
        )
        await asyncio.sleep(CROWDED)

    async def _until_nothing_is_in_flight(self) -> None:
        while self._owner.in_flight:
            await asyncio.sleep(PAUSE)
