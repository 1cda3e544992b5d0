"""A file that is written under its own name, where a server allows no rename, or watches for names that appear."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp.calls import pause
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.request import Command, Request
from asyncworker.sftp.session import Session

__all__ = ["InPlace"]

E = TypeVar("E", bound=BaseException)

#: How long the removal of a part may take, while the caller waits: somebody may send the file again at once.
_REMOVAL_S = 5.0
#: How often to ask for the size of what is shorter than what the server has taken.
_LOOKS = 5


class InPlace:
    """State of one file that is written in place, over all tries.

    It is opened so that it must not exist, first; if the server refuses that, or takes no notice of it, it is opened
    and emptied. So a part of it is removed after a failure only if there was no file before, and only while it may be
    what was sent: by then, somebody else may have put a file of his own in its place.

    Args:
        remote: Its path.
        raw: The same as bytes.

    Attributes:
        made: Whether there was no file of that name before.
        replaces: Whether there was one, which is emptied by now.
        sent: Bytes of this try that were sent.
        taken: Bytes of those that the server has taken.
    """

    __slots__ = ("_raw", "_remote", "made", "replaces", "sent", "taken")

    def __init__(self, remote: str, raw: bytes) -> None:
        self._remote = remote
        self._raw = raw
        self.made = False
        self.replaces = False
        self.sent = self.taken = 0

    def begin(self) -> None:
        """Take that another try begins."""
        self.sent = self.taken = 0

    def may_exist(self, error: SFTPError) -> bool:
        """Return whether a refused exclusive create may mean that the file exists."""
        return not isinstance(error, SFTPFileNotFound | SFTPConnectionLost | SFTPConnectError)

    async def failed(self, pool: Namespace, error: E) -> E:
        """Remove the part if there was no file before, and return the error, which names a part that stays."""
        stays = self.replaces or (self.made and not await self._removed(pool))
        self.made = self.made and stays  # what is there at the next try is somebody else's
        if stays:
            left = f"{self._remote} may hold a part of the new file"
            if isinstance(error, SFTPError):
                named: E = type(error)(f"{error}; {left}", host=error.host, path=error.path)
                return named
            error.add_note(left)
        return error

    async def _removed(self, pool: Namespace) -> bool:
        def ask(session: Session, request: Command) -> None:
            session.protocol.remove(self._raw, request.answered, request)

        try:
            async with asyncio.timeout(_REMOVAL_S):
                while True:
                    try:
                        if not await self._is_mine(pool):
                            return False
                        await pool._run(pool._command(ask, "remove", self._remote), cleans_up=True)
                        return True
                    except SFTPConnectionLost:
                        await pause()  # the other connections may be on their way out as well
        except SFTPFileNotFound:
            return True
        except (SFTPError, TimeoutError):
            return False

    async def _is_mine(self, pool: Namespace) -> bool:
        """Return whether the file of that name may be exactly what was sent.

        Where the server does not tell sizes, it is taken for that. Some tell them late.
        """

        def ask(session: Session, request: Request[Attributes]) -> None:
            session.protocol.lstat(self._raw, request.answered, request)

        for looks_left in reversed(range(_LOOKS)):
            try:
                release = pool._connections.release
                found = await pool._run(Request(ask, "stat", self._remote, release), cleans_up=True)
            except (SFTPFileNotFound, SFTPConnectionLost, SFTPConnectError):
                raise
            except SFTPError:
                return True
            if found.file_type not in ("file", None):
                return False
            size = found.size_bytes
            if size is None or self.taken <= size <= self.sent:
                return True
            if size > self.sent or not looks_left:
                break
            await pause()
        return False
