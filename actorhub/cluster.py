"""Local cluster: nodes and their workers as child processes, on a running broker or on a private one."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from actorhub.broker import LocalServer, open_server
from actorhub.core.addressing import new_id
from actorhub.errors import BrokerUnavailable
from actorhub.settings import Settings

BrokerChoice = Literal["auto", "rabbitmq", "embedded"]
LocalNodes = int | Mapping[str, Mapping[str, float]]
"""Number of nodes, or their ids with the resources of each."""


@dataclass(eq=False)
class LocalCluster:
    """A cluster of node processes on this machine. Its queues have a prefix of their own, so a broker can be shared."""

    settings: Settings
    """Settings of the cluster; `start` sets the broker's URL, the secret and the prefix."""
    nodes: LocalNodes = 1
    workers: int = 2
    """Processes for actors on each node."""
    slots: int | None = None
    """Processes for tasks on each node; None leaves it to the node."""
    modules: Sequence[str] = ()
    """Modules with the actors and tasks, which the nodes import."""
    broker: BrokerChoice = "auto"
    """`"rabbitmq"` and `"embedded"` start a private broker of that kind. `"auto"` uses the one at `settings.url`; without a URL
    it starts a private RabbitMQ, or the embedded broker if RabbitMQ is not installed."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The running nodes' processes, by node id."""
    _server: LocalServer | None = None

    async def start(self) -> Settings:
        """Start the broker and the nodes, without waiting for the nodes; returns the settings for a hub.

        Raises:
            BrokerUnavailable: the private broker is not installed, or did not start.
        """
        url = self.settings.url if self.broker == "auto" else None
        if url is None:
            self._server = _server(self.broker)
            await asyncio.to_thread(self._server.start)
            url = self._server.url
        secret = self.settings.secret or SecretStr(secrets.token_urlsafe(32))
        self.settings = self.settings.model_copy(
            update={"url": url, "secret": secret, "prefix": f"{self.settings.prefix}-{new_id(6)}"}
        )
        if isinstance(self.nodes, int):
            for number in range(self.nodes):
                self.start_node(f"node-{number + 1}")
        else:
            for node_id, resources in self.nodes.items():
                self.start_node(node_id, resources=resources)
        return self.settings

    @property
    def size(self) -> int:
        """Number of nodes that `start` starts."""
        return self.nodes if isinstance(self.nodes, int) else len(self.nodes)

    def start_node(self, node_id: str, *, resources: Mapping[str, float] | None = None) -> None:
        """Start a node's process.

        Args:
            node_id: the node's id.
            resources: amounts that replace the detected ones, or are added to them.
        """
        environment = {
            **os.environ,
            **self.settings.to_environment(),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-m", "actorhub", "node", "--workers", str(self.workers), "--id", node_id]
        if self.slots is not None:
            command += ["--slots", str(self.slots)]
        for name, amount in (resources or {}).items():
            command += ["--resource", f"{name}={amount}"]
        # the pipe to its standard input closes when this process ends, in whatever way, and then the node ends too
        self.processes[node_id] = subprocess.Popen(
            [*command, "--with-parent", *self.modules], env=environment, stdin=subprocess.PIPE
        )

    async def stop_node(self, node_id: str, number: int = signal.SIGTERM) -> None:
        """Send a node a signal and wait for its end: SIGTERM drains it, SIGKILL kills it and its workers."""
        process = self.processes.pop(node_id)
        process.send_signal(number)
        await asyncio.to_thread(self._wait, process)

    def check(self) -> None:
        """Check that all nodes run.

        Raises:
            BrokerUnavailable: a node's process has ended; its messages are on standard error.
        """
        for node_id, process in self.processes.items():
            if process.poll() is not None:
                raise BrokerUnavailable(
                    f"node {node_id} of the local cluster ended with exit code {process.returncode}; see its messages above"
                )

    async def stop(self) -> None:
        """Drain the nodes, then stop the private broker, if there is one."""
        await asyncio.to_thread(self._stop_processes)
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    def _stop_processes(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            self._wait(process)
        self.processes.clear()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(self.settings.drain_timeout + 10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _server(choice: BrokerChoice) -> LocalServer:
    if choice != "auto":
        return open_server(choice)
    private = open_server("rabbitmq")
    return private if private.available() else open_server("embedded")
