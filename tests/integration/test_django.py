"""A Django project's tasks: its database connections are closed on the threads that own them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from celery import Celery

from tests.servers.postgres import Postgres
from tests.servers.worker import Worker

TASKS = ["d.orm", "d.to_thread", "d.hooks", "d.sync"]
TIMEOUT_S = 100


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.add_database()


@pytest.fixture
def node(worker: Callable[..., Worker], postgres: Postgres, database: str) -> Callable[[str], Worker]:
    def start(max_age: str) -> Worker:
        return worker(
            None,
            "--without-mingle",
            "--without-gossip",
            app="tests.integration.django_app",
            env={
                "DJANGO_SETTINGS_MODULE": "tests.integration.django_settings",
                "DJANGO_PORT": str(postgres.port),
                "DJANGO_DATABASE": database,
                "DJANGO_MAX_AGE": max_age,
                # One thread of each kind: the next call is on the one whose connection was cut.
                "ASYNCWORKER_IO_THREADS": "1",
                "ASYNCWORKER_SYNC_THREADS": "1",
            },
        )

    return start


def connections(postgres: Postgres, database: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", database="postgres")
        try:
            found = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database)
            return int(found)
        finally:
            await connection.close()

    return asyncio.run(count())


@pytest.mark.parametrize("task", TASKS)
def test_cut_connections_fail_one_task_at_most(
    node: Callable[[str], Worker], client: Celery[Any], postgres: Postgres, database: str, task: str
) -> None:
    node("null")
    assert client.send_task(task).get(timeout=TIMEOUT_S) == 1
    postgres.drop_connections()
    # The one that finds out.
    client.send_task(task).get(timeout=TIMEOUT_S, propagate=False)
    assert [client.send_task(task).get(timeout=TIMEOUT_S) for _ in range(3)] == [1, 1, 1]


def test_a_fan_out_goes_on_after_its_connections_were_cut(
    node: Callable[[str], Worker], client: Celery[Any], postgres: Postgres, tmp_path: Path
) -> None:
    @client.task(name="d.item")
    async def item(number: int, began: str, go: str) -> int:
        raise NotImplementedError  # the worker has its body

    node("null")
    began, go = tmp_path / "began", tmp_path / "go"
    # The one that finds out tries again.
    options = item.partial(began=str(began), go=str(go)).options(concurrency=1, retries=1, backoff_s=0.01)
    run = options.iterate(number=list(range(4))).apply_async()
    give_up_at_s = time.monotonic() + TIMEOUT_S
    while not began.exists() and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    postgres.drop_connections()
    go.touch()
    assert run.get(timeout=TIMEOUT_S) is not None
    assert run.progress().failed == 0


def test_none_is_left_behind_where_none_is_to_be_kept(
    node: Callable[[str], Worker], client: Celery[Any], postgres: Postgres, database: str
) -> None:
    started = node("0")
    for _ in range(3):
        assert [client.send_task(task).get(timeout=TIMEOUT_S) for task in TASKS] == [1] * len(TASKS)
    give_up_at_s = time.monotonic() + TIMEOUT_S
    while connections(postgres, database) and time.monotonic() < give_up_at_s:
        time.sleep(0.1)
    assert connections(postgres, database) == 0
    assert started.stop() == 0
