"""Detection of the machine's resources, or of the part that this process may use."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import psutil

# Seconds for the tool that counts GPUs; with the time to kill it, less than 2.
PROBE_TIMEOUT_SECONDS = 1.8

TOOLS = (("nvidia-smi", "-L"), ("rocm-smi", "--showid"))

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# `GPU 0: NVIDIA A100`, `GPU[0]    : Device ID: 0x74a1`
_GPU = re.compile(r"^GPU ?\[?(\d+)", re.MULTILINE)
_DEVICE = re.compile(r"\d+|(GPU|MIG)-\S+")

log = logging.getLogger(__name__)


def detect_resources() -> dict[str, float]:
    """Amounts of `cpu`, `memory` in bytes, and `gpu` if there is one.

    Blocks for up to 2 s if the tool that counts GPUs hangs.
    """
    there = {"cpu": cpu(_cpus()), "memory": float(memory(psutil.virtual_memory().total)), "gpu": float(count_gpus())}
    return {name: amount for name, amount in there.items() if amount}


def cpu(cpus: int, *, cgroups: Path = _CGROUPS, own: Path = _OWN) -> float:
    """Number of CPUs that the quotas of cgroup v1 and v2, of this and all enclosing groups, leave; may be fractional.

    Args:
        cpus: CPUs without quotas.
        cgroups: directory where the cgroups are mounted.
        own: file that names the cgroup of this process.
    """
    quotas = (_quota(group) for group in _groups(cgroups, own, "cpu"))
    return round(min([float(cpus), *(quota for quota in quotas if quota is not None)]), 4)


def memory(total: int, *, cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Bytes of `total` that the limits of cgroup v1 and v2, of this and all enclosing groups, leave."""
    limits = (
        _number(_text(group / name))
        for group in _groups(cgroups, own, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    return min([total, *(limit for limit in limits if limit is not None)])


def count_gpus(tools: Sequence[Sequence[str]] = TOOLS, environment: Mapping[str, str] = os.environ) -> int:
    """Number of GPUs that the first installed tool counts, at most as many as `CUDA_VISIBLE_DEVICES` names, if set.

    Without a tool, the number that `CUDA_VISIBLE_DEVICES` names.

    A tool that fails, or takes longer than `PROBE_TIMEOUT_SECONDS`, counts 0, and the log says why.
    """
    names = environment.get("CUDA_VISIBLE_DEVICES")
    visible = None if names is None else _visible(names)
    for tool, *arguments in tools:
        path = shutil.which(tool)
        if path is not None:
            counted = _count([path, *arguments])
            return counted if visible is None else min(counted, visible)
    return visible or 0


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(cgroups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Directories of this process's group and of the enclosing groups, as far as they are visible.

    In a container the path that `own` names is often the host's, and the group itself is mounted.
    """
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        for mount in {cgroups / name for name in (controllers, controller if controllers else "")}:
            group = mount / path.strip("/")
            yield from (around for around in (group, *group.parents) if around.is_relative_to(mount))


def _quota(group: Path) -> float | None:
    """Quota of one group in CPUs; None if it has none."""
    quota, _, period = _text(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    allowed, each = _number(quota), _number(period)
    return allowed / each if allowed and each else None


def _number(text: str) -> int | None:
    """Number in a file's text; None for `max`, `-1` and a missing file."""
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _visible(names: str) -> int:
    """Number of devices that the variable names; CUDA stops at the first invalid name, such as `-1` or `NoDevFiles`."""
    return len(set(takewhile(_DEVICE.fullmatch, (name.strip() for name in names.split(",")))))


def _count(command: Sequence[str]) -> int:
    try:
        output = _output(command)
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("no GPU is counted: %s; say how many there are with --resource gpu=N", exc)
        return 0
    return len(set(_GPU.findall(output)))


def _output(command: Sequence[str]) -> str:
    """Output of a command, which is killed, with all its children, if it takes too long.

    Raises:
        OSError: it cannot be run.
        SubprocessError: it failed, or took too long.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PROBE_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a hanging driver keeps its processes alive
            process.wait(0.1)
        raise
    if process.returncode:
        raise subprocess.SubprocessError(f"{command[0]} ended with {process.returncode}: {output.strip()[-500:]}")
    return output
