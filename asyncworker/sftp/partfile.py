"""A large local file that is not whole yet, kept so that a later run can go on with it.

Its name holds the size and the time of change of the file that it becomes, so that it is never taken for another one's.
Behind the place of the last byte stands a mark: how far the beginning is whole. The mark is trusted only if this
machine has not been started anew since: after a power cut it may be on the disk while the bytes before it are not. All
calls block: for a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.temporary_names import part_name

__all__ = ["PartFile"]

_MAGIC = b"awpart01"
_MARK = struct.Struct(">8sQ16s")
#: Bytes between two marks.
_MARK_EVERY = 32 * 1024 * 1024


class PartFile:
    """The file while it is fetched.

    Args:
        goal: The path under which it is to appear.
        folder: Its folder, open.
        size: The size that it is to have.
        mtime: The time of change that it is to have.
        mode: Permissions; the umask applies, set-user-id and the like never do.
        resume: Whether to go on where an earlier one stopped, and to keep this one if it is not finished.

    Raises:
        OSError: Here and in every method, with ``goal`` as its file name.
        BlockingIOError: Another process fetches the same file just now.
    """

    def __init__(
        self, goal: str, folder: OpenFolder, size: int, mtime: int, mode: int | None = None, *, resume: bool = True
    ) -> None:
        self.goal = goal
        self.size = size
        self.mtime = mtime
        self._folder = folder
        self._name = os.path.basename(goal)  # noqa: PTH119
        self._part = os.fsdecode(part_name(os.fsencode(self._name), b"", size, mtime))
        self._resume = resume
        self._fd = -1
        self._lock = threading.Lock()
        try:
            self._open(0o666 if mode is None else mode & 0o777)
            self.whole = self._read_mark() if resume else 0
            if not self.whole:
                os.ftruncate(self._fd, 0)
        except BlockingIOError as error:
            self._close()
            raise BlockingIOError(error.errno, "another process fetches it just now", goal) from None
        except OSError as error:
            self._close()
            raise self._named(error) from None
        self._marked = self.whole

    def write(self, blocks: Iterable[tuple[int, bytes]], whole: int) -> None:
        """Write blocks at their offsets.

        Args:
            blocks: Offsets and bytes.
            whole: How far the beginning is whole once these are written.
        """
        try:
            for offset, data in blocks:
                written = 0
                while written < len(data):
                    with self._lock:  # the file may be given up meanwhile, and its number be another's
                        written += os.pwrite(self._fd, data[written:] if written else data, offset + written)
            with self._lock:
                self.whole = max(self.whole, whole)
                if self._resume and self.whole - self._marked >= _MARK_EVERY:
                    self._mark()
        except OSError as error:
            raise self._named(error) from None

    def commit(self, sync: bool) -> None:
        """Cut off the mark, set the time, flush if asked to, and rename over the goal."""
        try:
            os.ftruncate(self._fd, self.size)
            os.utime(self._fd, (self.mtime, self.mtime))
            if sync:
                os.fsync(self._fd)
            os.replace(self._part, self._name, src_dir_fd=self._folder.fd, dst_dir_fd=self._folder.fd)
        except OSError as error:
            self.discard()
            raise self._named(error) from None
        self._close()

    def keep(self) -> None:
        """Close it for a later run; what has no beginning is removed. Never raises."""
        if not self._resume or not self.whole:
            self.discard()
            return
        try:
            with self._lock:
                self._mark()
        except OSError:
            self.discard()
        self._close()

    def discard(self) -> None:
        """Remove it. Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder.fd)
        self._close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self, mode: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(self._part, flags, mode, dir_fd=self._folder.fd)
            found = os.fstat(self._fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            self._close()
        except PermissionError:
            self._close()
            if not self._exists():  # the folder may not be written to
                raise
        # Not of our making, or made read-only: a new one takes its place.
        os.unlink(self._part, dir_fd=self._folder.fd)
        self._fd = os.open(self._part, flags | os.O_EXCL, mode, dir_fd=self._folder.fd)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _exists(self) -> bool:
        try:
            os.stat(self._part, dir_fd=self._folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _read_mark(self) -> int:
        if os.fstat(self._fd).st_size != self.size + _MARK.size:
            return 0
        magic, whole, boot = _MARK.unpack(os.pread(self._fd, _MARK.size, self.size))
        if magic != _MAGIC or boot != _boot() or not 0 <= whole <= self.size:
            return 0
        return int(whole)

    def _mark(self) -> None:
        if _boot() == _UNKNOWN_BOOT:
            os.fsync(self._fd)
        os.pwrite(self._fd, _MARK.pack(_MAGIC, self.whole, _boot()), self.size)
        self._marked = self.whole

    def _close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, error.strerror, self.goal)


#: Of a system that does not tell its starts apart: what is marked there is flushed to the disk before.
_UNKNOWN_BOOT = b"\0" * 16


@cache
def _boot() -> bytes:
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return bytes.fromhex(text.replace("-", ""))
    except (OSError, ValueError):
        return _UNKNOWN_BOOT
