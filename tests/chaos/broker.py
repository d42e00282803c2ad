"""Brokers that can be killed, restarted, frozen and cut off: a private node, and a container. Calls block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod

import psutil

from actorhub.core.addressing import new_id
from actorhub_rabbitmq import PrivateNode

START = 90.0  # seconds that a container may take


class Broker(ABC):
    name: str
    urls: list[str]
    """One for each of its nodes."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL; `start` follows."""

    @abstractmethod
    def start(self) -> None:
        """With what was stored; returns when it takes connections."""

    @abstractmethod
    def restart(self) -> None:
        """A clean one."""

    @abstractmethod
    def freeze(self) -> None: ...
    @abstractmethod
    def thaw(self) -> None: ...
    @abstractmethod
    def control(self, *arguments: str) -> str:
        """rabbitmqctl."""

    def close_connections(self) -> None:
        self.control("close_all_connections", "chaos")

    def refuse(self) -> None:
        """Take no connections, and close those that there are; until `accept`."""
        self.control("suspend_listeners")
        self.close_connections()

    def accept(self) -> None:
        self.control("resume_listeners")

    def messages(self) -> dict[str, int]:
        """How many each queue has, those that are delivered and not acknowledged included."""
        lines = self.control("list_queues", "--no-table-headers", "name", "messages").splitlines()
        return {name: int(count) for name, count in (line.split("\t") for line in lines if "\t" in line)}


class Private(Broker):
    """Around a node that whoever made it stops."""

    def __init__(self, node: PrivateNode) -> None:
        self._node = node
        self.urls = [node.url]
        self.name = "a private RabbitMQ"

    def kill(self) -> None:
        self._node.kill()

    def start(self) -> None:
        self._node.restart()

    def restart(self) -> None:
        self._node.restart()

    def freeze(self) -> None:
        os.kill(self._node.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if psutil.pid_exists(self._node.pid):
            os.kill(self._node.pid, signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        return self._node.control(*arguments)


class Container(Broker):
    """One of its own, from its making to `remove`."""

    def __init__(self, image: str) -> None:
        self.name = image
        self._container = f"actorhub-chaos-{new_id(6)}"
        port = free_port()  # a port that the engine chose would be another one after a restart
        self.urls = [f"amqp://guest:guest@127.0.0.1:{port}/"]
        publish = f"127.0.0.1:{port}:5672"
        command = ["run", "--detach", "--name", self._container, "--hostname", "rabbit", "--publish", publish, image]
        docker(*command)
        self._wait()

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self._container)

    def kill(self) -> None:
        docker("kill", self._container)

    def start(self) -> None:
        docker("start", self._container)
        self._wait()

    def restart(self) -> None:
        docker("restart", "--timeout", "30", self._container)
        self._wait()

    def freeze(self) -> None:
        docker("pause", self._container)

    def thaw(self) -> None:
        docker("unpause", self._container)

    def control(self, *arguments: str) -> str:
        return docker("exec", self._container, "rabbitmqctl", "-q", *arguments)

    def _wait(self) -> None:
        until = time.monotonic() + START
        while not self._answers():
            assert time.monotonic() < until, docker("logs", "--tail", "20", self._container)
            time.sleep(0.5)

    def _answers(self) -> bool:
        command = ["docker", "exec", self._container, "rabbitmq-diagnostics", "-q", "check_port_connectivity"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
