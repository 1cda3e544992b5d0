"""A large local file that is not whole yet, kept so that a later run can go on with it.

Its name holds where the file comes from, its size and its time of change, so that it is never taken for another one's.
Behind the place of the last byte stands a mark: how far the beginning is whole. The mark is trusted only in the file
that it was written to, not in a copy, and only if this machine has not been started anew since: after a power cut it
may be on the disk while the bytes before it are not.

Whoever writes holds a lock on the file, and has seen after locking it that it still has that name: the one before may
have finished, and what was the part be the whole file by now. A name that something else has (a link, a folder, a file
of another user) is left alone: the file is then fetched under a temporary name. All calls block: for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from asyncworker.sftp.folders import OpenFolder
from asyncworker.sftp.localfile import check_replaceable
from asyncworker.sftp.temporary_names import local_temporary_name, part_name

__all__ = ["PartFile"]

_MAGIC = b"awpart02"
_MARK = struct.Struct(">8sQ16sQQ")
#: Bytes between two marks.
_MARK_EVERY = 32 * 1024 * 1024
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: We must be able to open it again, whatever the file's permissions will be.
_OURS = 0o600
#: How often others may get in between.
_TRIES = 16
#: Of file systems that lock nothing.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class PartFile:
    """The file while it is fetched.

    Args:
        goal: The path under which it is to appear.
        folder: Its folder, open.
        size: The size that it is to have.
        mtime: The time of change that it is to have.
        mode: Permissions; the umask applies, set-user-id and the like never do.
        resume: Whether to go on where an earlier one stopped, and to keep this one if it is not finished.
        origin: Server, user and path that the file comes from.

    Raises:
        OSError: Here and in every method, with ``goal`` as its file name.
        BlockingIOError: Another process fetches the same file just now.
    """

    def __init__(
        self,
        goal: str,
        folder: OpenFolder,
        size: int,
        mtime: int,
        mode: int | None = None,
        *,
        resume: bool = True,
        origin: bytes = b"",
    ) -> None:
        self.goal = goal
        self.size = size
        self.mtime = mtime
        self._folder = folder
        self._name = os.path.basename(goal)  # noqa: PTH119
        self._part = os.fsdecode(part_name(os.fsencode(self._name), origin, size, mtime))
        self._resume = resume
        self._fd = -1
        self._lock = threading.Lock()
        try:
            check_replaceable(self._name, folder.fd)
            self._mode = self._open(0o666 if mode is None else mode & 0o777)
            self.whole = self._read_mark() if self._resume else 0
            if not self.whole:
                os.ftruncate(self._fd, 0)
        except BlockingIOError as error:
            self._close()
            raise BlockingIOError(error.errno, "another process fetches it just now", goal) from None
        except OSError as error:
            self._close()
            raise self._named(error) from None
        self._marked = self.whole

    @property
    def temporary_path(self) -> str:
        """Where it is until it is whole."""
        return os.path.join(os.path.dirname(self.goal), self._part)  # noqa: PTH118, PTH120

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of what is whole."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._named(error) from None

    def restart(self) -> None:
        """Throw away what is there, and begin anew."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._named(error) from None
        self.whole = self._marked = 0

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
        """Cut off the mark, set time and permissions, flush if asked to, and rename over the goal."""
        try:
            os.ftruncate(self._fd, self.size)
            os.fchmod(self._fd, self._mode)
            os.utime(self._fd, (self.mtime, self.mtime))
            if sync:
                os.fsync(self._fd)
            if not self._has_its_name():
                raise OSError(errno.ESTALE, "something else has taken the name of its part")
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
            if self._fd >= 0 and self._has_its_name():
                os.unlink(self._part, dir_fd=self._folder.fd)
        self._close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self, mode: int) -> int:
        """Open and lock it; returns the permissions that the file is to have, as the umask leaves them."""
        for _ in range(_TRIES):
            made = self._create(mode)
            if made is None and not self._open_existing():
                continue
            if self._lock_it() and self._has_its_name():
                return self._masked(mode) if made is None else made
            self._close()
        raise BlockingIOError(errno.EAGAIN, "its part changes hands all the time")

    def _create(self, mode: int) -> int | None:
        """Make it, unless something has its name; returns the permissions that the umask leaves."""
        try:
            self._fd = os.open(self._part, _FLAGS | os.O_CREAT | os.O_EXCL, mode | _OURS, dir_fd=self._folder.fd)
        except FileExistsError:
            return None
        return stat.S_IMODE(os.fstat(self._fd).st_mode) & 0o777 & ~(_OURS & ~mode)

    def _open_existing(self) -> bool:
        try:
            self._fd = os.open(self._part, _FLAGS, dir_fd=self._folder.fd)
        except FileNotFoundError:  # whoever had it is through with it
            return False
        except OSError:  # a link, a folder, or not ours
            self._use_another_name()
            return False
        found = os.fstat(self._fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1 and found.st_uid == os.geteuid():
            return True
        self._close()
        self._use_another_name()
        return False

    def _use_another_name(self) -> None:
        self._part = local_temporary_name(self._name)
        self._resume = False

    def _lock_it(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if not self._resume:  # nobody else has that name
                return True
            self._use_another_name()
            return False
        return True

    def _has_its_name(self) -> bool:
        mine = os.fstat(self._fd)
        try:
            named = os.stat(self._part, dir_fd=self._folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)

    def _masked(self, mode: int) -> int:
        """The permissions that a new file gets here: nothing but making one shows them to a process with threads."""
        name = local_temporary_name(self._name)
        fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, mode, dir_fd=self._folder.fd)
        try:
            os.unlink(name, dir_fd=self._folder.fd)
            return stat.S_IMODE(os.fstat(fd).st_mode) & 0o777
        finally:
            os.close(fd)

    def _read_mark(self) -> int:
        found = os.fstat(self._fd)
        if found.st_size != self.size + _MARK.size:
            return 0
        magic, whole, boot, device, inode = _MARK.unpack(os.pread(self._fd, _MARK.size, self.size))
        if magic != _MAGIC or boot != _boot() or not 0 <= whole <= self.size:
            return 0
        return int(whole) if (device, inode) == (found.st_dev, found.st_ino) else 0

    def _mark(self) -> None:
        if _boot() == _UNKNOWN_BOOT:
            os.fsync(self._fd)
        found = os.fstat(self._fd)
        os.pwrite(self._fd, _MARK.pack(_MAGIC, self.whole, _boot(), found.st_dev, found.st_ino), self.size)
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
