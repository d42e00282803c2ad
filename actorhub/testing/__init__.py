"""Contract tests for broker adapters: plain checks, to be run against a real server of each kind.

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    async def test_my_broker_keeps_the_contract(check, my_broker):
        await check(my_broker, "queues-of-this-test")

Each check takes a `Broker` and a prefix that no queue and no exchange has yet. It raises AssertionError if a promise is broken,
and leaves no queue behind. Servers may differ as their profiles in `server_profiles.py` say; the contract checks these too.
"""

from actorhub.testing.contract import CONTRACT, Check
from actorhub.testing.probe import Probe

__all__ = ["CONTRACT", "Check", "Probe"]
