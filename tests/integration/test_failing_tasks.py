"""What tasks that fail leave in memory: no more than tasks that succeed, of which nothing waits for the collector."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from tests.integration import failing_tasks
from tests.servers.worker import Worker

TASKS = 60
GET_S = 120.0


@pytest.mark.parametrize("name", ["f.ends", "f.ends_sync"])
def test_a_task_that_fails_leaves_nothing_to_the_garbage_collector(
    worker: Callable[..., Worker], client: Celery[Any], name: str
) -> None:
    worker(failing_tasks.__name__, "--without-mingle", "--without-gossip", "-c", "20")
    ends, tracked = client.tasks[name], client.tasks["f.tracked"]

    def left_by(how: str) -> int:
        before = tracked.delay().get(timeout=GET_S)
        # Of what is ignored or rejected nothing is stored; what is sent behind it ends behind it.
        ways = itertools.chain([how] * TASKS, ["success"] * TASKS)
        for result in [ends.delay(way) for way in ways][TASKS if how in ("ignore", "reject") else 0 :]:
            result.get(timeout=GET_S, propagate=False)
        return int(tracked.delay().get(timeout=GET_S)) - before

    left_by("success")  # what is imported and kept once
    for how in ("failure", "caused", "retry", "ignore", "reject"):
        left_by(how)
        # Fewer than one object for two tasks: caches and buffers grow now and then, and a report may be under way yet.
        assert any(left_by(how) < left_by("success") + TASKS / 2 for _ in range(8)), how
