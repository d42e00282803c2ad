"""What a machine has, by files and tools as they are on machines that are not here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actorhub.core.resources import checked
from actorhub.node import resource_detection
from tests.waiting import until

NVIDIA = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a1b)
  MIG 3g.20gb     Device  0: (UUID: MIG-77aa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9c2d)
"""
ROCM = """
============================ ROCm System Management Interface ============================
GPU[0]\t\t: Device Name: \t\tAMD Instinct MI300X
GPU[0]\t\t: Device ID: \t\t0x74a1
GPU[1]\t\t: Device Name: \t\tAMD Instinct MI300X
GPU[1]\t\t: Device ID: \t\t0x74a1
GPU[10]\t\t: Device ID: \t\t0x74a1
================================== End of ROCm SMI Log ===================================
"""

Write = Callable[[dict[str, str]], Path]


@pytest.fixture
def files(tmp_path: Path) -> Write:
    def write(contents: dict[str, str]) -> Path:
        for name, text in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def cpu(base: Path, cpus: int = 8) -> float:
    return resource_detection.cpu(cpus, cgroups=base / "cgroup", own=base / "own")


def memory(base: Path, total: int = 8_000_000) -> int:
    return resource_detection.memory(total, cgroups=base / "cgroup", own=base / "own")


def test_without_cgroups_it_is_the_whole_machine(tmp_path: Path) -> None:
    assert cpu(tmp_path) == 8
    assert memory(tmp_path) == 8_000_000


def test_limits_of_cgroup_v2_in_a_container(files: Write) -> None:
    base = files({"own": "0::/\n", "cgroup/cpu.max": "150000 100000\n", "cgroup/memory.max": "4000000\n"})
    assert cpu(base) == 1.5
    assert memory(base) == 4_000_000


def test_no_limit_is_the_whole_machine(files: Write) -> None:
    base = files({"own": "0::/\n", "cgroup/cpu.max": "max 100000\n", "cgroup/memory.max": "max\n"})
    assert cpu(base) == 8
    assert memory(base) == 8_000_000


def test_the_tightest_of_all_groups_around_counts(files: Write) -> None:
    base = files(
        {
            "own": "0::/jobs.slice/job.scope\n",
            "cgroup/jobs.slice/cpu.max": "300000 100000\n",
            "cgroup/jobs.slice/job.scope/cpu.max": "max 100000\n",
            "cgroup/jobs.slice/memory.max": "max\n",
            "cgroup/jobs.slice/job.scope/memory.max": "1000\n",
            "cgroup/other.slice/cpu.max": "1000 100000\n",
        }
    )
    assert cpu(base) == 3
    assert memory(base) == 1000


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_limits_of_cgroup_v1(files: Write, mount: str) -> None:
    base = files(
        {
            "own": "5:memory:/docker/a1\n4:cpu,cpuacct:/docker/a1\n0::/docker/a1\n",
            f"cgroup/{mount}/cpu.cfs_quota_us": "50000\n",
            f"cgroup/{mount}/cpu.cfs_period_us": "100000\n",
            "cgroup/memory/memory.limit_in_bytes": "2000000\n",
        }
    )
    assert cpu(base) == 0.5, "the path is the host's, and what is mounted is the group"
    assert memory(base) == 2_000_000


def test_no_limit_of_cgroup_v1_is_the_whole_machine(files: Write) -> None:
    base = files(
        {
            "own": "5:memory:/\n4:cpu:/\n",
            "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    assert cpu(base) == 8
    assert memory(base) == 8_000_000


def test_a_quota_above_the_affinity_changes_nothing(files: Write) -> None:
    base = files({"own": "0::/\n", "cgroup/cpu.max": "1600000 100000\n"})
    assert cpu(base, cpus=2) == 2


def test_an_odd_quota_is_an_amount_that_may_be_reserved(files: Write) -> None:
    base = files({"own": "0::/\n", "cgroup/cpu.max": "100000 300000\n"})
    assert checked({"cpu": cpu(base)}) == {"cpu": 0.3333}


# ---- GPUs


@pytest.fixture
def tool(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    def make(script: str) -> tuple[str, ...]:
        path = tmp_path / f"tool-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        return (str(path), "-L")

    return make


Tool = Callable[[str], tuple[str, ...]]


def prints(text: str) -> str:
    return f"cat <<'END'\n{text}END"


@pytest.mark.parametrize(("output", "count"), [(NVIDIA, 2), (ROCM, 3), ("No devices were found\n", 0)])
def test_a_tool_counts(tool: Tool, output: str, count: int) -> None:
    assert resource_detection.count_gpus([("/nowhere/nvidia-smi", "-L"), tool(prints(output))], {}) == count


def test_the_first_tool_that_is_there_counts(tool: Tool) -> None:
    assert resource_detection.count_gpus([tool(prints(NVIDIA)), tool(prints(ROCM))], {}) == 2


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("0", 1),
        ("0,2, 3", 3),
        ("GPU-5a1b,GPU-9c2d", 2),
        ("MIG-77aa", 1),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("0,0", 1),
    ],
)
def test_without_a_tool_what_is_visible_counts(names: str, count: int) -> None:
    assert resource_detection.count_gpus([], {"CUDA_VISIBLE_DEVICES": names}) == count


def test_no_more_than_what_is_visible_counts(tool: Tool) -> None:
    assert resource_detection.count_gpus([tool(prints(NVIDIA))], {"CUDA_VISIBLE_DEVICES": "1"}) == 1
    assert resource_detection.count_gpus([tool(prints(NVIDIA))], {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}) == 2
    assert resource_detection.count_gpus([tool(prints(NVIDIA))], {"CUDA_VISIBLE_DEVICES": ""}) == 0


def test_without_tool_or_variable_there_is_none() -> None:
    assert resource_detection.count_gpus([("/nowhere/nvidia-smi", "-L")], {}) == 0


def test_a_tool_that_fails_counts_none_and_the_log_says_why(tool: Tool, caplog: pytest.LogCaptureFixture) -> None:
    failing = tool("echo 'cannot talk to the driver'; exit 9")
    assert resource_detection.count_gpus([failing], {"CUDA_VISIBLE_DEVICES": "0"}) == 0
    assert "ended with 9: cannot talk to the driver; say how many there are with --resource gpu=N" in caplog.text


def test_a_tool_that_cannot_run_counts_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "nvidia-smi"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o700)
    assert resource_detection.count_gpus([(str(broken), "-L")], {}) == 0
    assert "no GPU is counted" in caplog.text


async def test_a_tool_that_hangs_is_killed_with_all_that_it_started(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant: nothing of it is left, though a child of it holds its output open."""
    pids = tmp_path / "pids"
    hanging = tool(f"sleep 1000 & echo $! $$ > {pids}; wait")
    assert resource_detection.count_gpus([hanging], {}) == 0
    assert "timed out after" in caplog.text
    for pid in map(int, pids.read_text().split()):
        await until(lambda pid=pid: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_this_machine_has_what_it_has() -> None:
    there = resource_detection.detect_resources()
    assert 0 < there["cpu"] <= (os.cpu_count() or 1)
    assert 0 < there["memory"] <= psutil.virtual_memory().total
    assert checked(there) == there
