"""A place for payloads that fsspec can write to. Imported only where a URL asks for it."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime
from typing import Any

import fsspec

__all__ = ["FsspecPlace"]

#: Where what is written is seen once it is whole; elsewhere it is written under another name first.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})


class FsspecPlace:
    """A folder of a file system of fsspec's.

    Args:
        url: Such as ``s3://bucket/folder``.
    """

    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple | list) else (self._fs.protocol,)
        self._whole = not _WHOLE.isdisjoint(protocols)

    def write(self, name: str, body: bytes) -> None:
        """Write a file whole, or not at all."""
        path = self._path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if self._whole:
            self._fs.pipe_file(path, body)
            return
        temporary = f"{path}.{uuid.uuid4().hex}"
        self._fs.pipe_file(temporary, body)
        self._fs.mv(temporary, path)

    def read(self, name: str, size_bytes: int) -> bytes:
        """Return the content of a file that should be so large; of a larger one no more than shows that it is."""
        return bytes(self._fs.cat_file(self._path(name), end=size_bytes + 1))

    def touch(self, name: str) -> None:
        """Make a file young, where the file system can."""
        self._fs.touch(self._path(name), truncate=False)

    def old(self, folder: str, before: datetime) -> list[str]:
        """Return the names in a folder that were written before that; none where the file system does not tell."""
        found = []
        for path in self._fs.find(self._path(folder)):
            with contextlib.suppress(NotImplementedError, FileNotFoundError):
                modified = self._fs.modified(path)
                if (modified if modified.tzinfo else modified.replace(tzinfo=UTC)) < before:
                    found.append(folder + str(path).partition(self._path(folder))[2])
        return found

    def remove(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Delete a folder with all in it; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
