"""Which files of a tree are wanted: filters, sizes, ages, and what is there already."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from asyncworker.errors import SettingsError
from asyncworker.sftp.filters import Filters, Patterns, Rule, rule
from asyncworker.sftp.patterns import MAGIC

__all__ = ["SKIPS", "THERE", "Age", "Selection", "Skip", "is_there", "seconds_since_1970", "split_glob", "why_moved"]

#: A file that is there already is left out: never; if size and time of change are the same; if the size is; if it is
#: as new or newer; if the contents are the same.
Skip = Literal["never", "same", "size", "newer", "checksum"]
SKIPS = ("never", "same", "size", "newer", "checksum")
#: What is said of such a file.
THERE = {"same": "same size and time", "size": "same size", "newer": "as new or newer"}

#: A moment, or how long ago it was.
Age = datetime | timedelta


class Selection:
    """The user's choice. Paths are relative to the root of the tree, with slashes.

    What the server does not say, a size or a time, leaves no file out.

    Args:
        include: Patterns, one of which a file must meet; none: all do. ``sub/`` is a folder and all that is in it.
        exclude: Patterns that a file must not meet, nor a folder on the way to it; they come before ``include``.
        min_size_bytes: Smaller files are left out.
        max_size_bytes: Larger files are left out; ``None``: none are.
        filters: Rules, which come before the patterns: the first one that is met decides.
        newer_than: Files that were changed before are left out.
        older_than: Files that were changed then or later are left out.

    Raises:
        SettingsError: A pattern or an age that is none.
    """

    def __init__(
        self,
        include: Patterns = (),
        exclude: Patterns = (),
        min_size_bytes: int = 0,
        max_size_bytes: int | None = None,
        *,
        filters: Iterable[str | Rule] | str = (),
        newer_than: Age | None = None,
        older_than: Age | None = None,
    ) -> None:
        self.filters = Filters(
            [
                *(one if isinstance(one, Rule) else rule(one) for one in _several("filters", filters)),
                *(Rule(False, pattern) for pattern in _several("exclude", exclude)),
                *(Rule(True, pattern, only=True) for pattern in _several("include", include)),
            ]
        )
        self._min = min_size_bytes
        self._max = max_size_bytes
        now = time.time()
        self._after = None if newer_than is None else seconds_since_1970("newer_than", newer_than, now)
        self._before = None if older_than is None else seconds_since_1970("older_than", older_than, now)
        self._any_time = self._after is None and self._before is None
        self.takes_all = not self.filters and self._any_time and not self._min and self._max is None

    @property
    def only_some(self) -> bool:
        """Whether a file has to meet a pattern, a size or an age."""
        return self.filters.only or self._min > 0 or not self._any_time

    def enters(self, folder: str) -> bool:
        """Return whether to look into a folder."""
        return self.filters.enters(folder)

    def wants(self, file: str, size_bytes: int | None, mtime: int | None = None) -> bool:
        """Return whether to select a file, given that the folders above it are selected."""
        return self.reason_against(file, size_bytes, mtime) is None

    def reason_against(self, file: str, size_bytes: int | None, mtime: int | None) -> str | None:
        """Return why a file is left out, in a few words; ``None``: it is wanted."""
        if self.takes_all:
            return None
        if self.filters and not self.filters.wants(file):
            return "filters"
        if size_bytes is not None:
            if size_bytes < self._min:
                return "too small"
            if self._max is not None and size_bytes > self._max:
                return "too large"
        if self._any_time or mtime is None:
            return None
        if self._after is not None and mtime < self._after:
            return "too old"
        return "too new" if self._before is not None and mtime >= self._before else None


def is_there(
    skip: Skip, size_bytes: int | None, mtime: int | None, there_bytes: int | None, there_mtime: int | None
) -> bool:
    """Return whether the existing file is as good as the one that could be moved."""
    if skip in ("never", "checksum"):  # contents are compared later
        return False
    if skip == "newer":
        return mtime is not None and there_mtime is not None and there_mtime >= mtime
    same_size = size_bytes is not None and size_bytes == there_bytes
    return same_size and (skip == "size" or (mtime is not None and mtime == there_mtime))


def why_moved(size_bytes: int | None, mtime: int | None, there_bytes: int | None, there_mtime: int | None) -> str:
    """Return why a file is moved though one of its name is there."""
    if size_bytes is None or size_bytes != there_bytes:
        return "another size"
    return "another time" if mtime is None or mtime != there_mtime else "the same"


def split_glob(path: str) -> tuple[str, str] | None:
    """Split a path with a pattern in it into the folder before and the pattern; ``None``: there is no pattern."""
    found = MAGIC.search(path)
    if found is None:
        return None
    folder, slash, _ = path[: found.start()].rpartition("/")
    # Without the slash it would be met in any folder; a shell's pattern is met in its own only.
    return folder or slash or ".", "/" + path[len(folder) + len(slash) :].lstrip("/")


def seconds_since_1970(name: str, age: Age, now: float) -> float:
    """Return a moment as the time of change of a file would be.

    Raises:
        SettingsError: A moment without a time zone, or neither a moment nor a length of time.
    """
    if isinstance(age, timedelta):
        return now - age.total_seconds()
    if not isinstance(age, datetime) or age.tzinfo is None:
        raise SettingsError(f"{name} is {age!r}: a timedelta, or a datetime with a time zone, is needed")
    return age.timestamp()


def _several(name: str, given: Iterable[Any] | str) -> list[Any]:
    several = [given] if isinstance(given, str) else list(given)
    for one in several:
        if not isinstance(one, str | Rule):
            raise SettingsError(f"{name}: {one!r} is no pattern: text is needed")
    return several
