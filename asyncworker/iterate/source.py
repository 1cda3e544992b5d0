"""Where the items of a run come from: one lazy source of rows, each a dict of keyword arguments."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

import msgspec

from asyncworker.errors import SourceError
from asyncworker.iterate.columns import Column, OpenTask, column_of, read_async
from asyncworker.iterate.offload import OffloadedValues
from asyncworker.loop import off_loop_async

__all__ = ["Row", "Source", "SourceMode", "make_source", "source_of", "source_of_rows"]

#: So many combinations are made at once; more one by one.
LONG = 10_000

Row = dict[str, Any]
SourceMode = Literal["product", "zip"]


class Source:
    """A lazy source of rows. Made by `source_of`, `source_of_rows` and `source_from_wire`.

    Attributes:
        kind: ``product``, ``zip`` or ``rows``.
        name: Names it in errors and logs.
        first_index: Index of its first row: not 0 where it is part of another source.
        limit: No more rows than this are read; ``None``: all.
    """

    first_index = 0
    limit: int | None = None

    def __init__(self, kind: Literal["product", "zip", "rows"], columns: list[Column]) -> None:
        self.kind = kind
        self.columns = columns
        self.name = ", ".join(column.label for column in columns)
        if kind == "zip":
            self._check_lengths()

    def __repr__(self) -> str:
        return f"<Source {self.kind} of {self.name}>"

    @property
    def total(self) -> int | None:
        """How many rows there are, where that is known beforehand."""
        sizes = [column.size for column in self.columns]
        if self.kind == "zip":
            return next((size for size in sizes if size is not None), None)
        total = 1
        for size in sizes:
            if size is None:
                return None
            total *= size
        return total if total <= sys.maxsize else None

    @property
    def names(self) -> list[str] | None:
        """The keywords that each row has; ``None``: a row says so itself."""
        return None if self.kind == "rows" else [column.name for column in self.columns]

    @property
    def is_async(self) -> bool:
        """Whether `open` gives an async iterator."""
        return any(column.is_async for column in self.columns)

    def open_tasks_with(self, open_task: OpenTask) -> None:
        """Say how the tasks among the columns are run, for a source that did not travel."""
        for column in self.columns:
            column.open_task = open_task

    async def load(self) -> None:
        """Read what lies in the payload store, off the loop; before `open`, by whoever runs a source that travelled.

        Raises:
            PayloadError: It cannot be read, or is not what was written.
        """
        for column in self.columns:
            if isinstance(column.values, OffloadedValues):
                await off_loop_async(column.values.load)

    @property
    def can_change(self) -> bool:
        """Whether another attempt may read other rows: the fingerprint covers literal values only."""
        return any(column.is_async or column.one_shot for column in self.columns)

    @property
    def one_shot(self) -> bool:
        """Whether it can be read only once."""
        return any(column.one_shot for column in self.columns)

    def open(self) -> Iterator[Row] | AsyncIterator[Row]:
        """Begin to read. Sync sources give a plain iterator: pulling an item from one costs no await.

        Whoever opens a source closes the iterator.
        """
        opened = self._open()
        if self.limit is None:
            return opened
        return _first_async(opened, self.limit) if isinstance(opened, AsyncIterator) else _first(opened, self.limit)

    def _open(self) -> Iterator[Row] | AsyncIterator[Row]:
        if self.kind == "rows":
            return self._rows_async() if self.is_async else self._rows_sync()
        if self.kind == "zip":
            return self._zip_async() if self.is_async else self._zip_sync()
        return self._product_async() if self.is_async else self._product_sync()

    async def rows(self) -> AsyncIterator[Row]:
        """All rows, whatever kind of source it is."""
        opened = self.open()
        if isinstance(opened, AsyncIterator):
            async for row in opened:
                yield row
        else:
            for row in opened:
                yield row

    def to_wire(self) -> dict[str, Any]:
        """The source as JSON-ready data, for `source_from_wire` in another process.

        A one-shot iterator is read to its end and kept as a list: its values must fit into memory.

        Raises:
            SourceError: An async iterator: only what runs it can read it.
        """
        return {"kind": self.kind, "columns": [column.to_wire() for column in self.columns]}

    def fingerprint(self, extra: bytes = b"") -> str:
        """Identity of the source: two SHA-256 in hex, parted by a point.

        The first covers `extra` and the keywords, the second the values; of one-shot sources and tasks, what is known
        beforehand. A run whose items are known by a key resumes under another second part.

        Args:
            extra: What else belongs to the identity: the fixed arguments, the task's name.
        """
        # In which order a product's columns are named says which varies fastest; in others it says nothing.
        columns = self.columns if self.kind == "product" else sorted(self.columns, key=lambda column: column.name)
        names = msgspec.json.encode([self.kind, [column.name for column in columns]])
        values = _bytes_of([column.identity() for column in columns])
        return f"{hashlib.sha256(names + extra).hexdigest()}.{hashlib.sha256(values).hexdigest()}"

    def _check_lengths(self) -> None:
        known = {column.name: column.size for column in self.columns if column.size is not None}
        if len(set(known.values())) > 1:
            lengths = ", ".join(f"{name} has {size} values" for name, size in known.items())
            raise SourceError(f"{lengths}: mode='zip' needs equal lengths")

    # -- product: the last varies fastest; only the first is read lazily -----------------------------------------------

    def _product_sync(self) -> Iterator[Row]:
        first, *rest = self.columns
        name = first.name
        if not rest:
            for value in first.open():
                yield {name: value}
            return
        for value in first.open():
            yield from self._combined(value)

    async def _product_async(self) -> AsyncIterator[Row]:
        async for value in read_async(self.columns[0]):
            for row in self._combined(value):
                yield row

    def _combined(self, first: Any) -> Iterator[Row]:
        names = [column.name for column in self.columns]
        for others in _products(self.columns[1:]):
            yield dict(zip(names, (first, *others), strict=True))

    # -- zip -----------------------------------------------------------------------------------------------------------

    def _zip_sync(self) -> Iterator[Row]:
        names = [column.name for column in self.columns]
        iterators = [column.open() for column in self.columns]
        for count in itertools.count():
            values = [next(iterator, _END) for iterator in iterators]
            if self._zip_ended(values, count):
                return
            yield dict(zip(names, values, strict=True))

    async def _zip_async(self) -> AsyncIterator[Row]:
        names = [column.name for column in self.columns]
        iterators = [read_async(column) for column in self.columns]
        try:
            for count in itertools.count():
                values = [await anext(iterator, _END) for iterator in iterators]
                if self._zip_ended(values, count):
                    return
                yield dict(zip(names, values, strict=True))
        finally:
            for iterator in iterators:
                await iterator.aclose()

    def _zip_ended(self, values: list[Any], count: int) -> bool:
        ended = [column.name for column, value in zip(self.columns, values, strict=True) if value is _END]
        if ended and len(ended) < len(values):
            longer = [column.name for column in self.columns if column.name not in ended]
            raise SourceError(
                f"{', '.join(ended)} ended after {count} values, {', '.join(longer)} did not: "
                "mode='zip' needs equal lengths"
            )
        return bool(ended)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _rows_sync(self) -> Iterator[Row]:
        for number, row in enumerate(self.columns[0].open(), self.first_index):
            yield _checked_row(row, number)

    async def _rows_async(self) -> AsyncIterator[Row]:
        number = 0
        async for row in read_async(self.columns[0]):
            yield _checked_row(row, number)
            number += 1


_END: Any = object()


def source_of(iterables: Mapping[str, Any], mode: SourceMode = "product") -> Source:
    """Make a source from what each keyword goes through.

    Args:
        iterables: Lists, tuples, ranges, dicts (an item is a ``(key, value)`` pair), iterators, generators, async
            generators, `TaskSource`. Several make the cross product, the last fastest.
        mode: ``zip`` takes them in step instead; unequal lengths raise.

    Raises:
        SourceError: Something that cannot be gone through so; names it and says what can.
    """
    if mode not in ("product", "zip"):
        raise SourceError(f"mode is {mode!r}: expected 'product' or 'zip'")
    if not iterables:
        raise SourceError("nothing to iterate over: give at least one keyword, such as path=paths")
    columns = [column_of(name, values) for name, values in iterables.items()]
    return make_source(mode, columns)


def make_source(kind: Literal["product", "zip", "rows"], columns: list[Column]) -> Source:
    """Put columns together, if they can be."""
    if kind == "product":
        for column in columns[1:]:
            if column.is_async or column.one_shot:
                raise SourceError(
                    f"{column.label} can be read only once, but a cross product reads it again for each value of "
                    f"{columns[0].name}: put it first, or make it a list"
                )
    return Source(kind, columns)


def source_of_rows(rows: Any) -> Source:
    """Make a source from rows: an iterable, sync or async, of mappings of keyword arguments.

    Raises:
        SourceError: Not an iterable. A row that is not such a mapping raises when it is reached.
    """
    if isinstance(rows, Mapping):
        raise SourceError(f"rows is one mapping ({type(rows).__name__}); give an iterable of mappings")
    return make_source("rows", [column_of("rows", rows)])


def _bytes_of(identity: Any) -> bytes:
    try:
        # In which order keyword arguments are given is no part of what they are.
        try:
            return msgspec.json.encode(identity, enc_hook=repr, order="sorted")
        except TypeError:  # keys that are not text
            return msgspec.json.encode(identity, enc_hook=repr)
    except (ValueError, OverflowError):
        # Half a surrogate pair, as in a file name that is not UTF-8.
        return repr(identity).encode(errors="backslashreplace")


def _products(columns: list[Column]) -> Iterator[tuple[Any, ...]]:
    """Every combination, the last varying fastest; `itertools.product` reads all that it is given beforehand."""
    sizes = [column.size for column in columns]
    if math.prod(LONG if size is None else size for size in sizes) < LONG:
        yield from itertools.product(*(column.open() for column in columns))
        return
    for value in columns[0].open():
        if len(columns) == 1:
            yield (value,)
        else:
            for others in _products(columns[1:]):
                yield (value, *others)


def _first(rows: Iterator[Row], count: int) -> Iterator[Row]:
    try:
        yield from itertools.islice(rows, count)
    finally:
        close = getattr(rows, "close", None)
        if close is not None:
            close()


async def _first_async(rows: AsyncIterator[Row], count: int) -> AsyncIterator[Row]:
    try:
        for _ in range(count):
            try:
                row = await anext(rows)
            except StopAsyncIteration:
                return
            yield row
    finally:
        close = getattr(rows, "aclose", None)
        if close is not None:
            await close()


def _checked_row(row: Any, number: int) -> Row:
    if isinstance(row, Mapping) and all(isinstance(name, str) for name in row):
        return dict(row)
    raise SourceError(f"row {number} is {row!r:.100}: expected a mapping of keyword arguments")
