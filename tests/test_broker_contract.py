"""The broker contract on RabbitMQ and on the embedded broker."""

from __future__ import annotations

import inspect

import pytest

from actorhub import testing
from actorhub.broker import open_broker
from actorhub.testing import CONTRACT, Check


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_the_broker_keeps_the_contract(check: Check, broker_url: str, prefix: str) -> None:
    await check(open_broker(broker_url), prefix)


def test_every_check_is_in_the_contract() -> None:
    checks = {
        member
        for name, member in inspect.getmembers(testing, inspect.iscoroutinefunction)
        if member.__module__ == "actorhub.testing" and not name.startswith("_")
    }
    assert checks == set(CONTRACT)
