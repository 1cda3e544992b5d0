"""Large results, and engines that are shared."""

import asyncio
import random
import tracemalloc
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from asyncworker import sql
from asyncworker.errors import SettingsError, SQLConnectError, SQLError
from asyncworker.resources import lifetimes
from tests.integration import sql_tasks
from tests.integration.sql.conftest import all_rows
from tests.servers.postgres import Postgres
from tests.servers.worker import Worker

GET_S = 120.0
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) SELECT i FROM n"


async def test_rows_come_as_dicts_in_order(engine: AsyncEngine) -> None:
    rows = [row async for row in sql.stream_rows(engine, NUMBERS, {"count": 2500})]
    assert rows == [{"i": i} for i in range(1, 2501)]


async def test_a_statement_of_sqlalchemys(engine: AsyncEngine) -> None:
    table = Table("orders", MetaData(), Column("id", Integer), Column("amount", Integer))
    await sql.insert_rows(engine, "orders", [{"id": n, "shop": "Oslo", "amount": n} for n in range(10)])
    statement = select(table.c.id).where(table.c.amount > 7).order_by(table.c.id)
    assert [row async for row in sql.stream_rows(engine, statement)] == [{"id": 8}, {"id": 9}]


@pytest.mark.parametrize("statement", ["UPDATE orders SET amount = 5", "CREATE TABLE more (i INTEGER)", "-- nothing"])
async def test_a_statement_without_rows_is_refused_and_undone(engine: AsyncEngine, statement: str) -> None:
    await sql.insert_rows(engine, "orders", [{"id": 1, "shop": "Oslo", "amount": 1}])
    with pytest.raises(SQLError, match=r"gives no rows.*undone"):
        [row async for row in sql.stream_rows(engine, statement)]
    with pytest.raises(SQLError, match="more"):
        [row async for row in sql.stream_rows(engine, "SELECT * FROM more")]
    assert await all_rows(engine) == [(1, "Oslo", 1)]


async def test_no_column_is_lost_to_another_of_its_name(engine: AsyncEngine) -> None:
    await sql.insert_rows(engine, "orders", [{"id": 1, "shop": "Oslo", "amount": 1}])
    joined = "SELECT a.id, b.id, b.shop FROM orders a JOIN orders b ON a.id = b.id"
    with pytest.raises(SQLError, match="several columns are named id:"):
        [row async for row in sql.stream_rows(engine, joined)]
    renamed = joined.replace("b.id,", "b.id AS other,")
    assert [row async for row in sql.stream_rows(engine, renamed)] == [{"id": 1, "other": 1, "shop": "Oslo"}]


async def test_no_rows_a_fetch_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(SQLError, match="chunk is 0"):
        [row async for row in sql.stream_rows(engine, NUMBERS, {"count": 3}, chunk=0)]


async def test_memory_holds_a_chunk_not_the_result(engine: AsyncEngine) -> None:
    async def peak_bytes(count: int) -> int:
        wide = f"SELECT i, '{'x' * 200}' AS text FROM ({NUMBERS}) AS numbers"
        tracemalloc.start()
        try:
            async with aclosing(sql.stream_rows(engine, wide, {"count": count}, chunk=100)) as rows:
                assert sum([1 async for _ in rows]) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak_bytes(200)  # what is imported and compiled once
    few, many = await peak_bytes(500), await peak_bytes(10_000)
    assert many < few + 1_000_000, "10,000 rows of 300 bytes are held at once"


async def test_left_early_it_gives_its_connection_back(engine: AsyncEngine) -> None:
    for _ in range(20):  # there are four connections
        async with aclosing(sql.stream_rows(engine, NUMBERS, {"count": 5000})) as rows:
            assert await anext(rows) == {"i": 1}


async def test_a_wrong_statement_says_so(engine: AsyncEngine) -> None:
    with pytest.raises(SQLError, match=r"query, after 0 rows: .*nothing"):
        _ = [row async for row in sql.stream_rows(engine, "SELECT * FROM nothing")]


async def test_a_result_that_breaks_off_says_after_how_much(pg_engine: AsyncEngine, postgres: Postgres) -> None:
    with pytest.raises(SQLConnectError, match="query, after 100 rows"):
        async for row in sql.stream_rows(pg_engine, NUMBERS, {"count": 100_000}, chunk=100):
            if row["i"] == 100:
                await postgres.drop_connections_async()


async def test_one_engine_a_database_and_options(url: str) -> None:
    engines = await asyncio.gather(*(sql.engine(url, connections=2) for _ in range(10)))
    assert len(set(map(id, engines))) == 1
    assert await sql.engine(url, connections=3) is not engines[0]
    async with engines[0].connect() as connection:
        await connection.execute(text("SELECT 1"))
    assert engines[0].pool.checkedin() == 1  # type: ignore[attr-defined]
    await lifetimes().close()
    assert engines[0].pool.checkedin() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("check_after_s", [5.0, 0.0])
async def test_cancelled_at_any_moment_it_leaves_no_connection_behind(pg_url: str, check_after_s: float) -> None:
    """As the server counts them."""
    engine = await sql.open_engine(pg_url, connections=3, application_name="cancelled", check_after_s=check_after_s)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'"
    chance = random.Random(17)

    async def work() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.002)"))

    for _ in range(15):
        tasks = [asyncio.create_task(work()) for _ in range(9)]
        for task in tasks:
            await asyncio.sleep(chance.uniform(0, 0.004))
            task.cancel()
        await asyncio.wait(tasks)
    await asyncio.gather(*(work() for _ in range(12)))
    async with engine.connect() as connection:
        while (await connection.execute(text(count))).scalar_one() > 3:
            await asyncio.sleep(0.02)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


async def test_a_thousand_tasks_share_ten_connections(pg_url: str) -> None:
    """Each counts them at the server."""
    engine = await sql.open_engine(pg_url, connections=10, wait_s=100, application_name="many")
    statement = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'many'")

    async def count() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(statement)).scalar_one())

    counts = await asyncio.gather(*(count() for _ in range(1000)))
    assert 1 < max(counts) <= 10
    await engine.dispose()


async def test_a_connection_that_died_while_it_was_idle_is_not_used(pg_url: str, postgres: Postgres) -> None:
    engine = await sql.open_engine(pg_url, connections=2, check_after_s=0)
    for _ in range(3):
        assert [row async for row in sql.stream_rows(engine, "SELECT 1 AS one")] == [{"one": 1}]
        await postgres.drop_connections_async()
    await engine.dispose()


async def test_no_connection_comes_free(url: str) -> None:
    engine = await sql.open_engine(url, connections=1, wait_s=0.05)
    async with engine.connect():
        with pytest.raises(SQLConnectError, match="query, after 0 rows: no connection came free"):
            await anext(sql.stream_rows(engine, "SELECT 1 AS one"))
    await engine.dispose()


async def test_a_driver_that_is_not_there() -> None:
    with pytest.raises(
        SettingsError, match="SQL url is 'mysql\\+aiomysql://root:\\*\\*\\*@h/x': No module named"
    ) as caught:
        await sql.open_engine("mysql+aiomysql://root:secret@h/x")
    assert "postgres" not in str(caught.value)  # nothing of that would help
    with pytest.raises(SettingsError, match="pysqlite"):
        await sql.open_engine("sqlite+pysqlite:///x.db")


def test_a_task_of_a_worker_is_a_source_over_a_query(worker: Callable[..., Worker], client: Any, pg_url: str) -> None:
    """Read by a cursor, written back by a thousand items over ten connections at most."""
    worker(sql_tasks.__name__, "--without-mingle")
    client.tasks["sql.prepare"].delay(pg_url, 1000).get(timeout=GET_S)
    double = client.tasks["sql.double"].partial(url=pg_url).options(results="none", concurrency=200)
    result = double.iterate(order=client.tasks["sql.orders"].s(pg_url)).delay()
    assert result.get(timeout=GET_S)["done"] == 1000
    assert client.tasks["sql.total"].delay(pg_url).get(timeout=GET_S) == [1000, sum(range(1000)) * 2]


REMOVE = "DELETE FROM orders WHERE id <= 2500 RETURNING id"


@pytest.mark.promise("sql-changes-once-all-was-read")
async def test_rows_that_a_statement_returns_are_changed_once_all_were_given(engine: AsyncEngine) -> None:
    await sql.insert_rows(engine, "orders", [{"id": n, "shop": "Oslo", "amount": n} for n in range(1, 2502)])
    gone = [row["id"] async for row in sql.stream_rows(engine, REMOVE, chunk=100)]
    assert sorted(gone) == list(range(1, 2501))
    assert [row["id"] async for row in sql.stream_rows(engine, "SELECT id FROM orders")] == [2501]


@pytest.mark.parametrize("statement", [REMOVE, "UPDATE orders SET amount = -1 RETURNING id"])
@pytest.mark.promise("sql-changes-once-all-was-read")
async def test_left_early_a_statement_has_changed_nothing(engine: AsyncEngine, statement: str) -> None:
    await sql.insert_rows(engine, "orders", [{"id": n, "shop": "Oslo", "amount": n} for n in range(1, 2502)])
    async with aclosing(sql.stream_rows(engine, statement, chunk=100)) as rows:
        async for _ in rows:
            break
    with pytest.raises(ZeroDivisionError):
        async with aclosing(sql.stream_rows(engine, statement, chunk=100)) as rows:
            async for _ in rows:
                raise ZeroDivisionError
    left = [row async for row in sql.stream_rows(engine, "SELECT count(*) AS n, min(amount) AS low FROM orders")]
    assert left == [{"n": 2501, "low": 1}]


async def test_on_a_connection_the_commit_is_the_callers(engine: AsyncEngine) -> None:
    await sql.insert_rows(engine, "orders", [{"id": 1, "shop": "Oslo", "amount": 1}])
    async with engine.connect() as connection:
        assert [row async for row in sql.stream_rows(connection, "DELETE FROM orders RETURNING id")] == [{"id": 1}]
        await connection.rollback()
    assert [row["id"] async for row in sql.stream_rows(engine, "SELECT id FROM orders")] == [1]
