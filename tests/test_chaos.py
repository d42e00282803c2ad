"""Durable actors while everything around them fails; longer by `make chaos MINUTES=10`."""

from __future__ import annotations

from pathlib import Path

import pytest

from actorhub_rabbitmq import PrivateNode
from tests.chaos.run import endure


@pytest.mark.timeout(300)
async def test_a_bank_keeps_its_books_through_a_minute_of_chaos(own_rabbitmq: PrivateNode, tmp_path: Path) -> None:
    """Invariant: the total changes by deposits only, each accepted transfer is entered once on both sides, each answer is what
    the books say, and no call hangs."""
    transfers, events = await endure(own_rabbitmq, tmp_path, seed=20261125, seconds=60.0)
    assert transfers > 100
    assert len(events) > 10
