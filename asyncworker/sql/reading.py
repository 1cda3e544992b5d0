"""A large result, row by row, through a cursor that the server keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Executable, text
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

from asyncworker.errors import SQLError
from asyncworker.sql.failures import translated

__all__ = ["stream_rows"]


async def stream_rows(
    on: AsyncEngine | AsyncConnection,
    statement: str | Executable,
    parameters: Mapping[str, Any] | None = None,
    *,
    chunk: int = 1000,
) -> AsyncGenerator[dict[str, Any], None]:
    """Give out the rows of a query, as dicts, while they are fetched; memory holds one chunk.

    A connection and its transaction, with its view of the data, are held until the end. On an engine the transaction is
    committed once all rows were given out, so that ``DELETE ... RETURNING`` deletes; left early, by ``break`` or an
    error, it is rolled back. Leave it by ``contextlib.aclosing``, so that this happens at once.

    Args:
        on: An engine, or a connection within its transaction, whose commit is the caller's.
        statement: SQL with ``:name`` for parameters, or an SQLAlchemy statement.
        parameters: The values of those.
        chunk: Rows a fetch, 1 or more.

    Raises:
        SQLConnectError: There is no connection, or it ended.
        SQLError: The statement is wrong, or refused; says after how many rows. It gives no rows; or it gives two
            columns of one name, of which a dict would have the last one only.
    """
    if chunk < 1:
        raise SQLError(f"query: chunk is {chunk!r}, 1 or more is needed")
    query = text(statement) if isinstance(statement, str) else statement
    given = 0
    with translated(lambda: f"query, after {given:,} rows"):
        async with _connection(on) as connection:
            result = await connection.stream(query, parameters, execution_options={"yield_per": chunk})
            try:
                _check_names(result, undone=connection is not on)
                async for part in result.mappings().partitions(chunk):
                    for row in part:
                        given += 1
                        yield dict(row)
            finally:
                await result.close()
            if connection is not on:
                await connection.commit()


def _check_names(result: AsyncResult[Any], *, undone: bool) -> None:
    try:
        names = Counter(result.keys())
    except ResourceClosedError:
        effect = "what it did is undone" if undone else "what it did is in your transaction"
        raise SQLError(f"query: the statement gives no rows, is RETURNING missing? {effect}") from None
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise SQLError(f"query: several columns are named {', '.join(map(str, twice))}: give them other names by AS")


@asynccontextmanager
async def _connection(on: AsyncEngine | AsyncConnection) -> AsyncIterator[AsyncConnection]:
    if isinstance(on, AsyncConnection):
        yield on
        return
    async with on.connect() as connection:
        yield connection
