"""SFTP to PostgreSQL, with a worker that is killed half-way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from tests.fundamentals import pipeline
from tests.servers.pipeline import Orders
from tests.servers.postgres import Postgres
from tests.servers.redelivery import redeliver
from tests.servers.sftp import running_sftp_server
from tests.servers.worker import Worker

GET_S = 120.0
FILES, PER_FILE, CONCURRENCY = 2000, 10, 10


def test_killed_half_way_it_resumes_and_each_row_is_there_once(
    worker: Callable[..., Worker],
    client: Celery[AsyncTask],
    valkey: EmbeddedServer,
    postgres: Postgres,
    tmp_path: Path,
) -> None:
    """Each order is stored, none twice; and what was done before the kill is not done again."""
    with running_sftp_server(tmp_path / "server") as server:
        orders = Orders(tmp_path / "out", server, postgres, files=FILES, per_file=PER_FILE)
        first = worker(pipeline.__name__, "--without-mingle", env=orders.env)
        load = client.tasks[f"{pipeline.__name__}.load_orders"].partial()
        load = load.options(concurrency=CONCURRENCY, retries=3, key="path")
        source = client.tasks[f"{pipeline.__name__}.list_orders"].s(str(orders.folder))
        result = load.iterate(path=source).delay()
        while result.progress().done < FILES / 4:
            time.sleep(0.02)
        first.kill()
        first.wait()
        orders.wait_until_left()  # what PostgreSQL had received before the kill, it finishes
        held = result.progress().done
        ((stored,),) = orders.query("SELECT count(*) FROM orders")
        assert held * PER_FILE <= stored < orders.count, "it was not killed half-way"
        redeliver(valkey)
        worker(pipeline.__name__, "--without-mingle", name="second@test", env=orders.env | {"ASYNCWORKER_LEASE_S": "3"})
        assert result.get(timeout=GET_S)["resumed"] == held
    assert orders.query(
        "SELECT count(*), count(DISTINCT number), min(number), max(number), sum(amount) FROM orders"
    ) == [(orders.count, orders.count, 0, orders.count - 1, sum(range(orders.count)))]
    # Written again: only what the checkpoint did not hold yet.
    ((written,),) = orders.query("SELECT count(*) FROM written")
    assert written <= orders.count + (stored - held * PER_FILE)
