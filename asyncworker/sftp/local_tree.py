"""Local folders and files that are to be uploaded. All functions block: for a thread."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from msgspec import Struct

from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.packets import Attributes, expressible_time

__all__ = ["LocalFolder", "folder_mode", "look_at", "look_up", "scan"]


class LocalFolder(Struct, frozen=True):
    """A folder that is to be uploaded.

    Attributes:
        path: Its path, without a slash at its end unless it is the first one.
        base: Where its contents go below the destination, with a slash at its end; empty: right there.
    """

    path: str
    base: str = ""

    def relative(self, path: str) -> str:
        """Where a path goes to below the destination."""
        below = path[len(self.path) :].lstrip("/")
        return self.base + below if below else self.base.rstrip("/")


def look_up(paths: list[str], bad: list[FileResult]) -> list[LocalFolder | Entry]:
    """Find out what is meant; of several, those that cannot be sent are added to ``bad``.

    Raises:
        OSError: The only one is missing, or is neither a folder nor a file.
    """
    several = len(paths) > 1
    found: list[LocalFolder | Entry] = []
    for path in paths:
        try:
            like = Path(path).stat()
            if not (stat.S_ISDIR(like.st_mode) or stat.S_ISREG(like.st_mode)):
                raise OSError(errno.EINVAL, "is not a regular file", path)
        except OSError as error:
            if not several:
                raise
            bad.append(FileResult("", path, error=error))
            continue
        name = os.path.basename(path.rstrip("/"))  # noqa: PTH119  (a Path has no trailing slash)
        if not stat.S_ISDIR(like.st_mode):
            found.append(Entry(name, path, _attributes(like)))
            continue
        named = several and not path.endswith("/") and name not in ("", ".", "..")
        found.append(LocalFolder(path.rstrip("/") or "/", f"{name}/" if named else ""))
    return found


def look_at(folder: str, paths: list[str], follow: bool) -> list[Entry | OSError]:
    """Return what those paths below a folder are, or why that cannot be said."""
    found: list[Entry | OSError] = []
    for path in paths:
        whole = f"{folder.rstrip('/')}/{path}"
        try:
            found.append(Entry(path.rpartition("/")[2], whole, _attributes_of(whole, follow)))
        except OSError as error:
            found.append(error)
    return found


def scan(folder: str, follow: bool) -> list[Entry]:
    """Return what is in a folder; a link that is followed counts as the file that it leads to."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                like = entry.stat(follow_symlinks=False)
                if follow and stat.S_ISLNK(like.st_mode):
                    like = _target(entry.path, like)
            except FileNotFoundError:
                continue  # it has just gone
            found.append(Entry(entry.name, entry.path, _attributes(like)))
    return found


def _attributes_of(path: str, follow: bool) -> Attributes:
    like = os.lstat(path)
    return _attributes(_target(path, like) if follow and stat.S_ISLNK(like.st_mode) else like)


def _target(path: str, link: os.stat_result) -> os.stat_result:
    """Return the file that a link leads to; the link itself where it leads to something else, or nowhere."""
    try:
        target = Path(path).stat()
    except OSError:
        return link
    return target if stat.S_ISREG(target.st_mode) else link


def _attributes(like: os.stat_result) -> Attributes:
    return Attributes(like.st_size, like.st_mode, expressible_time(like.st_mtime))


def folder_mode(path: str) -> int | None:
    """Return the permissions that a folder like that one is made with: its owner may always write to it.

    ``None`` where they cannot be read.
    """
    try:
        return stat.S_IMODE(Path(path).stat().st_mode) & 0o777 | 0o700
    except OSError:
        return None
