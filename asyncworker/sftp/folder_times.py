"""Times of change of folders on the server, set once nothing is written in them any more."""

from __future__ import annotations

from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.pulling import run_each

__all__ = ["FolderTimes"]


class FolderTimes:
    """The folders of one upload: those whose time differs, or will because something is written in them.

    Args:
        pool: The server.
    """

    def __init__(self, pool: Namespace) -> None:
        self._pool = pool
        self._found: dict[str, int] = {}
        self._same: set[str] = set()
        self._entered: set[str] = set()
        self._touched: set[str] = set()

    def find(self, remote: str, mtime: int | None, there: Attributes | None) -> None:
        """Take the time of a folder.

        Args:
            remote: Its path on the server.
            mtime: The time that it is to have.
            there: What the server says of it, as far as that is known.
        """
        if mtime is not None:
            self._found[remote] = mtime
            if there is not None and there.mtime == mtime:
                self._same.add(remote)

    def enter(self, remote: str) -> None:
        """Take that a folder is moved: what filters leave out is not."""
        self._entered.add(remote)

    def touch(self, remote: str) -> None:
        """Take that something is written in a folder."""
        self._touched.add(remote)

    async def set(self) -> list[SFTPError]:
        """Set the times; returns why some could not be."""
        errors: list[SFTPError] = []

        async def one(remote: str) -> None:
            try:
                await self._pool.utime(remote, self._found[remote])
            except SFTPFileNotFound:  # nothing was wanted of it, so that it was not made
                pass
            except SFTPError as error:
                errors.append(error)

        changed = self._entered & self._found.keys() - (self._same - self._touched)
        await run_each(sorted(changed), one)
        return errors
