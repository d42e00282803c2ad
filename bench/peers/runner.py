"""Runs the peers' scripts, each by the Python of that peer's environment, one after another."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from bench.peers.comparison import Peer

STOP = 10.0  # seconds that a killed process may take to be gone
ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
SCRIPTS = {
    "Ray": ("bench.peers.ray_tasks", "bench.ray_echo"),
    "Celery": ("bench.peers.celery_tasks",),
    "Dramatiq": ("bench.peers.dramatiq_tasks",),
}


def run_peers(url: str, seconds: float) -> list[Peer]:
    """Every peer, with so many seconds for each of its figures; `url` is that of the RabbitMQ. One that is not installed, or
    that fails, is in the list, too, and says so."""
    return [_run_peer(name, url, seconds) for name in SCRIPTS]


def _run_peer(name: str, url: str, seconds: float) -> Peer:
    environment = ENVIRONMENTS / name.lower()
    peer = Peer(name)
    if not (environment / ".ready").exists():
        return replace(peer, problem="not installed: make bench-peers")
    for script in SCRIPTS[name]:
        try:
            peer = peer.with_output(_run(environment / "bin" / "python", script, url, seconds))
        except (RuntimeError, ValueError) as error:
            return replace(peer, problem=f"{script} failed: {error}")
    return peer


def _run(python: Path, script: str, url: str, seconds: float) -> str:
    """What the script printed. Whatever it has started ends with it, and so do its files."""
    timeout = 120 + 20 * seconds
    with (
        tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as directory,
        (Path(directory) / "errors").open("w+") as errors,
    ):
        process = subprocess.Popen(
            [python, "-m", script, str(seconds)],
            cwd=ROOT,
            env={**os.environ, **_environment(url, directory)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done in {timeout:g} s") from None
        finally:
            _end(process)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read()
            print(said, file=sys.stderr)
            raise RuntimeError(said.splitlines()[-1] if said else f"exit code {process.returncode}")
        return output


def _end(process: subprocess.Popen[str]) -> None:
    """Its descendants, of which Ray's are in groups of their own, and those of its group, if it has left some behind."""
    descendants: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for descendant in descendants:
        with suppress(psutil.NoSuchProcess):
            descendant.kill()
    psutil.wait_procs(descendants, STOP)


def _environment(url: str, directory: str) -> dict[str, str]:
    """Of the scripts and their workers. Ray reads its variables when it is imported."""
    return {
        "PEERS_URL": url,
        "TMPDIR": directory,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Listens on 127.0.0.1 only; on Linux, asking for that address makes Ray look for another one.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Or it writes a token of its own into the home directory.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
