"""Placement groups as their users hold them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from actorhub.control.client import control_of
from actorhub.control.infos import GroupInfo
from actorhub.control.plans import GroupPlan
from actorhub.errors import ActorHubError
from actorhub.needs import Bundle
from actorhub.session import Session

FIRST_LOOK = 0.02  # seconds between looks whether it is reserved, at first
LAST_LOOK = 0.5


class PlacementGroup:
    """Bundles of resources that are reserved together. `group[0]` is where an actor may go: `hub.options(placement=group[0])`.

    It may be passed on to whoever shall spawn in it; `hub.remove` ends it.
    """

    def __init__(self, session: Session, plan: GroupPlan) -> None:
        self._session = session
        self._plan = plan

    @property
    def id(self) -> str:
        return self._plan.group_id

    @property
    def name(self) -> str | None:
        return self._plan.name

    def __len__(self) -> int:
        return len(self._plan.bundles)

    def __iter__(self) -> Iterator[Bundle]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Bundle:
        """Raises:
        IndexError: it has no such bundle.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self!r} has bundles 0 to {count - 1}, and no {index}")
        return Bundle(group=self.id, index=index % count)

    async def ready(self, timeout: float | None = None) -> GroupInfo:
        """Returns when all of it is reserved, which actors in it need not wait for: they begin when it is.

        Raises:
            TimeoutError: it is not, after `timeout` seconds; the message says what it waits for.
            ActorHubError: it was removed.
        """
        pause, info = FIRST_LOOK, await self._look()
        try:
            async with asyncio.timeout(timeout):
                while not info.is_ready:
                    await asyncio.sleep(pause)
                    pause, info = min(2 * pause, LAST_LOOK), await self._look()
        except TimeoutError as exc:
            raise TimeoutError(f"{self!r} is not ready after {timeout} s; it waits for {info.waits_for}") from exc
        return info

    async def _look(self) -> GroupInfo:
        info = await control_of(self._session).group(self.id)
        if info is None:
            raise ActorHubError(f"{self!r} was removed; make another with hub.placement_group")
        return info

    def __repr__(self) -> str:
        return f"<placement group {self.name or self.id} of {len(self)} bundles, {self._plan.strategy}>"
