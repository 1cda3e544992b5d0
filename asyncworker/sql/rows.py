"""Rows on their way into a table: all of one shape, in chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Set
from contextlib import aclosing
from inspect import isasyncgen
from typing import Any

from sqlalchemy import TableClause, column, inspect, table
from sqlalchemy.exc import NoInspectionAvailable

from asyncworker.errors import SQLRowsRefused

__all__ = ["Row", "Rows", "SourceFailed", "TableLike", "chunks", "each_row", "named", "table_of"]


class SourceFailed(Exception):
    """The rows raised while they were read: no fault of the database."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


Row = Mapping[str, Any]
Rows = Iterable[Row] | AsyncIterable[Row]
#: A name, with or without its schema; SQLAlchemy's ``Table``; a mapped class.
TableLike = str | TableClause | type


def named(target: TableLike) -> str:
    """Return the table's name, with its schema where there is one."""
    if isinstance(target, str):
        return target
    found = _mapped(target)
    return f"{found.schema}.{found.name}" if found.schema else found.name


def table_of(target: TableLike, columns: Iterable[str]) -> TableClause:
    """Return the table; of one that is known by its name only, with those columns."""
    if not isinstance(target, str):
        return _mapped(target)
    schema, _, name = target.rpartition(".")
    return table(name, *map(column, columns), schema=schema or None)


def _mapped(target: TableClause | type) -> TableClause:
    if isinstance(target, TableClause):
        return target
    try:
        found: Any = inspect(target).local_table
    except (NoInspectionAvailable, AttributeError):
        raise SQLRowsRefused(f"{target!r:.100} is no table: expected a name, a Table or a mapped class") from None
    assert isinstance(found, TableClause)
    return found


async def each_row(rows: Rows, target: str) -> AsyncGenerator[Row, None]:
    """Give out the rows, and see that they are rows; an async generator is closed at the end.

    Raises:
        SQLRowsRefused: One is no mapping, or has other columns than the first.
    """
    columns: Set[str] | None = None
    number = 0
    async with aclosing(_opened(rows)) as opened:
        async for row in opened:
            number += 1
            if not isinstance(row, Mapping) or not row:
                raise SQLRowsRefused(
                    f"{target}, row {number:,} is {row!r:.100}: expected {{column: value}}", table=target
                )
            if columns is None:
                columns = row.keys()
            elif row.keys() != columns:
                found, expected = sorted(row), sorted(columns)
                raise SQLRowsRefused(
                    f"{target}, row {number:,} has the columns {', '.join(found)}; the first has {', '.join(expected)}",
                    table=target,
                )
            yield row


async def chunks(rows: Rows, target: str, size: int) -> AsyncGenerator[list[Row], None]:
    """Give out the rows in lists of that size, the last one shorter; raises what `each_row` does."""
    chunk: list[Row] = []
    async with aclosing(each_row(rows, target)) as checked:
        async for row in checked:
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


async def _opened(rows: Rows) -> AsyncGenerator[Row, None]:
    try:
        if isinstance(rows, AsyncIterable):
            async for row in rows:
                yield row
        else:
            for row in rows:
                yield row
    except Exception as exc:
        raise SourceFailed(exc) from exc
    finally:
        if isasyncgen(rows):
            await rows.aclose()
