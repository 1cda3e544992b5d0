"""Rate limits hold for however many tasks are reserved."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import timed_tasks
from tests.servers.worker import Worker

#: More than ten timers at once, which kombu's hub would put off.
TASKS = 40
RECEIVED = re.compile(r"^\[(\S+ \S+?): INFO/MainProcess\] Task d\.limited\S*\[\S+\] received", re.MULTILINE)


def wait_for_lines(log: Path, count: int, node: Worker) -> list[str]:
    give_up_at = time.monotonic() + 120
    while len(lines := log.read_text().splitlines() if log.exists() else []) < count:
        assert time.monotonic() < give_up_at, f"{lines}\n{node.log()}"
        time.sleep(0.05)
    return lines


def check_rate(node: Worker, begun_s: list[float]) -> None:
    """Check that none begins before its token: one as the first is received, then so many a second; late is right."""
    first = min(datetime.strptime(found, "%Y-%m-%d %H:%M:%S,%f").astimezone() for found in RECEIVED.findall(node.log()))
    for number, at_s in enumerate(sorted(begun_s)):
        # The log rounds down to a millisecond, and the token bucket counts in floats.
        assert number <= 1 + timed_tasks.RATE * (at_s - first.timestamp() + 0.001), (number, begun_s)


def test_a_rate_limit_holds_and_is_as_fast_as_under_prefork_with_any_prefetch(
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
        begun_s = [float(at_s) for _, at_s in lines]
        assert node.stop() == 0
        check_rate(node, begun_s)
        return max(begun_s) - min(begun_s)

    env = {"CELERY_BROKER_URL": valkey.broker_url, "CELERY_RESULT_BACKEND": "disabled://"}
    prefork = ("-P", "prefork", "-c", "1", "-I", timed_tasks.__name__)
    stock = seconds("d.limited", "stock", *prefork, app="tests.chaos.stock_app", env=env)
    for task, queue in (("d.limited", "threads"), ("d.limited_async", "loop")):
        # At a task a second it would take five times as long.
        assert seconds(task, queue, "-c", "100") < 3 * stock
