"""One bank, one storm, and the books afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

from actorhub import Hub
from actorhub.address import new_id
from actorhub_rabbitmq import PrivateNode
from tests.chaos.bank import Bank
from tests.chaos.cluster import Cluster
from tests.chaos.storm import Storm

CALM = 90.0  # seconds after a storm in which every call has its answer, and every tell has arrived
READY = 60.0  # seconds until the first agent serves


async def endure(broker: PrivateNode, directory: Path, seed: int, seconds: float) -> tuple[int, list[str]]:
    """Returns how many transfers there were, and what happened meanwhile.

    Raises:
        AssertionError: the books are wrong. TimeoutError: a call hangs.
    """
    cluster = Cluster(broker, f"c{new_id(6)}", directory)
    cluster.start()
    try:
        async with Hub(settings=cluster.settings) as one, Hub(settings=cluster.settings) as two:
            bank = Bank([one, two], seed)
            async with asyncio.timeout(READY):
                while not await _is_served(one):
                    await asyncio.sleep(0.1)
                await bank.open()
            storm = Storm(cluster, bank, seed)
            try:
                await storm.rage(seconds)
                return await bank.close(CALM), storm.events
            except BaseException as exc:
                exc.add_note(f"seed {seed}, logs in {directory}, after:\n" + "\n".join(storm.events))
                raise
    finally:
        await asyncio.to_thread(cluster.stop)


async def _is_served(hub: Hub) -> bool:
    try:
        async with asyncio.timeout(1.0):
            return any(node.workers for node in await hub.nodes())
    except Exception:
        return False
