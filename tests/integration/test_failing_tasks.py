"""What tasks that fail leave in memory: no more than tasks that succeed, of which nothing waits for the collector."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from asyncworker.worker.failure_backlog import MOST_WAITING
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


@pytest.mark.parametrize(
    ("how", "calls"), [("success", 0), ("failure", 0), ("caused", 0), ("retry", 1), ("ignore", 0), ("reject", 0)]
)
def test_a_failing_task_waits_for_no_thread_and_a_retried_one_for_its_sending_alone(
    worker: Callable[..., Worker], client: Celery[Any], how: str, calls: int
) -> None:
    """One that waits for a thread keeps its frames meanwhile, while as many others fail as there are slots."""
    node = worker(failing_tasks.__name__, "-c", "20", env={"ASYNCWORKER_FAST_RESULTS": "1"})
    ends, thread_calls = client.tasks["f.ends"], client.tasks["f.thread_calls"]
    assert thread_calls.delay().get(timeout=GET_S) == 0
    results = [ends.delay(how) for _ in range(TASKS)]
    if how in ("ignore", "reject"):
        results = [ends.delay("success") for _ in range(TASKS)]
    ended = {"retry": "FAILURE", "failure": "FAILURE", "caused": "FAILURE"}.get(how, "SUCCESS")
    for result in results:
        result.get(timeout=GET_S, propagate=False)
        assert result.state == ended
    assert thread_calls.delay().get(timeout=GET_S) == calls * TASKS, node.log()


@pytest.mark.parametrize(
    ("name", "how", "tracebacks"),
    [
        ("f.ends", "success", 0),
        ("f.ends", "failure", 1),
        ("f.ends", "caused", 2),
        ("f.ends", "retry", 2),
        ("f.ends_sync", "failure", 1),
        ("f.ends_sync", "caused", 2),
    ],
)
def test_a_traceback_is_formatted_once_for_the_result_and_the_log(
    worker: Callable[..., Worker], client: Celery[Any], name: str, how: str, tracebacks: int
) -> None:
    """It is half of what a failing task costs, and the loop's thread does it. A task that is retried fails twice."""
    node = worker(failing_tasks.__name__, "-c", "20")
    formatted = client.tasks["f.formatted"]
    assert formatted.delay().get(timeout=GET_S) == 0
    results = [client.tasks[name].delay(how) for _ in range(TASKS)]
    for result in results:
        result.get(timeout=GET_S, propagate=False)
    if how == "failure":
        # What is stored is what is logged, once the main thread has it.
        text = result.traceback
        node.wait_for_log(f"[{result.id}] raised unexpected: ValueError('failure')\n{text}")
    assert formatted.delay().get(timeout=GET_S) == tracebacks * TASKS, node.log()


@pytest.mark.parametrize("fast", ["1", "0"], ids=["batches", "Celery's backend"])
@pytest.mark.parametrize("how", ["failure", "retry"])
def test_few_failures_are_unfolded_at_once_however_many_slots_there_are(
    worker: Callable[..., Worker], client: Celery[Any], how: str, fast: str
) -> None:
    """Each keeps its frames until it is stored, or sent anew: more tasks start only as those get through."""
    fails_at_once = client.tasks["f.fails_at_once"]
    # All are there when the worker comes: it has as many slots.
    results = [fails_at_once.delay(way) for _ in range(5 * MOST_WAITING) for way in (how, "success")]
    worker(failing_tasks.__name__, "-c", "1000", env={"ASYNCWORKER_FAST_RESULTS": fast})
    for number, result in enumerate(results):
        result.get(timeout=GET_S, propagate=False)
        assert result.state == ("FAILURE" if how == "failure" and number % 2 == 0 else "SUCCESS")
    # One that was sent anew is not counted until its state waits to be stored: a few more, never all.
    assert 0 < client.tasks["f.most_unfolded"].delay().get(timeout=GET_S) <= 2 * MOST_WAITING
