"""Text of others, as a terminal or a line of a log may show it."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return text in which control characters, newlines and what else is not printable stand as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
