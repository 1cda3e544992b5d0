"""Rate limits hold for however many tasks are reserved."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import timed_tasks
from tests.servers.worker import Worker

TASKS = 60


def wait_for_lines(log: Path, count: int, node: Worker) -> list[str]:
    give_up_at = time.monotonic() + 120
    while len(lines := log.read_text().splitlines() if log.exists() else []) < count:
        assert time.monotonic() < give_up_at, f"{lines}\n{node.log()}"
        time.sleep(0.05)
    return lines


def test_a_rate_limit_is_as_fast_as_under_prefork_with_any_prefetch(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    def seconds(task: str, queue: str, *arguments: str, **options: Any) -> float:
        log = tmp_path / queue
        for number in range(TASKS):
            client.tasks[task].apply_async((str(log), number), queue=queue)
        node = worker(
            timed_tasks.__name__, "--without-mingle", "-Q", queue, *arguments, name=f"{queue}@test", **options
        )
        lines = [line.split() for line in wait_for_lines(log, TASKS, node)]
        order = [int(number) for number, _ in lines]
        # Of two threads that begin on a busy machine either may be the first to write.
        assert (sorted(order) if queue == "threads" else order) == list(range(TASKS))
        assert node.stop() == 0
        return float(lines[-1][1]) - float(lines[0][1])

    env = {"CELERY_BROKER_URL": valkey.broker_url, "CELERY_RESULT_BACKEND": "disabled://"}
    prefork = ("-P", "prefork", "-c", "1", "-I", timed_tasks.__name__)
    stock = seconds("d.limited", "stock", *prefork, app="tests.chaos.stock_app", env=env)
    for task, queue in (("d.limited", "threads"), ("d.limited_async", "loop")):
        # At a task a second it would take twenty times as long.
        assert seconds(task, queue, "-c", "100") < 4 * stock
