"""Rows into a table in bulk: insert, upsert, COPY."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from sqlalchemy import Insert, TableClause, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from asyncworker.errors import SQLError, SQLRowsRefused
from asyncworker.sql.engine import WRITES
from asyncworker.sql.failures import translated
from asyncworker.sql.json_columns import JSONColumns
from asyncworker.sql.rows import Row, Rows, TableLike, chunks, each_row, named, table_of

__all__ = ["copy_rows", "insert_rows", "upsert_rows"]

#: Rows a statement. More hold the loop for too long (10,000: 55 to 115 ms).
_CHUNK = 1000


async def insert_rows(on: AsyncEngine | AsyncConnection, table: TableLike, rows: Rows, *, chunk: int = _CHUNK) -> int:
    """Insert rows; returns how many.

    Args:
        on: An engine: all rows are stored, in a transaction of their own, or none is. A connection: within its own.
        table: Its name (``orders``, ``shop.orders``), SQLAlchemy's ``Table``, or a mapped class.
        rows: Mappings, all with the same columns; any iterable or async iterable, read as fast as they are stored. For
            a table by its name, objects and lists are written to JSON columns as JSON, and text as JSON that it is
            already; a ``Table`` says itself how its columns are sent.
        chunk: Rows a statement; memory holds so many.

    Raises:
        SQLRowsRefused: The database does not take them, or one is no such mapping; says which rows.
        SQLConflict: Another transaction was in the way.
        SQLConnectError: There is no connection, or it ended.
        SQLError: Any other failure: no such table, no right to write.
    """

    def statement(target: TableClause, columns: Sequence[str]) -> Insert:
        return insert(target)

    return await _write("insert into", on, table, rows, chunk, statement)


async def upsert_rows(
    on: AsyncEngine | AsyncConnection,
    table: TableLike,
    rows: Rows,
    *,
    key: Sequence[str],
    update: Sequence[str] | None = None,
    chunk: int = _CHUNK,
) -> int:
    """Insert rows, or update those that are there already (``ON CONFLICT``; PostgreSQL, SQLite); returns how many.

    Done twice, it has the effect of once: what an item of a fan-out should do. Of two rows with one key the later wins.

    Args:
        on: As for :func:`insert_rows`.
        table: As for :func:`insert_rows`.
        rows: As for :func:`insert_rows`.
        key: The columns of the primary key or of a unique constraint.
        update: The columns to change where the row is there; ``None``: all that are given but the key; an empty list
            leaves the row as it is.
        chunk: As for :func:`insert_rows`.

    Raises:
        SQLRowsRefused: As for :func:`insert_rows`; also where the rows lack a column that ``key`` or ``update`` names.
        SQLError: As for :func:`insert_rows`; also where the table has no such key, or another database is behind it.
    """
    name, keys = named(table), [key] if isinstance(key, str) else list(key)
    dialects: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
    make = dialects.get(on.dialect.name)
    if make is None:
        raise SQLError(f"upsert into {name}: PostgreSQL and SQLite can, {on.dialect.name} cannot", table=name)

    def statement(target: TableClause, columns: Sequence[str]) -> Insert:
        changed = [each for each in columns if each not in keys] if update is None else list(update)
        missing = [each for each in [*keys, *changed] if each not in columns]
        if missing or not keys:
            lacking = f"the rows have no column {', '.join(missing)}" if missing else "key names no column"
            raise SQLRowsRefused(f"upsert into {name}: {lacking}; they have {', '.join(columns)}", table=name)
        made: Any = make(target)
        changes = {each: made.excluded[each] for each in changed}
        inserted: Insert = (
            made.on_conflict_do_update(index_elements=keys, set_=changes)
            if changes
            else made.on_conflict_do_nothing(index_elements=keys)
        )
        return inserted

    return await _write("upsert into", on, table, rows, chunk, statement)


async def copy_rows(on: AsyncEngine | AsyncConnection, table: TableLike, rows: Rows) -> int:
    """Store rows by PostgreSQL's COPY, the fastest way in; returns how many.

    Values are those of asyncpg (a ``datetime`` for a timestamp); column types and defaults of an SQLAlchemy ``Table``
    are not asked. A row that is there already ends it.

    Args:
        on: As for :func:`insert_rows`; over the asyncpg driver.
        table: As for :func:`insert_rows`.
        rows: As for :func:`insert_rows`.

    Raises:
        SQLRowsRefused: As for :func:`insert_rows`.
        SQLError: As for :func:`insert_rows`; also where it is no PostgreSQL by asyncpg.
    """
    name, sent = named(table), 0
    if on.dialect.driver != "asyncpg":
        raise SQLError(f"COPY to {name}: it takes PostgreSQL by asyncpg, this is {on.dialect.driver}", table=name)

    async def records(
        first: Row, others: AsyncGenerator[Row, None], json_columns: JSONColumns | None
    ) -> AsyncIterator[tuple[Any, ...]]:
        nonlocal sent
        columns = list(first)
        async for row in _after(first, others):
            sent += 1
            if json_columns is not None:
                [row] = json_columns.encode([row], sent)
            yield tuple([row[column] for column in columns])

    with translated(lambda: f"COPY to {name}, after {sent:,} rows", name):
        async with aclosing(each_row(rows, name)) as checked:
            first = await anext(checked, None)
            if first is None:
                return 0
            target = table_of(table, first)
            async with _connection(on) as connection:
                # SQLAlchemy begins its transaction with its first statement: without one, COPY would be outside of it.
                await connection.exec_driver_sql("SELECT 1")
                json_columns = await JSONColumns.of(connection, target, name) if isinstance(table, str) else None
                driver: Any = (await connection.get_raw_connection()).driver_connection
                try:
                    await driver.copy_records_to_table(
                        target.name,
                        records=records(first, checked, json_columns),
                        columns=list(first),
                        schema_name=getattr(target, "schema", None),
                    )
                except (TypeError, ValueError, OverflowError, AttributeError) as exc:  # asyncpg cannot encode a value
                    raise SQLRowsRefused(f"COPY to {name}, row {sent:,}: {exc}", table=name) from exc
    return sent


async def _write(
    verb: str,
    on: AsyncEngine | AsyncConnection,
    table: TableLike,
    rows: Rows,
    chunk: int,
    make: Callable[[TableClause, Sequence[str]], Insert],
) -> int:
    name, sent, under_way = named(table), 0, 0
    statement: Insert | None = None
    json_columns: JSONColumns | None = None
    if chunk < 1:
        raise SQLRowsRefused(f"{verb} {name}: chunk is {chunk!r}, 1 or more is needed", table=name)

    def what() -> str:
        where = f"rows {sent + 1:,} to {sent + under_way:,}" if under_way else f"after {sent:,} rows"
        return f"{verb} {name}, {where}"

    with translated(what, name):
        async with _connection(on) as connection, aclosing(chunks(rows, name, chunk)) as parts:
            async for part in parts:
                if statement is None:
                    columns = list(part[0])
                    target = table_of(table, columns)
                    statement = make(target, columns)
                    if isinstance(table, str):
                        json_columns = await JSONColumns.of(connection, target, name)
                under_way = len(part)
                encoded = part if json_columns is None else json_columns.encode(part, sent + 1)
                # As many executions of one statement: a key may come twice, and no limit of parameters is met.
                try:
                    await connection.execute(statement, encoded)
                except (ValueError, OverflowError) as exc:  # the driver cannot encode a value
                    raise SQLRowsRefused(f"{what()}: {exc}", table=name) from exc
                sent, under_way = sent + under_way, 0
    return sent


async def _after(first: Row, others: AsyncGenerator[Row, None]) -> AsyncIterator[Row]:
    yield first
    async for row in others:
        yield row


@asynccontextmanager
async def _connection(on: AsyncEngine | AsyncConnection) -> AsyncIterator[AsyncConnection]:
    if isinstance(on, AsyncConnection):
        yield on
        return
    async with on.execution_options(**{WRITES: True}).begin() as connection:
        yield connection
