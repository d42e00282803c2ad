"""End of sessions that own actors and are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from actorhub import Settings
from actorhub.broker import Link, QueueState
from actorhub.control.actor import Control
from actorhub.core.addressing import QueueNames
from actorhub.errors import BrokerUnavailable


class _Link:
    """A link to a cluster of brokers, of which one node is down with one session's queue."""

    def __init__(self, down: str) -> None:
        self.down = down
        self.read: list[str] = []

    async def state(self, queue: str) -> QueueState:
        self.read.append(queue)
        if queue == self.down:
            raise BrokerUnavailable(f"{queue} is down or inaccessible")
        return QueueState(messages=0, consumers=1)


async def test_a_session_whose_queue_is_out_of_reach_is_not_ended_and_the_others_are_still_checked() -> None:
    """The broker's node that holds the session's reply queue is down."""
    names = QueueNames("ah")
    link = _Link(names.reply("a"))
    control: Any = Control(Settings(), cast(Link, link), {})
    control._session = SimpleNamespace(names=names)
    for owner in ("a", "b"):
        await control._check_session(owner)
    assert link.read == [names.reply("a"), names.reply("b")]
    assert not control._gone_since
