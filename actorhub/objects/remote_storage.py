"""Remote storage of objects at any URL that fsspec supports: `s3://bucket/folder`, `gs://...`, `file:///mnt/shared`.

An account that can write there can run code in the processes that read: give access to the cluster's user only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from actorhub.core.addressing import check_name, new_id
from actorhub.errors import ActorHubError, ObjectLost


class RemoteStorage:
    """Remote folder with one file for each object, whose bytes are those of `ObjectStore.view`.

    Args:
        url: the folder.
        options: passed to fsspec's file system, such as keys and endpoints.

    Raises:
        ActorHubError: fsspec, or the package that it needs for this URL, is not installed.
        ValueError: fsspec does not support the URL.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.url = re.sub(r"//[^/@]*@", "//***@", url)
        self._files, self._root = _open(url, self.url, options)

    def write(self, object_id: str, pieces: Iterable[bytes | memoryview]) -> int:
        """Write an object from its pieces, in order. It becomes visible as a whole or not at all.

        Returns:
            The bytes written.
        """
        path = self._path(object_id)
        draft = f"{path}.{new_id()}"
        size = 0
        try:
            with self._files.open(draft, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    size += len(piece)
            self._files.mv(draft, path)
        except BaseException:
            if self._files.exists(draft):
                self._files.rm_file(draft)
            raise
        return size

    def read(self, object_id: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read an object, or a part of it; `offset` and `size` are in bytes.

        Raises:
            ObjectLost: the object does not exist.
        """
        end = None if size is None else offset + size
        try:
            return bytes(self._files.cat_file(self._path(object_id), start=offset, end=end))
        except FileNotFoundError as exc:
            raise self._lost(object_id) from exc

    def size(self, object_id: str) -> int:
        """Bytes of an object.

        Raises:
            ObjectLost: the object does not exist.
        """
        try:
            return int(self._files.size(self._path(object_id)))
        except FileNotFoundError as exc:
            raise self._lost(object_id) from exc

    def delete(self, object_id: str) -> None:
        """Delete an object; do nothing if it does not exist."""
        try:
            self._files.rm_file(self._path(object_id))
        except FileNotFoundError:
            pass

    def _path(self, object_id: str) -> str:
        return f"{self._root}/{check_name('the object id', object_id)}"

    def _lost(self, object_id: str) -> ObjectLost:
        return ObjectLost(f"object {object_id} is not at {self.url}; it was deleted, or written to another URL")


def _open(url: str, shown: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Open fsspec's file system for a URL; returns it and the path in it.

    Only this function imports fsspec, which is optional.
    """
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}), **options)
    except ImportError as exc:
        raise ActorHubError(
            f"objects cannot be kept at {shown}: {exc}; pip install 'actorhub-mq[remote]', and the file system's own package, "
            "as s3fs for s3://"
        ) from exc
    except ValueError as exc:
        raise ValueError(f"objects cannot be kept at {shown}: {exc}; fsspec knows s3:// and file://") from exc
    return files, root.rstrip("/")
