"""Cut a source of known length into contiguous ranges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from asyncworker.errors import SourceError
from asyncworker.iterate.columns import Column, Pairs
from asyncworker.iterate.offload import OffloadedValues
from asyncworker.iterate.source import Row, Source

__all__ = ["check_known_length", "part_of", "ranges_of"]


def check_known_length(source: Source, partitions: int) -> int:
    """Return how many rows a source has that is to be cut.

    Raises:
        SourceError: That is not known before it is read.
    """
    total = source.total
    if total is None or source.is_async:
        unknown = next((column for column in source.columns if column.size is None), source.columns[0])
        raise SourceError(
            f"partitions is {partitions}, but how long {unknown.label} is cannot be known beforehand: give a list, "
            "range or dict, or leave out partitions"
        )
    return total


def ranges_of(total: int, partitions: int) -> list[tuple[int, int]]:
    """Ranges ``(start, stop)`` that cover so many rows, as equal as can be; none is empty."""
    count = max(1, min(partitions, total))
    return [(total * number // count, total * (number + 1) // count) for number in range(count)]


def part_of(source: Source, start: int, stop: int) -> Source:
    """Return the rows from ``start`` up to ``stop``, with the indexes that they have in the whole."""
    if source.kind != "product":
        return _Part(source.kind, [_cut(column, start, stop) for column in source.columns], start, 0, stop - start)
    first, *rest = source.columns
    # How many rows each value of the first column makes.
    inner = 1
    for column in rest:
        inner *= column.size or 0
    inner = max(1, inner)  # where one of them is empty, there is one part, of no rows
    whole = start // inner * inner
    columns = [_cut(first, start // inner, -(-stop // inner)), *rest]
    return _Part("product", columns, start, start - whole, stop - start)


class _Part(Source):
    """Some rows of a source: what its columns give, without the first few."""

    def __init__(self, kind: Any, columns: list[Column], first_index: int, skip: int, count: int) -> None:
        super().__init__(kind, columns)
        self.first_index = first_index
        self._skip = skip
        self._count = count

    @property
    def total(self) -> int:
        """How many rows there are."""
        return self._count

    def open(self) -> Iterator[Row]:
        """Begin to read."""
        rows = super().open()
        assert isinstance(rows, Iterator)
        return itertools.islice(rows, self._skip, self._skip + self._count)


def _cut(column: Column, start: int, stop: int) -> Column:
    values = column.values
    if isinstance(values, list | tuple | range):
        return Column(column.name, values[start:stop])
    if isinstance(values, OffloadedValues):
        return Column(column.name, values.cut(start, stop))
    if isinstance(values, Mapping):
        return Column(column.name, Pairs(itertools.islice(values.items(), start, stop)))
    return Column(column.name, list(itertools.islice(values, start, stop)))
