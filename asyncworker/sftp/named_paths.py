"""Paths that the caller has named, instead of all that is in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asyncworker.errors import SFTPNameError
from asyncworker.sftp.selection import Selection

__all__ = ["NamedPaths"]

#: Paths that are looked up at the same time.
_CHUNK = 256


class NamedPaths:
    """The paths of a list, each once, without what the filters leave out. To be gone through once.

    Args:
        paths: Relative to the folder that is moved; slashes and ``./`` at their beginning are taken off.
        selection: The filters; they see the folders on the way as well.
    """

    def __init__(self, paths: Iterable[str], selection: Selection) -> None:
        self._paths = paths
        self._selection = selection
        self.refused: list[tuple[str, SFTPNameError]] = []
        self.filtered: list[str] = []

    def chunks(self) -> Iterator[list[str]]:
        """Give out some of them at a time."""
        chunk: list[str] = []
        for path in self._wanted():
            chunk.append(path)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _wanted(self) -> Iterator[str]:
        seen: set[str] = set()
        for given in self._paths:
            names = [name for name in given.split("/") if name not in ("", ".")]
            path = "/".join(names)
            if path in seen:
                continue
            seen.add(path)
            if not names or ".." in names or "\0" in path:
                error = SFTPNameError(f"refused the path {given!a}: it does not lead to something in the folder")
                self.refused.append((given, error))
            elif self._selection.filters.reaches(path):
                yield path
            else:
                self.filtered.append(path)
