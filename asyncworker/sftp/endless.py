"""Listings that never come to an end, and how they are recognised."""

from __future__ import annotations

from asyncworker.sftp.packets import Name

__all__ = ["EndlessListing"]

#: Answers without a name, one after another.
_EMPTY_MAX = 1000
#: How often a name may come again after the same number of names. Servers that replace what they cannot encode list
#: names twice, but not so regularly.
_ROUNDS_MAX = 20
#: Names of one folder.
_NAMES_MAX = 10_000_000


class EndlessListing:
    """Watches the names of one folder go by, in little memory.

    One name is remembered, and replaced after 1, 2, 4, ... answers: whatever a listing that goes round has listed
    before, that name is at some time in the round, and is met again and again (R. P. Brent, BIT 20, 1980).
    """

    __slots__ = ("_answers", "_count", "_distance", "_empty", "_name", "_next", "_place", "_rounds")

    def __init__(self) -> None:
        self._answers = self._count = self._empty = 0
        self._next = 1  # the answer after which another name is remembered
        self._name: bytes | None = None
        self._place = self._distance = self._rounds = 0

    def see(self, names: tuple[Name, ...]) -> str | None:
        """Take an answer; says what is wrong once it is certain that it goes on like that."""
        if not names:
            self._empty += 1
            return f"{self._empty:,} answers without a name or an end" if self._empty >= _EMPTY_MAX else None
        self._empty = 0
        remembered = self._name
        for place, name in enumerate(names, self._count):
            if name.filename == remembered:
                distance, self._place = place - self._place, place
                self._rounds = self._rounds + 1 if distance == self._distance else 1
                self._distance = distance
        if self._rounds >= _ROUNDS_MAX:
            return f"the same {self._distance:,} names again and again, {remembered!a} among them"
        self._answers += 1
        if self._answers >= self._next:
            self._next *= 2
            self._name, self._place = names[0].filename, self._count
            self._distance = self._rounds = 0
        self._count += len(names)
        return f"more than {_NAMES_MAX:,} names" if self._count > _NAMES_MAX else None
