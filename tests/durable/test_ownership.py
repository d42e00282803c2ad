"""Ownership of a durable mailbox: what ends it before it serves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actorhub import Settings, actor
from actorhub.actors.spec import spec_of
from actorhub.durable.interface import MailboxConfig
from actorhub.durable.ownership import Ownership
from actorhub.durable.protocol.owner import OwnershipLost
from actorhub.durable.protocol.records import Commit, Epoch


@actor(durable=True)
class Plain:
    async def ping(self) -> None: ...


def _ownership() -> Ownership:
    """One that has not taken over yet, without a broker."""
    session: Any = SimpleNamespace(loop=asyncio.get_running_loop(), settings=Settings(), names=None)
    link: Any = SimpleNamespace(max_message=1 << 20, server="test")
    config = MailboxConfig(name="box", inbox="inbox", journal="journal", dead_letters="dead")
    host: Any = None
    return Ownership(session, link, spec_of(Plain), config, lambda context: host, on_end=lambda error: None)


async def test_an_owner_that_misses_records_while_its_instance_is_created_has_lost_its_ownership() -> None:
    """An epoch may be among the records that retention has dropped."""
    ownership = _ownership()
    me = ownership._me
    ownership._journal.state.read(0, Epoch(epoch=1, owner=me))
    ownership.on_record(1, Commit(epoch=1, owner="another", seq=1), 10)
    with pytest.raises(OwnershipLost, match="goes on at 3, and 2 was never read"):
        ownership.on_record(3, Commit(epoch=2, owner="another", seq=1), 10)


async def test_an_owner_that_reads_a_higher_epoch_while_its_instance_is_created_has_lost_its_ownership() -> None:
    ownership = _ownership()
    ownership._journal.state.read(0, Epoch(epoch=1, owner=ownership._me))
    with pytest.raises(OwnershipLost, match="another has taken over with epoch 2"):
        ownership.on_record(1, Epoch(epoch=2, owner="another"), 10)
