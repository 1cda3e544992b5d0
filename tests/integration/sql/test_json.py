"""Objects and lists into JSON columns of a table that is known by its name."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from asyncworker import sql
from asyncworker.errors import SQLError, SQLRowsRefused

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


async def test_a_table_that_is_made_later(engine: AsyncEngine) -> None:
    with pytest.raises(SQLError, match="documents"):
        await sql.insert_rows(engine, "documents", [{"id": 1, "body": 5}])
    await make(engine)
    await sql.insert_rows(engine, "documents", [{"id": 1, "body": True}])
    assert await stored(engine) == [True]


async def test_the_columns_are_asked_for_once(pg_engine: AsyncEngine) -> None:
    await make(pg_engine)
    asked = []

    def see(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append("pg_attribute" in statement)

    event.listen(pg_engine.sync_engine, "before_cursor_execute", see)
    for number in range(3):
        await sql.insert_rows(pg_engine, "documents", [{"id": number, "body": {}}])
    await sql.copy_rows(pg_engine, "documents", [{"id": 3, "body": {}}])
    assert asked.count(True) == 1


async def test_an_object_among_other_values_where_any_column_takes_json(tmp_path: Path) -> None:
    engine = await sql.open_engine(f"sqlite:///{tmp_path}/documents.db")
    await make(engine, kind="TEXT")
    values = [None, {"a": 1}, "5", [1]]
    await sql.insert_rows(engine, "documents", [{"id": n, "body": value} for n, value in enumerate(values)])
    assert await stored(engine) == [None, {"a": 1}, 5, [1]]
    await engine.dispose()


@pytest.mark.parametrize("value", ["\ud800", 2**70], ids=["surrogate", "integer"])
async def test_a_value_that_the_driver_cannot_send_is_named(engine: AsyncEngine, value: Any) -> None:
    await make(engine, kind="INTEGER" if isinstance(value, int) else "TEXT")
    with pytest.raises(SQLRowsRefused, match="documents, rows 1 to 2"):
        await sql.insert_rows(engine, "documents", [{"id": 1, "body": None}, {"id": 2, "body": value}])
    assert await stored(engine) == []


@pytest.mark.parametrize("copied", [False, True], ids=["insert", "copy"])
async def test_domains_and_lists_of_json(pg_engine: AsyncEngine, copied: bool) -> None:
    async with pg_engine.begin() as connection:
        await connection.execute(text("CREATE DOMAIN body AS jsonb"))
        await connection.execute(text("CREATE TABLE documents (id INTEGER, body body, several jsonb[], tags TEXT[])"))
    rows = [
        {"id": 1, "body": {"a": 1}, "several": [{"b": 2}, None, [3]], "tags": ["x"]},
        {"id": 2, "body": None, "several": None, "tags": None},
    ]
    if copied:
        await sql.copy_rows(pg_engine, "documents", rows)
    else:
        await sql.insert_rows(pg_engine, "documents", rows)
    query = "SELECT id, body, to_jsonb(several) AS several, tags FROM documents ORDER BY id"
    assert [row async for row in sql.stream_rows(pg_engine, query)] == rows


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
