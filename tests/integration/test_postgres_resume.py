"""Killed and resumed runs on PostgreSQL: the same law as on SQLite."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from asyncworker.store import open_store, schema
from tests.servers.postgres import Postgres
from tests.unit.iterate.killing import killed_and_resumed, killings


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    return postgres.url(postgres.add_database())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@killings
def test_a_run_killed_and_resumed_equals_an_undisturbed_one(url: str, **example: Any) -> None:
    async def scenario() -> None:
        store = await open_store(url)
        try:
            async with store.writing() as connection:
                for table in (schema.run, schema.failure, schema.result_chunk, schema.key_chunk, schema.row_chunk):
                    await connection.execute(table.delete())
            await killed_and_resumed(store, **example)
        finally:
            await store.close()

    asyncio.run(scenario())
