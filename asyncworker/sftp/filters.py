"""Ordered rules on the paths of a tree, in rsync's order: the first one that is met decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from asyncworker.errors import SettingsError
from asyncworker.sftp.patterns import expression

__all__ = ["Filters", "Patterns", "Rule", "read_rules", "rule"]

#: One pattern or several.
Patterns = Iterable[str] | str

_WORDS = {"+": True, "include": True, "-": False, "exclude": False}


class Rule(Struct, frozen=True):
    """One rule.

    Attributes:
        include: Whether what meets the pattern is wanted.
        pattern: The pattern, as it was written.
        only: Whether files that meet no rule at all are unwanted because of this one.
        meets_dots: Whether wildcards meet the dot that a name begins with, unlike a shell's.
    """

    include: bool
    pattern: str
    only: bool = False
    meets_dots: bool = True


def rule(line: str) -> Rule:
    """Read ``+ PATTERN`` or ``- PATTERN``.

    Raises:
        SettingsError: It is neither.
    """
    word, space, pattern = line.partition(" ")
    if word not in _WORDS or not space or not pattern:
        raise SettingsError(f"the filter {line!a} is not '+ PATTERN' or '- PATTERN'")
    return Rule(_WORDS[word], pattern)


def read_rules(text: str, include: bool | None) -> list[Rule]:
    """Read the lines of a file; blank ones, and those that begin with ``#`` or ``;``, are left out.

    Args:
        text: The lines.
        include: What a line is that begins with neither ``+`` nor ``-``: a pattern to include or to exclude; ``None``:
            an error.

    Raises:
        SettingsError: A line that is no rule.
    """
    rules = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if include is None or line.startswith(("+ ", "- ")):
            rules.append(rule(line))
        else:
            rules.append(Rule(include, line, only=include))
    return rules


class Filters:
    """Rules in their order.

    A folder that is unwanted is not entered, so nothing below it is wanted either. What meets no rule is wanted, unless
    one of the rules says that it is the ``only`` kind: then files that meet no rule are not.

    Args:
        rules: The rules; the first that is met decides.

    Raises:
        SettingsError: A pattern that nothing can meet, or that cannot be read.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        files, folders = [], []
        for one in self._rules:
            pattern = one.pattern
            if one.only and pattern.endswith("/") and pattern.strip("/"):
                pattern += "***"  # only that folder: with what is in it
            of_files, of_folders = expression(pattern, meets_dots=one.meets_dots)
            files.append(of_files)
            folders.append(of_folders)
        self._file = _first(files)
        self._folder = _first(folders)
        self._used: set[int] = set()
        self.only = any(one.only for one in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def unmet(self) -> list[str]:
        """The patterns that say what alone is wanted, and that no file has met until now."""
        return [one.pattern for index, one in enumerate(self._rules) if one.only and index not in self._used]

    @property
    def nothing_met(self) -> bool:
        """Whether it was said what alone is wanted, and no file was that."""
        return self.only and len(self.unmet) == sum(one.only for one in self._rules)

    def enters(self, folder: str) -> bool:
        """Return whether the filters select a folder, given that they select those above it."""
        found = self._folder(folder) if self._folder is not None else None
        return True if found is None else self._rules[found].include

    def wants(self, file: str) -> bool:
        """Return whether the filters select a file, given that they select the folders above it."""
        found = self._file(file) if self._file is not None else None
        if found is None:
            return not self.only
        self._used.add(found)
        return self._rules[found].include

    def reaches(self, path: str) -> bool:
        """Return whether the filters select all folders above a path."""
        if self._folder is None:
            return True
        at = path.find("/")
        while at >= 0:
            if not self.enters(path[:at]):
                return False
            at = path.find("/", at + 1)
        return True


def _first(expressions: Sequence[str | None]) -> Callable[[str], int | None] | None:
    """Return what finds the first expression that a path meets; ``None``: there is none to meet."""
    given = [(index, text) for index, text in enumerate(expressions) if text is not None]
    if not given:
        return None
    # One expression for all of them; the group that took part is the first rule that is met.
    match = re.compile("|".join(f"({text})" for _, text in given), re.DOTALL).fullmatch
    indexes = [index for index, _ in given]

    def first(path: str) -> int | None:
        found = match(path)
        return None if found is None else indexes[found.lastindex - 1]  # type: ignore[operator]

    return first
