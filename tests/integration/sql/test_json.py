"""Objects and lists into JSON columns of a table that is known by its name."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from asyncworker import sql
from asyncworker.errors import SQLRowsRefused

VALUES: list[Any] = [
    {"a": [1, {"b": None}]},
    [1, 2],
    [],
    {},
    5,
    2.5,
    True,
    None,
    '{"ready": "text"}',
    {"é": "\U0001f600"},
]
MEANT = [json.loads(value) if isinstance(value, str) else value for value in VALUES]


async def make(engine: AsyncEngine, name: str = "documents", kind: str = "JSON") -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, body {kind}, other TEXT)"))


async def stored(engine: AsyncEngine, name: str = "documents") -> list[Any]:
    async with engine.connect() as connection:
        bodies = (await connection.execute(text(f"SELECT CAST(body AS TEXT) FROM {name} ORDER BY id"))).scalars()
        return [None if body is None else json.loads(body) for body in bodies]


def rows() -> list[dict[str, Any]]:
    return [{"id": number, "body": value, "other": "x"} for number, value in enumerate(VALUES)]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
async def test_insert_and_upsert(engine: AsyncEngine, chunk: int) -> None:
    await make(engine)
    assert await sql.insert_rows(engine, "documents", rows(), chunk=chunk) == len(VALUES)
    assert await stored(engine) == MEANT
    changed = [{**row, "body": {"new": row["id"]}} for row in rows()]
    await sql.upsert_rows(engine, "documents", changed, key=["id"], chunk=chunk)
    assert await stored(engine) == [{"new": number} for number in range(len(VALUES))]


async def test_binary_json_names_that_need_quotes_schemas_and_copy(pg_engine: AsyncEngine) -> None:
    async with pg_engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "Shop"'))
    names = {"documents": "documents", "Orders": '"Orders"', "Shop.Orders": '"Shop"."Orders"'}
    for name, quoted in names.items():
        await make(pg_engine, quoted, "JSONB")
        assert await sql.insert_rows(pg_engine, name, rows()) == len(VALUES)
        assert await stored(pg_engine, quoted) == MEANT
        copied = [{**row, "id": row["id"] + 100} for row in rows()]
        assert await sql.copy_rows(pg_engine, name, copied) == len(VALUES)
        assert await stored(pg_engine, quoted) == MEANT * 2


async def test_arrays_stay_arrays(pg_engine: AsyncEngine) -> None:
    await make(pg_engine, kind="INTEGER[]")
    await sql.insert_rows(pg_engine, "documents", [{"id": 1, "body": [1, 2]}])
    async with pg_engine.connect() as connection:
        assert (await connection.execute(text("SELECT body FROM documents"))).scalar() == [1, 2]


async def test_a_value_that_json_cannot_hold_is_refused_by_name(engine: AsyncEngine) -> None:
    await make(engine)
    bad = [{"id": 1, "body": {"price": Decimal(1)}}, {"id": 2, "body": {"what": object()}}]
    with pytest.raises(SQLRowsRefused, match=r"documents, row 2, column body: .*object"):
        await sql.insert_rows(engine, "documents", bad)
    assert await stored(engine) == []


async def test_text_that_is_no_json_is_refused_by_the_database(pg_engine: AsyncEngine) -> None:
    await make(pg_engine)
    with pytest.raises(SQLRowsRefused, match=r"insert into documents, rows 1 to 1: .*json"):
        await sql.insert_rows(pg_engine, "documents", [{"id": 1, "body": "not json"}])
