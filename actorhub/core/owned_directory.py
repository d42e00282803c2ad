"""Directory owned by one living process. A process that finds its lock free knows that the owner is gone, SIGKILL
included.

The lock is `flock` on a file in the directory: the kernel releases it when its process ends, for whatever reason.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actorhub.core.addressing import new_id
from actorhub.errors import ActorHubError, UntrustedPayload

_PREFIX = "actorhub-"
_OWNER = "actorhub-owner.lock"
# seconds; making or removing a directory takes milliseconds
_STALE = 60.0


@contextmanager
def exclusive_lock(path: Path) -> Generator[int, None, None]:
    """Hold the lock of a file against every other process and thread; yields the open file."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        # closing is not enough: a child that was forked meanwhile shares the open file
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def try_lock(file: int) -> bool:
    """Take the lock of an open file; False if another process or thread has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def try_exclusive(path: Path) -> Generator[bool, None, None]:
    """Yield True to the first process or thread, until the block ends, and the file with it, or the process dies; False
    to all others."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        mine = try_lock(file) and _is_at(file, path)
        try:
            yield mine
        finally:
            if mine:
                path.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def path_of(base: Path, name: str) -> Path:
    """Path of the directory that `OwnedDirectory.make` creates."""
    return base / f"{_PREFIX}{name}"


class OwnedDirectory:
    """Directory of mode 0700 owned by this process until `remove`, or until the process and all that it forked have
    ended."""

    def __init__(self, path: Path, owner: int) -> None:
        self.path = path
        self._owner = owner
        self._pid = os.getpid()

    @classmethod
    def make(cls, base: Path, name: str) -> OwnedDirectory:
        """Create `base/actorhub-{name}`; it appears with its lock held.

        Raises:
            ActorHubError: a living process has it.
        """
        path = path_of(base, name)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=base))
        owner = os.open(hidden / _OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try_lock(owner)
            remove_if_abandoned(path)
            hidden.rename(path)
        except OSError as exc:
            os.close(owner)
            shutil.rmtree(hidden, ignore_errors=True)
            if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise ActorHubError(f"{path} belongs to a living process; stop that one, or take another node id") from exc
        return cls(path, owner)

    def remove(self) -> None:
        """Remove the directory. A child that was forked from the owner removes nothing."""
        if self._pid == os.getpid():
            self._pid = 0
            _remove(self.path)
            os.close(self._owner)


def remove_if_abandoned(path: Path) -> bool:
    """Remove a directory whose owner is gone. Returns False if the owner lives, or this user has no such directory."""
    try:
        check_private(path)
        owner = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, UntrustedPayload):
        return False
    try:
        if not try_lock(owner) or not _is_at(owner, path / _OWNER):
            return False
        _remove(path)
        return True
    finally:
        os.close(owner)


def remove_all_abandoned(base: Path) -> list[Path]:
    """Remove all directories in `base` that have lost their owner, and remains of processes killed while they created
    or removed theirs. Returns their paths."""
    removed = [path for path in base.glob(f"{_PREFIX}*") if remove_if_abandoned(path)]
    for path in base.glob(f".{_PREFIX}*"):
        try:
            check_private(path)
            stale = time.time() - path.stat().st_mtime > _STALE
        except (FileNotFoundError, UntrustedPayload):
            continue
        if stale:
            shutil.rmtree(path, ignore_errors=True)
    return removed


def check_private(path: Path) -> None:
    """Check that other users cannot have written to a directory, since its files will be unpickled.

    Raises:
        FileNotFoundError: there is no such directory.
        UntrustedPayload: it belongs to another user, or others may enter it.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise UntrustedPayload(
            f"{path} is not a directory that only user {os.geteuid()} may enter (it belongs to user {found.st_uid}, "
            f"{stat.filemode(found.st_mode)}); run all processes of a node as one user"
        )


def _is_at(file: int, path: Path) -> bool:
    """True if an open file is still the one at that path, and was not removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    """Remove a directory; it is first moved out of sight in one step, so that no process meets half of it."""
    hidden = path.with_name(f".{path.name}.{new_id(8)}")
    try:
        path.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden, ignore_errors=True)
