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
def node(worker: Callable[..., Worker], postgres: Postgres, database: str) -> Callable[..., Worker]:
    def start(max_age: str, app: str = "django_app", **env: str) -> Worker:
        return worker(
            None,
            "--without-mingle",
            "--without-gossip",
            app=f"tests.integration.{app}",
            env={
                "DJANGO_SETTINGS_MODULE": "tests.integration.django_settings",
                "DJANGO_PORT": str(postgres.port),
                "DJANGO_DATABASE": database,
                "DJANGO_MAX_AGE": max_age,
                # One thread of each kind: the next call is on the one whose connection was cut.
                "ASYNCWORKER_IO_THREADS": "1",
                "ASYNCWORKER_SYNC_THREADS": "1",
                **env,
            },
        )

    return start


def ask(postgres: Postgres, database: str, query: str, *arguments: Any) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", database=database)
        try:
            return [row[0] for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def connections(postgres: Postgres, database: str) -> int:
    (count,) = ask(postgres, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database)
    return int(count)


@pytest.mark.parametrize("task", TASKS)
def test_cut_connections_fail_one_task_at_most(
    node: Callable[..., Worker], client: Celery[Any], postgres: Postgres, database: str, task: str
) -> None:
    node("null")
    assert client.send_task(task).get(timeout=TIMEOUT_S) == 1
    postgres.drop_connections()
    # The one that finds out.
    client.send_task(task).get(timeout=TIMEOUT_S, propagate=False)
    assert [client.send_task(task).get(timeout=TIMEOUT_S) for _ in range(3)] == [1, 1, 1]


def test_a_fan_out_goes_on_after_its_connections_were_cut(
    node: Callable[..., Worker], client: Celery[Any], postgres: Postgres, tmp_path: Path
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
    node: Callable[..., Worker], client: Celery[Any], postgres: Postgres, database: str
) -> None:
    started = node("0")
    for _ in range(3):
        assert [client.send_task(task).get(timeout=TIMEOUT_S) for task in TASKS] == [1] * len(TASKS)
    give_up_at_s = time.monotonic() + TIMEOUT_S
    while connections(postgres, database) and time.monotonic() < give_up_at_s:
        time.sleep(0.1)
    assert connections(postgres, database) == 0
    assert started.stop() == 0


def test_tasks_whose_results_are_in_the_database_run_after_its_connections_were_cut(
    node: Callable[..., Worker], client: Celery[Any], postgres: Postgres, database: str, tmp_path: Path
) -> None:
    pytest.importorskip("django_celery_results")
    started, log, sent = node("null", "django_results_app", ASYNCWORKER_RESULT_URL=""), tmp_path / "log", 0

    def run(count: int) -> list[str]:
        """Send that many tasks and wait until they have ended; return their states."""
        nonlocal sent
        sent += count
        ids = [client.send_task("d.note", (str(log),)).id for _ in range(count)]
        query = "SELECT status FROM django_celery_results_taskresult WHERE task_id = ANY($1) AND date_done IS NOT NULL"
        give_up_at_s = time.monotonic() + TIMEOUT_S
        while len(states := ask(postgres, database, query, ids)) < count:
            assert time.monotonic() < give_up_at_s, started.log()
            time.sleep(0.1)
        assert log.read_text() == "x" * sent  # whatever becomes of its result, each has run
        return states

    assert run(3) == ["SUCCESS"] * 3
    for _ in range(2):
        postgres.drop_connections()
        run(1)  # the one that finds out
        assert run(3) == ["SUCCESS"] * 3
    assert started.stop() == 0
