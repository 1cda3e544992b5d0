"""Destinations that several sources may have in common: the first one has it, whichever is quicker."""

from __future__ import annotations

import posixpath

from asyncworker.errors import SFTPNameError

__all__ = ["ClaimedPaths"]


class ClaimedPaths:
    """Where the files of one transfer of several sources go, and which source each comes from."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, str]] = {}

    def claim(self, goal: str, source: str, address: str) -> bool:
        """Claim a destination for a file; ``False``: the same file has it already, being named twice.

        Args:
            goal: Where the file goes.
            source: Its path; spellings such as ``./a`` and ``a`` are one.
            address: The server; two servers' files of one path are two files.

        Raises:
            SFTPNameError: Another file goes there.
        """
        mine = (address, posixpath.normpath(source))
        first = self._sources.setdefault(goal, mine)
        if first is mine:
            return True
        if first == mine:
            return False
        other = first[1] if first[0] == address else f"{first[1]} of {first[0]}"
        message = f"{address}: refused {source}: {other} goes to the same place, {goal}"
        raise SFTPNameError(message, host=address, path=source)
