"""Files and folders that only their owner may read: arguments, results and keys are in them."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

__all__ = ["PRIVATE_UMASK", "make_private", "make_private_file", "make_private_folder"]

logger = logging.getLogger(__name__)

#: For processes that make files of their own.
PRIVATE_UMASK = 0o077


def make_private_folder(path: Path, *, tighten: bool = False) -> None:
    """Make a folder for its owner alone, and all missing ones above it, whatever the umask.

    Args:
        path: The folder. One that exists stays as it is, since others may have been meant to use it.
        tighten: Its name is one of ours: take it from others where they may read it.

    Raises:
        OSError: It cannot be made; names the folder.
    """
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            folder.mkdir(0o700)
            folder.chmod(0o700)  # an umask can take more than we want
    if not path.is_dir():
        path.mkdir()  # raises what is wrong
    if tighten:
        make_private(path)


def make_private_file(path: Path) -> None:
    """Make an empty file for its owner alone, whatever the umask; take one that exists from others.

    Raises:
        OSError: It cannot be made; names the file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        make_private(path)
        return
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def make_private(path: Path) -> None:
    """Take a file or folder from group and others, and log it; leave alone what is neither or is missing."""
    try:
        found = path.stat()
        plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        if not plain or not stat.S_IMODE(found.st_mode) & PRIVATE_UMASK:
            return
        path.chmod(stat.S_IMODE(found.st_mode) & ~PRIVATE_UMASK)
        logger.warning("%s: others could read it; it is private now", path)
    except FileNotFoundError:
        return
    except OSError as exc:
        logger.warning("%s: others can read it, and that cannot be changed: %s", path, exc.strerror)
