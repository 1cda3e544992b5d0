"""Patterns of file names, as rsync has them, turned into regular expressions.

A path is relative to the root of a tree, with slashes. ``*`` and ``?`` stay within a name, ``**`` crosses slashes,
``[a-z]`` and ``[!a-z]`` are one letter. A leading slash ties a pattern to the root; without one it may begin at any
folder. A trailing slash is met by folders only, ``/***`` at the end by a folder and all that is in it. Beyond rsync,
``{a,b}`` and ``{1..9}`` are alternatives, as in a shell, and ``a/**/b`` is met by ``a/b``, as in git.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from asyncworker.errors import SettingsError

__all__ = ["MAGIC", "expression"]

#: What makes a path a pattern.
MAGIC = re.compile(r"[*?\[{]")

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])", re.ASCII)
_RANGE_MAX = 100_000
_NO_DOT = r"(?!\.)"
_NESTED_MAX = 20
_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


def expression(pattern: str, *, meets_dots: bool = True) -> tuple[str | None, str]:
    """Return two regular expressions for whole paths: what files meet, and what folders meet.

    The first is ``None`` where no file can meet the pattern.

    Args:
        pattern: The pattern.
        meets_dots: Whether ``*``, ``?``, ``**`` and ``[...]`` meet the dot that a name begins with; in a shell, they
            do not. What ``/***`` adds at the end is not concerned.

    Raises:
        SettingsError: Nothing could ever meet the pattern, or it cannot be read; names it.
    """
    text = pattern.removeprefix("./")
    rooted = text.startswith("/") or text != pattern
    text = text.lstrip("/")
    everything = text.endswith("/***") or text == "***"
    if everything:
        text = text[:-3]
    folders_only = text.endswith("/") and not everything
    text = text.rstrip("/")
    if everything and text == "**" and not rooted:  # begins anywhere, the first folder included
        text = ""
    if not text and not everything:
        raise SettingsError(f"the pattern {pattern!a} names nothing")
    if "." in (names := text.split("/")) or ".." in names or "" in names[1:]:
        raise SettingsError(f"the pattern {pattern!a} can meet nothing: paths have no empty, '.' or '..' names in them")
    try:
        body = _Reader(text, meets_dots=meets_dots).sequence()
        re.compile(body)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(f"the pattern {pattern!a} cannot be used: {error}") from None
    # A pattern that is not tied to the root may begin after any slash.
    start = "" if rooted or body.startswith(("(?:.*/)?", ".*")) else "(?:.*/)?"
    if everything:
        return (f"{start}{body}/.*", f"{start}{body}(?:/.*)?") if body else (".*", ".*")
    return None if folders_only else f"{start}{body}", f"{start}{body}"


class _Reader:
    """One pass over a pattern."""

    def __init__(self, text: str, nested: int = 0, *, meets_dots: bool, begins: bool = True) -> None:
        self._text = text
        self._at = 0
        self._nested = nested
        self._meets_dots = meets_dots
        self._begins = begins  # a name, with the first letter

    def sequence(self) -> str:
        parts = []
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == "*":
                parts.append(self._stars())
                continue
            read = {"[": self._letters, "{": self._braces}.get(char)
            if read is not None and (part := read()) is not None:
                parts.append(part)
                continue
            self._at += 1
            if char == "?":
                char = f"{self._no_dot(self._at - 1)}[^/]"
            elif char == "\\" and self._at < len(text):
                char = re.escape(text[self._at])
                self._at += 1
            else:
                char = re.escape(char)
            parts.append(char)
        return "".join(parts)

    def _stars(self) -> str:
        begin = self._at
        while self._text.startswith("*", self._at):
            self._at += 1
        no_dot = self._no_dot(begin)
        if self._at - begin == 1:
            return f"{no_dot}[^/]*"
        if (begin == 0 or self._text[begin - 1] == "/") and self._text.startswith("/", self._at):
            self._at += 1
            # No folder at all, or any number of them.
            return "(?:.*/)?" if self._meets_dots else rf"(?:{_NO_DOT}[^/]+/)*"
        return ".*" if self._meets_dots else rf"{no_dot}(?:[^/]|/{_NO_DOT})*"

    def _no_dot(self, at: int) -> str:
        """Return the expression that keeps a wildcard at that place from matching a leading dot."""
        begins = self._text[at - 1] == "/" if at else self._begins
        return _NO_DOT if begins and not self._meets_dots else ""

    def _letters(self) -> str | None:
        """A set of letters; ``None``: the bracket is never closed, and stands for itself."""
        text, at = self._text, self._at + 1
        no_dot = self._no_dot(self._at)
        negated = text.startswith(("!", "^"), at)
        at += negated
        members = []
        first = True
        while at < len(text) and (first or text[at] != "]"):
            first = False
            if text.startswith("[:", at) and (end := text.find(":]", at)) > 0:
                name = text[at + 2 : end]
                if name not in _CLASSES:
                    raise ValueError(f"[:{name}:] is not one of {', '.join(_CLASSES)}")
                members.append(_CLASSES[name])
                at = end + 2
                continue
            if text[at] == "\\" and at + 1 < len(text):
                at += 1
                members.append(re.escape(text[at]))
            else:
                members.append("-" if text[at] == "-" else re.escape(text[at]))
            at += 1
        if at >= len(text):
            return None
        self._at = at + 1
        inside = "".join(members)
        if members[0] == "-":  # not a range
            inside = "\\" + inside
        return f"{no_dot}(?!/)[{'^' if negated else ''}{inside}]"

    def _braces(self) -> str | None:
        """Alternatives; ``None``: the brace is never closed, or has one thing in it, and stands for itself."""
        text, at, depth = self._text, self._at + 1, 1
        begins = text[self._at - 1] == "/" if self._at else self._begins
        begin, pieces = at, []
        while at < len(text) and depth:
            char = text[at]
            if char == "\\":
                at += 1
            elif char == "{":
                depth += 1
            elif char == "}":
                depth -= 1
            elif char == "," and depth == 1:
                pieces.append(text[begin:at])
                begin = at + 1
            at += 1
        if depth:
            return None
        last = text[begin : at - 1]
        found = None if pieces else _RANGE.fullmatch(last)
        if not pieces and found is None:
            return None
        self._at = at
        if found is not None:
            return _range(found)
        if self._nested >= _NESTED_MAX:
            raise ValueError(f"braces are nested more than {_NESTED_MAX} deep")
        how = {"meets_dots": self._meets_dots, "begins": begins}
        inner = (_Reader(piece, self._nested + 1, **how).sequence() for piece in (*pieces, last))
        return f"(?:{'|'.join(inner)})"


def _range(found: re.Match[str]) -> str:
    first, last, step, from_letter, to_letter = found.groups()
    if from_letter is not None:
        low, high = sorted((ord(from_letter), ord(to_letter)))
        return _any_of(chr(code) for code in range(low, high + 1))
    low, high = sorted((int(first), int(last)))
    width = max(len(first), len(last)) if any(re.match(r"-?0\d", end) for end in (first, last)) else 0
    by = abs(int(step or 1)) or 1
    if (high - low) // by >= _RANGE_MAX:
        raise ValueError(f"{{{found[0]}}} has more than {_RANGE_MAX:,} numbers in it")
    numbers = range(low, high + 1, by) if int(first) <= int(last) else range(high, low - 1, -by)
    return _any_of(f"{number:0{width}d}" for number in numbers)


def _any_of(words: Iterable[str]) -> str:
    """Return an expression that is met by those words, and as quick for thousands of them as for ten."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return _expression_of(root)


def _expression_of(node: dict[str, Any]) -> str:
    alike: dict[str, list[str]] = {}
    for char, below in node.items():
        if char:
            alike.setdefault(_expression_of(below), []).append(re.escape(char))
    if not alike:
        return ""
    branches = [(f"[{''.join(chars)}]" if len(chars) > 1 else chars[0]) + rest for rest, chars in alike.items()]
    return f"(?:{'|'.join(branches)}){'?' if '' in node else ''}"
