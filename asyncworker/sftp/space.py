"""Check that the server's disk can hold what is to be sent, as far as it says so."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPNoSpace
from asyncworker.sftp.files import Files
from asyncworker.sftp.packets import Attributes, FileSystem
from asyncworker.sftp.stripedput import is_part_of
from asyncworker.sftp.temporary_names import is_ours

__all__ = ["Space", "bytes_to_come"]

logger = logging.getLogger(__name__)


class Space:
    """Adds up what is to be sent, and says when it is certain that it does not fit.

    Args:
        pool: The connections.
        folder: Where it goes to.
    """

    def __init__(self, pool: Files, folder: str) -> None:
        self._pool = pool
        self._folder = folder
        self._begin: FileSystem | None = None
        self._needed = 0

    async def look(self) -> None:
        """See how much is free before anything is sent."""
        self._begin = await self._free(self._folder)

    async def need(self, folder: str, size: int, sent: int) -> None:
        """Count bytes that a folder needs in addition to what it has.

        Args:
            folder: Where they go to.
            size: How many.
            sent: How many of all have been sent until now.

        Raises:
            SFTPNoSpace: All that was counted is more than what is free.
        """
        begin = self._begin
        if begin is None:
            return
        self._needed += size
        if self._needed <= begin.free_bytes:
            return
        now = await self._free(folder)  # perhaps it is another disk, or somebody has made room
        if now is None:
            return
        missing = size if now.id != begin.id else self._needed - sent
        if missing > now.free_bytes:
            where = self._pool.options.address
            raise SFTPNoSpace(
                f"{where}: {folder}: {missing:,} bytes or more are to be sent, {now.free_bytes:,} are free there",
                host=where,
                path=folder,
            )

    async def _free(self, folder: str) -> FileSystem | None:
        try:
            found = await self._pool.statvfs(folder)
        except SFTPConnectError:
            raise
        except SFTPConnectionLost as error:  # perhaps it is this request that it dies of
            logger.warning("%s; sending without knowing how much is free in %s", error, folder)
            return None
        except SFTPError:  # it does not say
            return None
        return found if found.size_bytes else None


def bytes_to_come(files: Iterable[tuple[str, int]], there: Mapping[str, Attributes]) -> int:
    """Return the bytes that a folder needs for files of those names and sizes, less what they replace and parts."""
    needed = 0
    parts = {name: like.size_bytes or 0 for name, like in there.items() if is_ours(name)}
    for name, size in files:
        replaced = there.get(name)
        if replaced is not None and replaced.size_bytes is None:
            continue  # only what is certain counts
        needed += size - ((replaced.size_bytes or 0) if replaced is not None else 0)
        needed -= sum(length for part, length in parts.items() if is_part_of(name, part))
    return needed
