"""A file that is written under its own name, where a server allows no rename, or watches for names that appear."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp.calls import pause
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.request import Command
from asyncworker.sftp.session import Session

__all__ = ["InPlace"]

E = TypeVar("E", bound=BaseException)

#: How long the removal of a part may take, while the caller waits: somebody may send the file again at once.
_REMOVAL_S = 5.0


class InPlace:
    """What is known of one such file, over all tries.

    It is opened so that it must not exist, first; if the server refuses that, it is opened and emptied. So a part of it
    is removed after a failure only if there was no file before.

    Args:
        remote: Its path.
        raw: The same as bytes.

    Attributes:
        made: Whether there was no file of that name before.
        replaces: Whether there was one, which is emptied by now.
    """

    __slots__ = ("_raw", "_remote", "made", "replaces")

    def __init__(self, remote: str, raw: bytes) -> None:
        self._remote = remote
        self._raw = raw
        self.made = False
        self.replaces = False

    def may_exist(self, error: SFTPError) -> bool:
        """Whether the refusal of a file that must not exist may mean that it does."""
        return not isinstance(error, SFTPFileNotFound | SFTPConnectionLost | SFTPConnectError)

    async def failed(self, pool: Namespace, error: E) -> E:
        """Remove the part if there was no file before, and return the error, which names a part that stays."""
        stays = self.replaces or (self.made and not await self._removed(pool))
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
                        await pool._run(pool._command(ask, "remove", self._remote), cleans_up=True)
                        return True
                    except SFTPConnectionLost:
                        await pause()  # the other connections may be on their way out as well
        except SFTPFileNotFound:
            return True
        except (SFTPError, TimeoutError):
            return False
