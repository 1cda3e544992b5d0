"""Insert rows only where there are none: the first of several processes wins, and the others learn of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["insert_missing"]


async def insert_missing(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: Column[Any]
) -> list[Any]:
    """Insert the rows whose primary key is not in the table; return that column of those that were inserted.

    A transaction of another process that inserts the same key is waited for, and wins where it commits.
    """
    if not rows:
        return []
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table).values(rows).on_conflict_do_nothing().returning(returning)
    return list((await connection.execute(statement)).scalars())
