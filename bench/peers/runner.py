"""Runs the scripts of the peers one after another, each with the Python of that peer's environment."""

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

KILL_TIMEOUT_SECONDS = 10.0
ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".venv-peers"
SCRIPTS = {
    "Ray": ("bench.peers.ray_tasks", "bench.ray_echo"),
    "Celery": ("bench.peers.celery_tasks",),
    "Dramatiq": ("bench.peers.dramatiq_tasks",),
}


def run_peers(url: str, seconds: float) -> list[Peer]:
    """Measure every peer on the RabbitMQ at `url`, for `seconds` per figure.

    A peer that is not installed, or that fails, is in the list with its problem.
    """
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
    """Run a script and return its output. Afterwards its child processes are killed and its files deleted."""
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
            raise RuntimeError(f"not finished in {timeout:g} s") from None
        finally:
            _end(process)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read()
            print(said, file=sys.stderr)
            raise RuntimeError(said.splitlines()[-1] if said else f"exit code {process.returncode}")
        return output


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process group and all descendants; Ray puts some of them into their own groups."""
    descendants: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for descendant in descendants:
        with suppress(psutil.NoSuchProcess):
            descendant.kill()
    psutil.wait_procs(descendants, KILL_TIMEOUT_SECONDS)


def _environment(url: str, directory: str) -> dict[str, str]:
    """Return the environment of the scripts and their workers. Ray reads its variables at import."""
    return {
        "PEERS_URL": url,
        "TMPDIR": directory,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Makes Ray listen on 127.0.0.1 only; on Linux, passing that address would make Ray choose another one.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Without these, Ray writes a token into the home directory.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
