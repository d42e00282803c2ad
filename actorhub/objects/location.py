"""Where a store is: its directory in memory and its directory on disk, both owned by the node's agent."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from actorhub.core.owned_directory import (
    OwnedDirectory,
    check_private,
    path_of,
    remove_all_abandoned,
    remove_if_abandoned,
)
from actorhub.objects.tier import StorageTier
from actorhub.objects.tiered_storage import TieredStorage

_SHARE = 0.3  # of the machine's memory, and of what is free on disk
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class StoreLocation(BaseModel):
    """What the owner writes into its directory, for those who open it. Capacities are in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    memory: Path
    capacity: int
    disk: Path
    spill_capacity: int

    def room(self) -> TieredStorage:
        return TieredStorage(
            self.memory, StorageTier(self.memory, self.capacity), StorageTier(self.disk, self.spill_capacity)
        )


def make(
    name: str, node: str, base: Path | None, capacity: int | None, spill: Path | None, spill_capacity: int | None
) -> tuple[StoreLocation, list[OwnedDirectory]]:
    """See `ObjectStore.create`."""
    base, spill = base or memory_base(), spill or disk_base()
    claims: list[OwnedDirectory] = []
    try:
        claims.append(OwnedDirectory.make(spill, f"{name}.spilled"))
        claims.append(OwnedDirectory.make(base, name))
        disk, memory = (claim.path for claim in claims)
        site = StoreLocation(
            node=node,
            memory=memory,
            capacity=_default_capacity(base) if capacity is None else capacity,
            disk=disk,
            spill_capacity=int(_SHARE * shutil.disk_usage(spill).free) if spill_capacity is None else spill_capacity,
        )
        site.room().make()
        (memory / "site").write_text(site.model_dump_json())
    except BaseException:
        for claim in claims:
            claim.remove()
        raise
    return site, claims


def find(path: Path) -> StoreLocation:
    """The site that another process has made.

    Raises:
        FileNotFoundError: it is gone.
        UntrustedPayload: somebody else than this user could have written into it.
    """
    check_private(path)
    site = StoreLocation.model_validate_json((path / "site").read_text())
    check_private(site.disk)
    return site


def sweep(base: Path | None = None, spill: Path | None = None) -> list[Path]:
    """Removes the stores whose owner is gone, of any cluster of this user, so that their memory is free; returns which."""
    return [*remove_all_abandoned(base or memory_base()), *remove_all_abandoned(spill or disk_base())]


def remove_if_owner_is_gone(path: Path) -> bool:
    """For the workers of an agent that may have died. False where it lives, or somebody else has removed its store."""
    try:
        remove_if_abandoned(find(path).disk)
    except FileNotFoundError:
        pass  # killed before it had written that file, or removed by another worker
    return remove_if_abandoned(path)


def default_path(name: str) -> Path:
    """Where `make` puts a store in memory, unless told otherwise."""
    return path_of(memory_base(), name)


def memory_base() -> Path:
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def disk_base() -> Path:
    """Not /tmp, which is in memory itself on many machines."""
    disk = Path("/var/tmp")
    return disk if os.access(disk, os.W_OK) else Path(tempfile.gettempdir())


def _default_capacity(base: Path) -> int:
    """In a container, of its own limit; and at most nine tenths of the file system, which others use, too."""
    memory = psutil.virtual_memory().total
    for limit in _LIMITS:
        try:
            memory = min(memory, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(int(_SHARE * memory), int(0.9 * shutil.disk_usage(base).total))
