"""Location of an object store: one directory in memory and one on disk, both owned by the node's agent or by a client."""

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

_SHARE = 0.3
"""Default capacity, as a fraction of the machine's memory and of the free space on disk."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class StoreLocation(BaseModel):
    """Directories and capacities of a store.

    The owner writes them to the file `site`; other processes read them to open it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    """Id of the node, or of the client, that owns the store."""
    memory: Path
    """Directory in memory."""
    capacity: int
    """Bytes in memory."""
    disk: Path
    """Directory on disk."""
    spill_capacity: int
    """Bytes on disk."""

    def room(self) -> TieredStorage:
        return TieredStorage(
            self.memory, StorageTier(self.memory, self.capacity), StorageTier(self.disk, self.spill_capacity)
        )


def make(
    name: str, node: str, base: Path | None, capacity: int | None, spill: Path | None, spill_capacity: int | None
) -> tuple[StoreLocation, list[OwnedDirectory]]:
    """Make the directories of a new store, and claim them for this process.

    Arguments and errors as `ObjectStore.create`.
    """
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
    """Read the location of a store that another process made.

    Raises:
        FileNotFoundError: the store is gone.
        UntrustedPayload: another user could have written into the store.
    """
    check_private(path)
    site = StoreLocation.model_validate_json((path / "site").read_text())
    check_private(site.disk)
    return site


def sweep(base: Path | None = None, spill: Path | None = None) -> list[Path]:
    """Remove the stores whose owner is gone, of any cluster of this user, to free their memory.

    Returns:
        The directories that were removed.
    """
    return [*remove_all_abandoned(base or memory_base()), *remove_all_abandoned(spill or disk_base())]


def remove_if_owner_is_gone(path: Path) -> bool:
    """Remove a store whose agent has died; its workers call this.

    Returns:
        False if the agent lives, or another worker has removed the store.
    """
    try:
        remove_if_abandoned(find(path).disk)
    except FileNotFoundError:
        pass  # killed before it had written that file, or removed by another worker
    return remove_if_abandoned(path)


def default_path(name: str) -> Path:
    """Directory in memory of the store that `make` creates with the default `base`."""
    return path_of(memory_base(), name)


def memory_base() -> Path:
    """Default parent of stores in memory: /dev/shm, or the directory for temporary files where that is not writable."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def disk_base() -> Path:
    """Default parent of stores on disk: /var/tmp. Not /tmp, which is itself in memory on many machines."""
    disk = Path("/var/tmp")
    return disk if os.access(disk, os.W_OK) else Path(tempfile.gettempdir())


def _default_capacity(base: Path) -> int:
    """Default bytes in memory: 30 % of the machine's or container's memory, at most 90 % of the file system."""
    memory = psutil.virtual_memory().total
    for limit in _LIMITS:
        try:
            memory = min(memory, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(int(_SHARE * memory), int(0.9 * shutil.disk_usage(base).total))
