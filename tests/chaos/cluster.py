"""Three RabbitMQ nodes as one broker, in containers: `compose/cluster.yml`. One of them is hurt at a time. Calls block."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

from actorhub.core.addressing import new_id
from tests.chaos.broker import START, Broker, docker, free_port

FILE = Path(__file__).parent.parent.parent / "compose" / "cluster.yml"
SIZE = 3


class Cluster(Broker):
    """Quorum queues and streams begin on all nodes in turn, and are copied to all."""

    def __init__(self, chance: random.Random) -> None:
        self.name = "a cluster of three RabbitMQ nodes"
        self._chance = chance
        self._project = f"actorhub-chaos-{new_id(6)}"
        self._hurt = 1
        ports = [free_port() for _ in range(SIZE)]  # ports that the engine chose would be others after a restart
        self._environment = {f"RABBITMQ_{n}_PORT": str(port) for n, port in enumerate(ports, 1)}
        self.urls = [f"amqp://actorhub:development@127.0.0.1:{port}/" for port in ports]
        self._compose("up", "--detach", "--wait")
        for kind in ("quorum_queues", "streams"):
            self.control("set_policy", "--apply-to", kind, kind, ".*", '{"queue-leader-locator": "balanced"}')

    def remove(self) -> None:
        self._compose("down", "--volumes", "--timeout", "5")

    def kill(self) -> None:
        docker("kill", self._choose())

    def start(self) -> None:
        docker("start", self._container)
        self._wait()

    def restart(self) -> None:
        docker("restart", "--timeout", "30", self._choose())
        self._wait()

    def freeze(self) -> None:
        docker("pause", self._choose())

    def thaw(self) -> None:
        docker("unpause", self._container)

    def refuse(self) -> None:
        self._choose()
        super().refuse()

    def cut_off(self) -> None:
        """From the other nodes, not from its clients."""
        docker("network", "disconnect", f"{self._project}_brokers", self._choose())

    def join(self) -> None:
        docker("network", "connect", "--alias", f"rabbit-{self._hurt}", f"{self._project}_brokers", self._container)
        docker("exec", "--user", "root", self._container, "sh", "/cluster.sh")
        self._wait()

    def control(self, *arguments: str) -> str:
        """On the node that was hurt last."""
        return docker("exec", self._container, "rabbitmqctl", "-q", *arguments)

    @property
    def _container(self) -> str:
        return f"{self._project}-broker-{self._hurt}-1"

    def _choose(self) -> str:
        self._hurt = self._chance.randrange(SIZE) + 1
        return self._container

    def _wait(self) -> None:
        """Until all of them take connections, and see each other."""
        until = time.monotonic() + START
        while not self._whole():
            assert time.monotonic() < until, docker("logs", "--tail", "20", self._container)
            time.sleep(0.5)

    def _whole(self) -> bool:
        seen = f"length(rabbit_nodes:list_running()) =:= {SIZE}."
        looks = ["rabbitmq-diagnostics", "-q", "check_port_connectivity"], ["rabbitmqctl", "-q", "eval", seen]
        found = [
            subprocess.run(["docker", "exec", self._container, *look], capture_output=True, check=False)
            for look in looks
        ]
        return all(one.returncode == 0 for one in found) and found[1].stdout.strip() == b"true"

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--file", str(FILE), "--project-name", self._project, "--progress", "plain"]
        environment = {**os.environ, **self._environment}
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {done.stderr}"
