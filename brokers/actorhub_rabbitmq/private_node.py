"""Private RabbitMQ node on this machine, for tests and local clusters."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from actorhub.broker import LocalServer
from actorhub.errors import BrokerUnavailable

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
_NO_BUSY_WAIT = "+sbwt none +sbwtdcpu none +sbwtdio none"  # Erlang flags: idle schedulers leave the cores to others
_SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

# A shell runs the server and waits for the end of its own standard input, which ends at the latest with the process that
# started the shell. Then it kills the server and the port mapper that the server started.
_GUARD = """
"$1" </dev/null >"$2/console.log" 2>&1 &
server=$!
echo $server
read -r line
kill -KILL $server 2>/dev/null
wait $server 2>/dev/null
epmd -port "$ERL_EPMD_PORT" -kill >/dev/null 2>&1
exit 0
"""


class PrivateNode(LocalServer):
    """A RabbitMQ of its own: it shares neither ports, node name, cookie, user nor directory with the system's broker.

    It listens on 127.0.0.1 and ends with the process that started it. `kill` and `restart` are for tests; stored messages
    survive both.
    """

    def __init__(self) -> None:
        self.url = ""
        self.directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._name = f"actorhub-{secrets.token_hex(4)}@localhost"
        self._password = secrets.token_urlsafe(12)
        self._port = self._dist_port = self._epmd_port = 0

    @staticmethod
    def available() -> bool:
        """True if rabbitmq-server is installed."""
        return _server() is not None

    def __enter__(self) -> PrivateNode:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        if _server() is None:
            raise BrokerUnavailable(
                "RabbitMQ is not installed here; apt-get install rabbitmq-server, or set ACTORHUB_URL"
            )
        self.directory = Path(tempfile.mkdtemp(prefix="actorhub-rabbitmq-"))
        self._port, self._dist_port, self._epmd_port = _free_ports(3)
        self.url = f"amqp://actorhub:{self._password}@127.0.0.1:{self._port}/"
        self._configure(self.directory)
        self._launch()

    def _configure(self, directory: Path) -> None:
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            "default_user = actorhub\n"
            f"default_pass = {self._password}\n"
            "loopback_users = none\n"
            "disk_free_limit.absolute = 64MB\n"
            "log.console = false\n"
            "log.file.level = warning\n"
        )
        home = directory / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        directory = self.directory
        assert directory is not None
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(directory / "home"),
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {_NO_BUSY_WAIT}",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the Erlang machine, so that a signal reaches it
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "LC_ALL": "C.UTF-8",
        }

    def _launch(self) -> None:
        assert self.directory is not None
        server = _server()
        assert server is not None
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, "actorhub-rabbitmq", str(server), str(self.directory)],
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._answers():
            if not _alive(self.pid) or time.monotonic() > deadline:
                log = self._console()
                self.stop()
                raise BrokerUnavailable(f"the private RabbitMQ did not start; the end of its log: {log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """True if it replies to the AMQP protocol header with connection.start."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _console(self) -> str:
        """The end of the server's log."""
        assert self.directory is not None
        path = self.directory / "console.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(none)"

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again with the stored messages, after `kill` or as a clean restart."""
        if self._process is not None:
            self._end(signal.SIGTERM)
        self._launch()

    def stop(self) -> None:
        if self._process is not None:
            self._end(signal.SIGKILL)
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if _alive(self.pid):
            os.kill(self.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while _alive(self.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.communicate()  # ends the standard input of the shell, which kills what is left

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node, and return its output."""
        script = next(Path(folder) / "rabbitmqctl" for folder in _SCRIPTS if (Path(folder) / "rabbitmqctl").exists())
        command = [str(script), "-q", "-n", self._name, *arguments]
        return subprocess.run(command, env=self._environment(), capture_output=True, check=True, text=True).stdout

    def close_connections(self, reason: str) -> None:
        """Close every client's connection, as an operator can."""
        self.control("close_all_connections", reason)

    def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm, at which the broker blocks publishers."""
        self.control("set_vm_memory_high_watermark", "0.0000001" if on else "0.6")


def _server() -> Path | None:
    """The path of rabbitmq-server; None if it is not installed. Not Debian's wrapper, which would change the user."""
    return next((path for folder in _SCRIPTS if (path := Path(folder) / "rabbitmq-server").exists()), None)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()


def _alive(pid: int) -> bool:
    """True if the process runs; False also for a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
