"""Remote paths with patterns in them, expanded as a shell does it: ``/in/*/2026-*.xml``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from asyncworker.errors import SFTPError, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.patterns import expression
from asyncworker.sftp.selection import split_glob

__all__ = ["expand"]


async def expand(pool: Namespace, path: str, on_error: Callable[[str, SFTPError], None]) -> list[Entry]:
    """Return what a path or a pattern names, in the order of the paths; a link counts as itself.

    A path that exists is never taken for a pattern. Patterns do not go through links to folders.

    Args:
        pool: The server.
        path: ``*``, ``?``, ``[...]`` and ``{...}`` stand for parts of one name, ``**`` for any number of folders; with
            a slash at its end it names folders only.
        on_error: Gets a folder on the way that cannot be listed, or whose names cannot be used, and why.

    Raises:
        SFTPFileNotFound: Nothing is there under that path, or meets the pattern.
        SettingsError: A pattern that is none.
        SFTPError: Any other refusal, or no connection. Of a path without a pattern, a server that refuses to tell
            anything is well: it may be read all the same.
    """
    try:
        return [Entry(_name(path), path, await pool._told(path, follow_links=False))]
    except SFTPFileNotFound:
        split = split_glob(path)
        if split is None:
            raise
    folder, rest = split
    pattern = _Pattern([part for part in rest.split("/") if part])
    start = len(folder.rstrip("/")) + 1
    bad_names: Callable[[SFTPNameError], None] = lambda error: on_error(error.path or folder, error)  # noqa: E731
    found = []
    entries = pool.walk(
        folder,
        enter=lambda entry: pattern.goes_on(entry.path[start:]),
        bad_names=bad_names,
        local_names=False,
        on_error=on_error,
    )
    try:
        async for entry in entries:
            if pattern.meets(entry.path[start:]) and (entry.is_dir or not path.endswith("/")):
                found.append(entry)
    finally:
        await entries.aclose()
    if not found:
        where = pool.options.address
        raise SFTPFileNotFound(f"{where}: nothing meets {path}", host=where, path=path)
    return sorted(found, key=lambda entry: entry.path)


class _Pattern:
    """A pattern by its parts: the numbers of those that may come next are the state after each name of a path."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = [None if part == "**" else re.compile(expression(f"/{part}")[1], re.DOTALL) for part in parts]
        #: ``*`` does not meet a name that begins with a dot, as in a shell.
        self._hidden = [part.startswith((".", "[.", "{.")) for part in parts]

    def meets(self, path: str) -> bool:
        """Return whether a path matches the whole pattern."""
        return len(self._parts) in self._state(path)

    def goes_on(self, folder: str) -> bool:
        """Return whether something below a folder may match."""
        return any(number < len(self._parts) for number in self._state(folder))

    def _state(self, path: str) -> set[int]:
        state = self._closed({0})
        for name in path.split("/"):
            state = self._closed(self._step(state, name))
        return state

    def _step(self, state: set[int], name: str) -> Iterable[int]:
        for number in state:
            if number == len(self._parts):
                continue
            part = self._parts[number]
            if part is None:
                if not name.startswith("."):
                    yield number
            elif part.fullmatch(name) and (self._hidden[number] or not name.startswith(".")):
                yield number + 1

    def _closed(self, state: Iterable[int]) -> set[int]:
        """With the parts after a ``**``, which may stand for no folder at all."""
        found = set()
        for first in state:
            number = first
            found.add(number)
            while number < len(self._parts) and self._parts[number] is None:
                number += 1
                found.add(number)
        return found


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path
