"""A transaction that a resource opens for a task or an item is committed after a success, and after nothing else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.integration import bank_tasks
from tests.servers.worker import Worker

TIMEOUT_S = 100
#: How a task may end, the states that follow, and what is left of 100.
ENDS = {
    "done": ("SUCCESS", 70),
    "error": ("FAILURE", 100),
    "ignore": ("", 100),
    "reject": ("", 100),
    "retry": ("SUCCESS", 70),
    "soft limit": ("FAILURE", 100),
    "hard limit": ("FAILURE", 100),
    "revoke": ("REVOKED", 100),
}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, money INT)")
        names = [*ENDS, "errback", *map(str, range(10))]
        connection.executemany("INSERT INTO accounts VALUES (?, 100)", [(name,) for name in names])
    connection.close()
    return path


@pytest.fixture
def node(worker: Callable[..., Worker], bank: Path) -> Worker:
    return worker(
        bank_tasks.__name__,
        "--without-mingle",
        "--without-gossip",
        env={"BANK_URL": f"sqlite+aiosqlite:///{bank}", "ASYNCWORKER_CANCEL_GRACE_S": "20"},
    )


def money(bank: Path) -> dict[str, int]:
    connection = sqlite3.connect(bank)
    try:
        return dict(connection.execute("SELECT name, money FROM accounts"))
    finally:
        connection.close()


@pytest.mark.promise("resource-commits-only-a-success")
def test_a_task_commits_only_when_it_succeeds(node: Worker, client: Celery[Any], bank: Path) -> None:
    # One after the other: a writer of SQLite keeps the others waiting.
    for end, (state, _) in ENDS.items():
        limits = {"soft limit": {"soft_time_limit": 0.5}, "hard limit": {"time_limit": 0.5}}.get(end, {})
        result = client.send_task("b.transfer", (end, end), **limits)
        if end == "revoke":
            while "b.transfer" not in str(client.control.inspect(timeout=10, limit=1).active()):
                time.sleep(0.1)
            client.control.revoke(result.id, terminate=True)
        if state:
            result.get(timeout=TIMEOUT_S, propagate=False)
            assert result.state == state, end
    failed = client.send_task("b.transfer", ("errback", "error"), link_error=client.signature("b.errback"))
    failed.get(timeout=TIMEOUT_S, propagate=False)
    node.wait_for_log("the errback b.errback failed")
    assert node.stop() == 0
    assert {end: money(bank)[end] for end in ENDS} == {end: left for end, (_, left) in ENDS.items()}
    assert money(bank)["errback"] == 100


@pytest.mark.promise("resource-commits-only-a-success")
def test_an_item_commits_only_when_it_succeeds(node: Worker, client: Celery[Any], bank: Path) -> None:
    from asyncworker.tasks.result import IterateResult

    task = bank_tasks.of_one_item
    rows = [{"account": str(number), "end": "error" if number % 2 else "done"} for number in range(10)]
    signature = client.tasks[task.name].partial().options(concurrency=1).iterate_kwargs(rows)
    result: IterateResult = signature.apply_async()
    with pytest.raises(Exception, match="items"):
        result.get(timeout=TIMEOUT_S)
    assert node.stop() == 0
    assert [money(bank)[str(number)] for number in range(10)] == [70, 100] * 5
