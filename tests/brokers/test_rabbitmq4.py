"""The broker contract and a cluster on RabbitMQ 4, in a container."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator

import pytest
from tenacity import wait_fixed

from actorhub import Hub, Retry, actor, task, tell
from actorhub.broker import Outcome, open_broker
from actorhub.core.addressing import new_id
from actorhub.testing import CONTRACT, Check
from tests.brokers.test_broker_contract import check_default_delivery_limit
from tests.messaging.test_delayed_delivery import ladder
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(120)]


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def rabbitmq4() -> Iterator[str]:
    """URL of a RabbitMQ 4 in a container, for this module."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers; start one, or set DOCKER_HOST")
    name = f"actorhub-test-{new_id(6)}"
    docker("run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1::5672", "rabbitmq:4-management")
    try:
        address = docker("port", name, "5672")
        command = ["docker", "exec", name, "rabbitmq-diagnostics", "-q", "check_port_connectivity"]
        until = time.monotonic() + 60
        while subprocess.run(command, capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < until, docker("logs", "--tail", "20", name)
            time.sleep(0.5)
        yield f"amqp://guest:guest@{address}/"
    finally:
        docker("rm", "--force", name)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_rabbitmq_4_keeps_the_contract(check: Check, rabbitmq4: str, prefix: str) -> None:
    await check(open_broker(rabbitmq4), prefix)


async def test_the_default_delivery_limit_of_rabbitmq_4_is_the_one_in_its_profile(rabbitmq4: str, prefix: str) -> None:
    await asyncio.to_thread(check_default_delivery_limit, rabbitmq4, prefix)


async def test_delayed_messages_arrive_in_order_on_rabbitmq_4(rabbitmq4: str, prefix: str) -> None:
    async with ladder(rabbitmq4, prefix) as found:
        outcomes = await asyncio.gather(*(found.put(number / 10, b"%d" % number) for number in (7, 5, 3, 1)))
        assert outcomes == [Outcome.STORED] * 4
        await found.probe.get(4)
        assert found.probe.bodies == [b"1", b"3", b"5", b"7"]


@actor
class Counter:
    def __init__(self) -> None:
        self.value = 0

    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def fail(self) -> None:
        raise RuntimeError("as told")


async def test_a_cluster_runs_on_rabbitmq_4(rabbitmq4: str) -> None:
    async with Hub.local(workers=2, modules=[__name__], url=rabbitmq4) as hub:
        counter = await hub.spawn(Counter)
        assert await asyncio.gather(*(counter.add(1) for _ in range(1000))) == list(range(1, 1001))
        await tell(counter.fail)
        [letter] = await until(hub.dead)
        assert letter.method == "fail"


@task
def double(number: int) -> int:
    return 2 * number


@task(retry=Retry(attempts=2, wait=wait_fixed(0.2)))
def fail() -> None:
    raise RuntimeError("as told")


async def test_tasks_run_on_rabbitmq_4(rabbitmq4: str) -> None:
    async with Hub.local(workers=1, slots=2, modules=[__name__], url=rabbitmq4) as hub:
        assert await hub.get([hub.submit(double, n) for n in range(1000)]) == [2 * n for n in range(1000)]
        assert await hub.chain(double, double).submit(3) == 12
        assert await hub.gather_into(sum, double, range(50)) == 2 * sum(range(50))
        assert await hub.options(delay=0.3, priority=9).submit(double, 4) == 8
        ref = await hub.put(b"x" * 1_000_000)
        assert await hub.submit(len, ref.as_argument()) == 1_000_000
        with pytest.raises(RuntimeError, match="as told"):
            await hub.submit(fail)
        [letter] = await until(hub.dead)
        assert (letter.attempts, letter.reason) == (2, "exception")
