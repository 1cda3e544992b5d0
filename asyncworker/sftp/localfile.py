"""A local file that appears under its name only when it is whole.

The calls block, for microseconds. A small file is written by the loop's own thread all the same: handing a few
kilobytes to another thread costs more than writing them. A large one goes through ``background.py``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable

from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.temporary_names import local_temporary_name

__all__ = ["LocalFile", "check_replaceable"]

_MODE = 0o666
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFile:
    """A temporary file beside its goal: written anywhere, then renamed over the goal, or removed.

    Args:
        goal: The path under which it is to appear.
        mode: Permissions. The process's umask applies; set-user-id and the like never do.
        folder: The open folder of the goal, where nothing of the path above it is to be looked up again.
        replaceable: Whether it is known that nothing is there which a file must not take the place of.

    Raises:
        OSError: Here and in every method, with ``goal`` as its file name.
    """

    __slots__ = ("_fd", "_folder", "_name", "goal", "path")

    def __init__(
        self, goal: str, mode: int | None = None, folder: OpenFolder | None = None, *, replaceable: bool = False
    ) -> None:
        self.goal = goal
        name_at = goal.rfind("/") + 1
        name = goal[name_at:]
        temporary = local_temporary_name(name)
        self._folder = folder
        self._name = goal if folder is None else name
        self.path = goal[:name_at] + temporary if folder is None else temporary
        try:
            if not replaceable:
                check_replaceable(self._name, self._dir_fd)
            self._fd = os.open(self.path, _FLAGS, _MODE if mode is None else mode & 0o777, dir_fd=self._dir_fd)
        except OSError as error:
            raise _named(error, goal) from None

    @property
    def temporary_path(self) -> str:
        """Where it is until it is whole."""
        return self.path if self._folder is None else self.goal[: self.goal.rfind("/") + 1] + self.path

    @property
    def _dir_fd(self) -> int | None:
        return None if self._folder is None else self._folder.fd

    def write(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Write blocks at their offsets."""
        try:
            for offset, data in blocks:
                written = os.pwrite(self._fd, data, offset)
                while written < len(data):  # a disk that is nearly full takes a part, then raises
                    written += os.pwrite(self._fd, data[written:], offset + written)
        except OSError as error:
            raise _named(error, self.goal) from None

    def commit(self, mtime: int | None, sync: bool = False) -> None:
        """Set the time, flush if asked to, close, and rename over the goal; if that fails, nothing is left."""
        try:
            if mtime is not None:
                os.utime(self._fd, (mtime, mtime))
            if sync:
                os.fsync(self._fd)
            self.close()
            folder_fd = self._dir_fd
            os.replace(self.path, self._name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError as error:
            self.discard()
            raise _named(error, self.goal) from None

    def discard(self) -> None:
        """Remove it. Never raises."""
        self.remove()
        with contextlib.suppress(OSError):
            self.close()

    def remove(self) -> None:
        """Take away its name, leaving it open for a thread that still writes. Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self.path, dir_fd=self._dir_fd)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def check_replaceable(name: str, folder_fd: int | None) -> None:
    """Refuse a goal that a file must not take the place of: renaming over ``/dev/null`` would break the machine.

    Raises:
        FileExistsError: It is a device, a pipe or a socket, or a link to one.
    """
    try:
        mode = os.stat(name, dir_fd=folder_fd).st_mode
    except OSError:  # not there, most often
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileExistsError(errno.EEXIST, "there is a device, a pipe or a socket of that name")


def _named(error: OSError, path: str) -> OSError:
    return OSError(error.errno, error.strerror, path)  # Python picks the subclass from the number
