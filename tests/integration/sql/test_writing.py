"""Rows in bulk."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncworker import sql
from asyncworker.errors import SQLConflict, SQLConnectError, SQLError, SQLRowsRefused
from tests.integration.sql.conftest import all_rows
from tests.servers.postgres import Postgres


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop: Mapped[str]
    amount: Mapped[int | None] = mapped_column(default=7)


TABLE = Table(
    "orders", MetaData(), Column("id", Integer, primary_key=True), Column("shop", String), Column("amount", Integer)
)


def orders(count: int, first: int = 1, amount: int = 0) -> list[dict[str, Any]]:
    return [{"id": number, "shop": "Oslo", "amount": amount} for number in range(first, first + count)]


async def async_orders(count: int) -> AsyncIterator[dict[str, Any]]:
    for row in orders(count):
        yield row


@pytest.mark.parametrize("table", ["orders", TABLE, Order])
async def test_insert(engine: AsyncEngine, table: Any) -> None:
    assert await sql.insert_rows(engine, table, orders(2500)) == 2500
    assert await sql.insert_rows(engine, table, []) == 0
    assert await sql.insert_rows(engine, table, (each for each in orders(10, first=3001)), chunk=3) == 10
    assert len(await all_rows(engine)) == 2510


async def test_a_mapped_class_brings_its_defaults(engine: AsyncEngine) -> None:
    await sql.insert_rows(engine, Order, [{"id": 1, "shop": "Oslo"}])
    assert await all_rows(engine) == [(1, "Oslo", 7)]


async def test_insert_from_an_async_source(engine: AsyncEngine) -> None:
    assert await sql.insert_rows(engine, "orders", async_orders(1500)) == 1500
    assert len(await all_rows(engine)) == 1500


async def test_upsert_twice_has_the_effect_of_once(engine: AsyncEngine) -> None:
    for amount in (1, 2):
        assert await sql.upsert_rows(engine, "orders", orders(1500, amount=amount), key=["id"]) == 1500
    assert await all_rows(engine) == [(number, "Oslo", 2) for number in range(1, 1501)]


async def test_upsert_updates_what_it_is_told_to(engine: AsyncEngine) -> None:
    await sql.insert_rows(engine, TABLE, [{"id": 1, "shop": "Oslo", "amount": 1}])
    new = {"id": 1, "shop": "Bergen", "amount": 2}
    await sql.upsert_rows(engine, TABLE, [new], key=["id"], update=[])
    assert await all_rows(engine) == [(1, "Oslo", 1)]
    await sql.upsert_rows(engine, TABLE, [new], key=["id"], update=["amount"])
    assert await all_rows(engine) == [(1, "Oslo", 2)]


async def test_of_two_rows_with_one_key_the_later_wins(engine: AsyncEngine) -> None:
    rows = [{"id": 1, "shop": "Oslo", "amount": n} for n in range(10)]
    await sql.upsert_rows(engine, "orders", rows, key=["id"])
    assert await all_rows(engine) == [(1, "Oslo", 9)]


async def test_within_a_transaction_of_the_callers(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await sql.insert_rows(connection, "orders", orders(10))
        await connection.rollback()
    assert await all_rows(engine) == []


async def test_all_or_nothing_and_the_error_says_which(engine: AsyncEngine) -> None:
    rows = [*orders(2300), {"id": 17, "shop": "Oslo", "amount": 0}]
    with pytest.raises(
        SQLRowsRefused, match=r"insert into orders, rows 2,001 to 2,301: \w+Error: .*(UNIQUE|unique)"
    ) as caught:
        await sql.insert_rows(engine, "orders", rows)
    assert caught.value.table == "orders"
    assert await all_rows(engine) == []
    with pytest.raises(SQLRowsRefused, match=r"NOT NULL|not-null"):
        await sql.upsert_rows(engine, "orders", [{"id": 1, "shop": None, "amount": 1}], key=["id"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "shop": "Oslo"}, {"id": 2}], "orders, row 2 has the columns id; the first has id, shop"),
        ([{"id": 1}, ("Oslo", 2)], r"orders, row 2 is \('Oslo', 2\): expected"),
        ([{}], "orders, row 1 is {}"),
    ],
)
async def test_what_cannot_be_rows(engine: AsyncEngine, rows: Any, message: str) -> None:
    with pytest.raises(SQLRowsRefused, match=message):
        await sql.insert_rows(engine, "orders", rows)


async def test_wrong_keys_tables_and_columns(engine: AsyncEngine) -> None:
    with pytest.raises(
        SQLRowsRefused, match="upsert into orders: the rows have no column nr; they have id, shop, amount"
    ):
        await sql.upsert_rows(engine, "orders", orders(1), key=["nr"])
    with pytest.raises(SQLError, match=r"upsert into orders, rows 1 to 1: .*ON CONFLICT"):
        await sql.upsert_rows(engine, "orders", orders(1), key=["amount"])
    with pytest.raises(SQLError, match=r"insert into order_s, rows 1 to 1: .*order_s"):
        await sql.insert_rows(engine, "order_s", orders(1))
    with pytest.raises(SQLRowsRefused, match="is no table: expected a name"):
        await sql.insert_rows(engine, int, orders(1))


async def test_what_the_rows_raise_stays_itself(engine: AsyncEngine) -> None:
    def rows() -> Any:
        yield from orders(1200)
        raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError, match="no such file"):
        await sql.insert_rows(engine, "orders", rows())
    assert await all_rows(engine) == []


async def test_many_at_once_over_few_connections(engine: AsyncEngine) -> None:
    """Forty writers, four connections; on SQLite one writes at a time and the others wait."""
    await asyncio.gather(*(sql.upsert_rows(engine, "orders", orders(50, first=50 * n), key=["id"]) for n in range(40)))
    assert len(await all_rows(engine)) == 2000


async def test_a_schema_in_the_name(pg_engine: AsyncEngine) -> None:
    async with pg_engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA shop"))
        await connection.execute(text("CREATE TABLE shop.items (id INTEGER PRIMARY KEY)"))
    assert await sql.insert_rows(pg_engine, "shop.items", [{"id": 1}]) == 1
    assert await sql.upsert_rows(pg_engine, "shop.items", [{"id": 1}, {"id": 2}], key=["id"]) == 2
    assert await sql.copy_rows(pg_engine, "shop.items", [{"id": 3}]) == 1


@pytest.mark.parametrize("table", ["orders", TABLE, Order])
async def test_copy(pg_engine: AsyncEngine, table: Any) -> None:
    assert await sql.copy_rows(pg_engine, table, async_orders(5000)) == 5000
    assert await sql.copy_rows(pg_engine, table, []) == 0
    rows = await all_rows(pg_engine)
    assert (rows[0], rows[-1], len(rows)) == ((1, "Oslo", 0), (5000, "Oslo", 0), 5000)


async def test_copy_within_a_transaction_of_the_callers(pg_engine: AsyncEngine) -> None:
    async with pg_engine.connect() as connection:
        await sql.copy_rows(connection, "orders", orders(10))
        await connection.rollback()
    assert await all_rows(pg_engine) == []


async def test_copy_that_is_refused_stores_nothing(pg_engine: AsyncEngine) -> None:
    rows = [*orders(300), {"id": 17, "shop": "Oslo", "amount": 0}]
    with pytest.raises(SQLRowsRefused, match=r"(?s)COPY to orders, after 301 rows: UniqueViolationError.*line 301"):
        await sql.copy_rows(pg_engine, "orders", rows)
    with pytest.raises(SQLRowsRefused, match="COPY to orders, row 1: 'str' object cannot be"):
        await sql.copy_rows(pg_engine, "orders", [{"id": "one", "shop": "Oslo", "amount": 0}])
    with pytest.raises(SQLRowsRefused, match="orders, row 2 has the columns id"):
        await sql.copy_rows(pg_engine, "orders", [orders(1)[0], {"id": 2}])

    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield orders(1)[0]
        raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError, match="no such file"):
        await sql.copy_rows(pg_engine, "orders", broken())
    assert await all_rows(pg_engine) == []
    assert await sql.copy_rows(pg_engine, "orders", orders(3)) == 3


async def test_copy_is_postgresqls(tmp_path: Any) -> None:
    engine = await sql.open_engine(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(SQLError, match="COPY to orders: it takes PostgreSQL by asyncpg, this is aiosqlite"):
        await sql.copy_rows(engine, "orders", orders(1))


async def test_a_deadlock_is_a_conflict(pg_engine: AsyncEngine) -> None:
    await sql.insert_rows(pg_engine, "orders", orders(2))
    both_hold_one = asyncio.Barrier(2)

    async def write(first: int, second: int) -> None:
        async with pg_engine.begin() as connection:
            await sql.upsert_rows(connection, "orders", orders(1, first=first, amount=first), key=["id"])
            await both_hold_one.wait()
            await sql.upsert_rows(connection, "orders", orders(1, first=second, amount=first), key=["id"])

    outcomes = await asyncio.gather(write(1, 2), write(2, 1), return_exceptions=True)
    (loser,) = [each for each in outcomes if each is not None]
    assert isinstance(loser, SQLConflict)
    assert "upsert into orders, rows 1 to 1: DeadlockDetectedError" in str(loser)


async def test_a_connection_that_ends_is_an_error_and_the_next_call_has_another(
    pg_engine: AsyncEngine, postgres: Postgres
) -> None:
    await sql.insert_rows(pg_engine, "orders", orders(1))

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for row in orders(2, first=10):
            yield row
            await postgres.drop_connections_async()

    with pytest.raises(SQLConnectError, match="insert into orders"):
        await sql.insert_rows(pg_engine, "orders", slowly(), chunk=1)
    assert await sql.insert_rows(pg_engine, "orders", orders(1, first=2)) == 1
    assert len(await all_rows(pg_engine)) == 2


async def test_nobody_listens() -> None:
    from tests.servers.ports import free_port

    engine = await sql.open_engine(f"postgresql://postgres@127.0.0.1:{free_port()}/x")
    with pytest.raises(SQLConnectError, match=r"insert into orders, after 0 rows: .*refused|Connect call failed"):
        await sql.insert_rows(engine, "orders", orders(1))
    await engine.dispose()
