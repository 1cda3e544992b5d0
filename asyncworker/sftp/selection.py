"""Which files of a tree are wanted: patterns, sizes, and what is there already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from wcmatch import glob

from asyncworker.errors import SettingsError

__all__ = ["Selection", "Skip", "split_glob"]

#: A file that is there already is left out: never; if size and time of change are the same; if the size is; if it is
#: as new or newer.
Skip = Literal["never", "same", "size", "newer"]
SKIPS = ("never", "same", "size", "newer")

#: ``*`` stays within a name, ``**`` does not; a pattern without a slash is met by a name at any depth.
_FLAGS = glob.GLOBSTAR | glob.MATCHBASE | glob.DOTGLOB | glob.FORCEUNIX | glob.BRACE
_MAGIC = re.compile(r"[*?\[{]")


class Selection:
    """The user's choice. Paths are relative to the root of the tree, with slashes.

    Args:
        include: Patterns, one of which a file must meet; none: all do.
        exclude: Patterns that a file must not meet, nor a folder on the way to it.
        min_size_bytes: Smaller files are left out.
        max_size_bytes: Larger files are left out; ``None``: none are.

    Raises:
        SettingsError: A pattern that is none.
    """

    def __init__(
        self,
        include: Iterable[str] | str = (),
        exclude: Iterable[str] | str = (),
        min_size_bytes: int = 0,
        max_size_bytes: int | None = None,
    ) -> None:
        self._include = _compiled(include)
        self._exclude = _compiled(exclude)
        self._min = min_size_bytes
        self._max = max_size_bytes

    @property
    def only_some(self) -> bool:
        """Whether a file has to meet a pattern or a size."""
        return self._include is not None or self._min > 0

    def enters(self, folder: str) -> bool:
        """Whether to look into a folder."""
        return self._exclude is None or not self._exclude.match(folder)

    def wants(self, file: str, size_bytes: int | None) -> bool:
        """Whether a file is wanted."""
        if self._include is not None and not self._include.match(file):
            return False
        if self._exclude is not None and self._exclude.match(file):
            return False
        size = size_bytes or 0
        return size >= self._min and (self._max is None or size <= self._max)


def is_there(
    skip: Skip, size_bytes: int | None, mtime: int | None, there_bytes: int | None, there_mtime: int | None
) -> bool:
    """Whether what is there already is as good as what could be moved."""
    if skip == "never":
        return False
    if skip == "newer":
        return mtime is not None and there_mtime is not None and there_mtime >= mtime
    same_size = size_bytes is not None and size_bytes == there_bytes
    return same_size and (skip == "size" or (mtime is not None and mtime == there_mtime))


def split_glob(path: str) -> tuple[str, str] | None:
    """Split a path with a pattern in it into the folder before and the pattern; ``None``: there is no pattern."""
    found = _MAGIC.search(path)
    if found is None:
        return None
    folder, slash, _ = path[: found.start()].rpartition("/")
    pattern = path[len(folder) + len(slash) :]
    # Without a slash in it, it would be met at any depth; a shell's pattern is met in its folder only.
    return folder or slash or ".", pattern if "/" in pattern else f"/{pattern}"


def _compiled(patterns: Iterable[str] | str) -> Any:
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        return None
    try:
        return _Matcher(given)
    except (re.error, ValueError) as error:
        raise SettingsError(f"{given!r} are no patterns: {error}") from None


class _Matcher:
    """Patterns with a slash at their beginning begin at the root."""

    def __init__(self, patterns: list[str]) -> None:
        anchored = [pattern.lstrip("/") for pattern in patterns if pattern.startswith("/")]
        floating = [pattern for pattern in patterns if not pattern.startswith("/")]
        self._anchored = glob.compile(anchored, flags=_FLAGS & ~glob.MATCHBASE) if anchored else None
        self._floating = glob.compile(floating, flags=_FLAGS) if floating else None

    def match(self, path: str) -> bool:
        """Whether one of them is met."""
        if self._floating is not None and self._floating.match(path):
            return True
        return self._anchored is not None and bool(self._anchored.match(path))
