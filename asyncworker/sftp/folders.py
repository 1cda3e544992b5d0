"""Local folders below a destination, each opened step by step from the one above: no link leads out of it.

The calls block, for microseconds, and run on the loop's thread; only :meth:`Destination.scan` belongs on another.
"""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from asyncworker.sftp.local_leftovers import remove_leftovers, remove_parts
from asyncworker.sftp.open_files import soft_limit
from asyncworker.sftp.packets import expressible_time
from asyncworker.sftp.temporary_names import local_temporary_name

__all__ = ["Destination", "Found", "OpenFolder", "folded", "folders_above"]

#: Folders that are kept open; one that a file is being written in stays open beyond that.
_KEPT = 64
#: Of a path that the system takes at once: 4,095 bytes, and a name has 255 at most.
_NAMES_A_STEP = 15
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OpenFolder:
    """An open folder; closed when nobody holds it any more, or when its destination is."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Found:
    """Entry of a local folder."""

    size_bytes: int
    mtime: int
    is_file: bool
    is_link: bool = False


class Destination:
    """A folder and what is to be made below it.

    Args:
        root: Its path; links on the way to it are the user's own affair.

    Raises:
        OSError: It is no folder, or cannot be opened.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._top = OpenFolder(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._open: OrderedDict[str, OpenFolder] = OrderedDict()
        self._kept = min(_KEPT, soft_limit() // 8)
        self._all = weakref.WeakSet((self._top,))
        self._folds: bool | None = None
        self._modes: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._entered: set[str] = set()

    def expect(self, relative: str, mode: int | None, mtime: int | None = None) -> None:
        """Take the permissions of a folder in case it has to be made, and its time of change; ``None``: not known.

        The umask applies, and its owner may always write to it: files follow.
        """
        if mode is not None:
            self._modes[relative] = mode & 0o777 | 0o700
        if mtime is not None:
            self._times[relative] = mtime

    def set_times(self) -> list[OSError]:
        """Give the folders that were opened their times, once nothing is written in them any more.

        Blocks: for a thread. Returns why some could not be given theirs.
        """
        errors = []
        for relative in sorted(self._entered & self._times.keys()):
            mtime = self._times[relative]
            try:
                os.utime(self.folder(relative).fd, (mtime, mtime))
            except OSError as error:
                errors.append(OSError(error.errno, error.strerror, self.path(relative)))
        return errors

    def path(self, relative: str) -> str:
        """The path for messages, and of a file's goal."""
        return os.path.join(self.root, relative) if relative else self.root  # noqa: PTH118  (asked for each file)

    def folder(self, relative: str) -> OpenFolder:
        """Open a folder below the root, making what is missing of the way to it.

        Args:
            relative: Names that were checked, with slashes between them; empty: the root itself.

        Raises:
            OSError: Something else has one of the names, a link among it; names the path.
        """
        folder, above, missing = self._top, relative, []
        while above:  # not by recursion: there may be thousands of names
            known = self._open.get(above)
            if known is not None:
                self._open.move_to_end(above)
                folder = known
                break
            above, _, name = above.rpartition("/")
            missing.append(name)
        for name in reversed(missing):
            above = f"{above}/{name}" if above else name
            folder = self._make(folder, above, name)
        return folder

    def _make(self, parent: OpenFolder, relative: str, name: str) -> OpenFolder:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, self._modes.pop(relative, 0o777), dir_fd=parent.fd)
            made = OpenFolder(os.open(name, _FLAGS, dir_fd=parent.fd))
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path(relative)) from None
        self._open[relative] = made
        self._entered.add(relative)
        self._all.add(made)
        if len(self._open) > self._kept:
            self._open.popitem(last=False)
        return made

    def close(self) -> None:
        """Close every folder, whoever still refers to it."""
        for folder in list(self._all):
            folder.close()

    def scan(self, relative: str) -> dict[str, Found]:
        """Return what a folder holds; nothing where it is not there. Blocks: for a thread.

        Raises:
            OSError: It cannot be read: what it holds is unknown.
        """
        found = {}
        try:
            fd = _opened(self._top.fd, relative)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # it has just gone
                        is_like = entry.stat(follow_symlinks=False)
                        is_file, is_link = stat.S_ISREG(is_like.st_mode), stat.S_ISLNK(is_like.st_mode)
                        found[entry.name] = Found(is_like.st_size, expressible_time(is_like.st_mtime), is_file, is_link)
        finally:
            os.close(fd)
        return found

    def scan_and_clean(self, relative: str, clean: bool) -> tuple[dict[str, Found], int]:
        """Return what a folder holds, and how many leftovers were removed, if asked to. Blocks: for a thread."""
        found = self.scan(relative)
        return found, remove_leftovers(self._top.fd, relative, found) if clean else 0

    def remove_parts(self, relative: str, goal: str, parts: list[str], keep: tuple[int, int]) -> int:
        """Remove parts of a file that have another size or time of change; returns how many. Blocks: for a thread."""
        return remove_parts(self._top.fd, relative, goal, parts, keep)

    def folds_case(self) -> bool:
        """Return whether names that differ only in case are one file here. Tries it once; blocks: for a thread."""
        if self._folds is None:
            name = local_temporary_name("case")
            path = Path(self.path(name))
            try:
                path.touch(mode=0o600, exist_ok=False)
                self._folds = Path(self.path(name.upper())).exists()
            except OSError:
                self._folds = False
            finally:
                path.unlink(missing_ok=True)
        return self._folds


def folded(name: str) -> str:
    """The same text for all names that a file system which folds case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def folders_above(path: str) -> list[str]:
    """Return the folders on the way to a path, the topmost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[: number + 1]) for number in range(len(names))]


def _opened(fd: int, relative: str) -> int:
    """Open a folder below another one, by several steps where its path is longer than the system takes at once."""
    names = relative.split("/") if relative else ["."]
    above = -1
    while names:
        try:
            opened = os.open("/".join(names[:_NAMES_A_STEP]), _FLAGS & ~os.O_NOFOLLOW, dir_fd=fd)
        finally:
            if above >= 0:
                os.close(above)
        fd = above = opened
        del names[:_NAMES_A_STEP]
    return fd
