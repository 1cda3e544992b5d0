"""A large result, row by row, through a cursor that the server keeps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Executable, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

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
        chunk: Rows a fetch.

    Raises:
        SQLConnectError: There is no connection, or it ended.
        SQLError: The statement is wrong, or refused; says after how many rows.
    """
    query = text(statement) if isinstance(statement, str) else statement
    given = 0
    with translated(lambda: f"query, after {given:,} rows"):
        async with _connection(on) as connection:
            result = await connection.stream(query, parameters, execution_options={"yield_per": chunk})
            try:
                async for part in result.mappings().partitions(chunk):
                    for row in part:
                        given += 1
                        yield dict(row)
            finally:
                await result.close()
            if connection is not on:
                await connection.commit()


@asynccontextmanager
async def _connection(on: AsyncEngine | AsyncConnection) -> AsyncIterator[AsyncConnection]:
    if isinstance(on, AsyncConnection):
        yield on
        return
    async with on.connect() as connection:
        yield connection
