"""A file that is written under its own name, where a server allows no rename, or watches for names that appear."""

from __future__ import annotations

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound

__all__ = ["InPlace"]


class InPlace:
    """What is known of one such file, over all tries.

    It is opened so that it must not exist, first; if the server refuses that, it is opened and emptied. So a part of it
    is removed after a failure only if there was no file before.

    Args:
        remote: Its path.

    Attributes:
        made: Whether there was no file of that name before.
    """

    __slots__ = ("_remote", "made")

    def __init__(self, remote: str) -> None:
        self._remote = remote
        self.made = False

    def may_exist(self, error: SFTPError) -> bool:
        """Whether the refusal of a file that must not exist may mean that it does."""
        return not isinstance(error, SFTPFileNotFound | SFTPConnectionLost | SFTPConnectError)

    def error(self, error: SFTPError) -> SFTPError:
        """Return the error of a failure, which names what it leaves behind."""
        if self.made:
            return error
        message = f"{error}; {self._remote} may hold a part of the new file"
        return type(error)(message, host=error.host, path=error.path)
