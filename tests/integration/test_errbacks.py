"""``link_error`` tasks that are ``async def`` and take the failed request, which Celery calls as plain functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from tests.integration import errback_tasks
from tests.servers.worker import Worker

#: More than there are I/O threads, from which they are called: none may wait for another.
FAILURES = 40


@pytest.fixture
def node(worker: Callable[..., Worker]) -> Worker:
    return worker(errback_tasks.__name__, "--without-mingle", "--without-gossip")


def fail(client: Celery, name: str, errback: str = "e.handle") -> str:
    # The id alone: a result that outlives the broker, in the traceback of its exception, would look for it for ever.
    return str(client.send_task(name, link_error=client.signature(errback)).id)


def handled(client: Celery, task_id: str) -> object:
    return client.AsyncResult(f"{task_id}-handled").get(timeout=60)


def test_they_run_and_may_wait_and_send(node: Worker, client: Celery) -> None:
    failed = [fail(client, name) for name in ("e.fail_sync", "e.fail_async") for _ in range(FAILURES)]
    assert [handled(client, task_id) for task_id in failed] == ["KeyError in e.handle"] * 2 * FAILURES
    assert node.stop() == 0


@pytest.mark.parametrize("name", ["e.too_long", "e.too_long_sync"])
def test_of_a_task_past_its_hard_limit(node: Worker, client: Celery, name: str) -> None:
    assert handled(client, fail(client, name)) == "TimeLimitExceeded in e.handle"


def test_one_that_fails_is_told_in_the_log(node: Worker, client: Celery) -> None:
    fail(client, "e.fail_async", "e.handle_badly")
    node.wait_for_log("the errback e.handle_badly failed")
    assert client.send_task("e.store", ("still alive",)).get(timeout=60) == "still alive"
    assert node.stop() == 0
