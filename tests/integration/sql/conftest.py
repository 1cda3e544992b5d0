"""The same tests on PostgreSQL and on SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from asyncworker import sql
from tests.servers.postgres import Postgres

ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, shop VARCHAR(10) NOT NULL, amount INTEGER)"


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/orders.db"
    url: str = request.getfixturevalue("pg_url")
    return url


@pytest.fixture
def pg_url(postgres: Postgres) -> str:
    """An empty database of PostgreSQL."""
    return postgres.url(postgres.add_database()).replace("+asyncpg", "")


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a database with an empty table ``orders``."""
    async for engine in opened(url):
        yield engine


@pytest.fixture
async def pg_engine(pg_url: str) -> AsyncIterator[AsyncEngine]:
    """The same, on PostgreSQL only."""
    async for engine in opened(pg_url):
        yield engine


async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    engine = await sql.open_engine(url, connections=4)
    async with engine.begin() as connection:
        await connection.execute(text(ORDERS))
    yield engine
    await engine.dispose()


async def all_rows(engine: AsyncEngine) -> list[tuple[int, str, int | None]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text("SELECT * FROM orders ORDER BY id"))]  # type: ignore[misc]
