"""Files in a local folder that a download has left there, because its process was killed. All of it blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator

from asyncworker.sftp.leftovers import DAY_S, age_s, has_ended, leftovers_among
from asyncworker.sftp.temporary_names import Part, Temporary, goal_digest

__all__ = ["open_below", "remove_leftovers", "remove_parts"]

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_leftovers(root_fd: int, folder: str, names: Iterable[str]) -> int:
    """Remove what nobody writes any more and no later run goes on with; see :mod:`~asyncworker.sftp.leftovers`.

    Args:
        root_fd: An open folder.
        folder: One below it, of names with slashes between them; nothing is removed where a link is on the way to it.
        names: What is in it, as far as it is known.

    Returns:
        How many were removed.
    """
    ours = leftovers_among(names)
    if not ours:
        return 0
    removed = 0
    with contextlib.suppress(OSError), open_below(root_fd, folder) as fd:
        for name, leftover in ours.items():
            with contextlib.suppress(OSError):
                if isinstance(leftover, Part):
                    removed += _age_s(fd, name) > age_s(leftover) and _remove_unlocked(fd, name)
                elif has_ended(leftover) or _is_old(fd, name, leftover):
                    os.unlink(name, dir_fd=fd)
                    removed += 1
    return removed


def remove_parts(root_fd: int, folder: str, goal: str, parts: Iterable[str], keep: tuple[int, int] | None) -> int:
    """Remove parts of a file that no later run can use; returns how many.

    Args:
        root_fd: An open folder.
        folder: One below it.
        goal: The file's name.
        parts: Names of parts there, of any files.
        keep: Size and time of change that parts have which are used now; ``None``: the file is whole.
    """
    digest = goal_digest(os.fsencode(goal))
    removed = 0
    for name, part in leftovers_among(parts).items():
        if isinstance(part, Part) and part.goal == digest and (part.size, part.mtime) != keep:
            with contextlib.suppress(OSError), open_below(root_fd, folder) as fd:
                removed += _remove_unlocked(fd, name)
    return removed


@contextlib.contextmanager
def open_below(root_fd: int, folder: str) -> Iterator[int]:
    """Open a folder below another one, and close it at the end of the block.

    Raises:
        OSError: It is not there, or a link is on the way to it.
    """
    fd = os.dup(root_fd)
    try:
        for name in folder.split("/") if folder else ():
            below = os.open(name, _FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


# -- inside ------------------------------------------------------------------------------------------------------------


def _age_s(fd: int, name: str) -> float:
    return time.time() - os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime


def _is_old(fd: int, name: str, leftover: object) -> bool:
    created = leftover.created if isinstance(leftover, Temporary) else None
    return created is not None and time.time() - created > DAY_S and _age_s(fd, name) > DAY_S


def _remove_unlocked(folder_fd: int, name: str) -> bool:
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, named = os.fstat(fd), os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if not stat.S_ISREG(mine.st_mode) or (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
            return False
        os.unlink(name, dir_fd=folder_fd)
        return True
    finally:
        os.close(fd)
