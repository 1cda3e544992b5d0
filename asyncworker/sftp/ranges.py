"""Which parts of a large file are on their way, and how far its beginning is whole."""

from __future__ import annotations

import heapq

__all__ = ["Ranges"]


class Ranges:
    """Gives out the parts of a file in order, each to one taker at a time.

    Args:
        begin: What lies before is there already.
        size: The file's size.
        span: No part is given out that ends more than that behind the first byte that is missing: so a file whose end
            is at N is whole up to N - span, wherever the work on it stopped.
    """

    def __init__(self, begin: int, size: int, span: int) -> None:
        self._next = begin
        self._size = size
        self._span = span
        self._open: dict[int, int] = {}  # beginning to length, of those that are taken or given back
        self._back: list[int] = []  # beginnings of those that were given back, a heap

    @property
    def whole(self) -> int:
        """How far the beginning is whole."""
        return min(self._open, default=self._next)

    @property
    def left(self) -> int:
        """Bytes that nobody has."""
        return self._size - self._next + sum(self._open[begin] for begin in self._back)

    def take(self, length: int) -> tuple[int, int] | None:
        """Take the next part that nobody has: where it begins, and how long it is; ``None``: there is none just now."""
        if self._back:
            begin = heapq.heappop(self._back)
            return begin, self._open[begin]
        length = min(length, self._size - self._next, self.whole + self._span - self._next)
        if length <= 0:
            return None
        begin, self._next = self._next, self._next + length
        self._open[begin] = length
        return begin, length

    def give_back(self, begin: int) -> None:
        """Leave a part to somebody else."""
        heapq.heappush(self._back, begin)

    def finish(self, begin: int) -> None:
        """Say that a part is there."""
        del self._open[begin]
