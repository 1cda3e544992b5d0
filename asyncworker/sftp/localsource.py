"""A local file that is read block by block, and caught if it changes meanwhile. Used on a thread: its calls block."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from asyncworker.sftp.packets import expressible_time

__all__ = ["Block", "ChangedWhileRead", "LocalSource"]


class ChangedWhileRead(Exception):
    """A local file is not what it was when it was opened.

    Args:
        path: Its path.
        size: What its size was.
        now: What it is.
    """

    def __init__(self, path: str, size: int, now: int) -> None:
        super().__init__(f"{path} was {size} bytes long, is {now}: it changed while it was read")


@dataclass(frozen=True, slots=True)
class Block:
    """Result of one read.

    Attributes:
        data: The bytes; empty at the end.
        last: Whether nothing follows.
        changed: What the file's size is now, if it or the time of change is not what it was at the beginning.
    """

    data: bytes
    last: bool
    changed: int | None = None


class LocalSource:
    """A regular file that is open for reading.

    Args:
        path: Its path.
        follow: Whether a link in the file's place leads to the file.

    Raises:
        OSError: It cannot be opened, or is no regular file; names ``path``.
    """

    __slots__ = ("_fd", "mode", "mtime", "mtime_ns", "path", "size")

    def __init__(self, path: str, follow: bool = True) -> None:
        self.path = path
        # A pipe must not hang the thread that opens it.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(None, "is not a regular file", path)
        self.size = found.st_size
        self.mode = stat.S_IMODE(found.st_mode) & 0o777
        self.mtime = expressible_time(found.st_mtime)
        self.mtime_ns = found.st_mtime_ns

    def read(self, offset: int, length: int) -> Block:
        """Read; the file is closed with its last block."""
        try:
            data = os.pread(self._fd, length, offset)
            end = offset + len(data)
            if data and end < self.size:
                return Block(data, last=False)
            now = os.fstat(self._fd)
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror, self.path) from None
        self.close()
        same = end == self.size == now.st_size and now.st_mtime_ns == self.mtime_ns
        return Block(data, last=True, changed=None if same else now.st_size)

    def read_exactly(self, offset: int, length: int) -> bytes:
        """Read bytes anywhere; the file stays open.

        Raises:
            ChangedWhileRead: Its size or its time of change is not any more what it was.
        """
        try:
            data = os.pread(self._fd, length, offset)
            now = os.fstat(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None
        if len(data) < length or now.st_size != self.size or now.st_mtime_ns != self.mtime_ns:
            raise ChangedWhileRead(self.path, self.size, now.st_size)
        return data

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
