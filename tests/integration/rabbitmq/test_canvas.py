"""Canvas from many tasks at once, over RabbitMQ: fewer connections than tasks that send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, group

from tests.integration import canvas_tasks
from tests.integration.test_canvas import (
    AT_ONCE,
    TIMEOUT_S,
    WAYS,
    answers,
    check_that_many_send_everything_at_once,
    outcomes,
)
from tests.servers.client import wait_until_listening
from tests.servers.worker import Worker


@pytest.mark.parametrize("limit", ["1", "10"])
def test_many_tasks_that_send_at_once_all_end(worker: Callable[..., Worker], client: Celery[Any], limit: str) -> None:
    arguments = ("--without-mingle", "--without-gossip", "-c", "500")
    started = worker(canvas_tasks.__name__, *arguments, env={"CANVAS_POOL_LIMIT": limit})
    ways = [way for way in WAYS if way != "raw producer"]  # to a queue that nobody has
    sent = [client.send_task("c.sends", (way,)) for _ in range(AT_ONCE // 8) for way in ways]
    step = client.signature("c.add", (1,))
    chains = [chain(client.signature("c.add", (1, 1)), group(step, step)).apply_async() for _ in range(AT_ONCE)]
    answers(client)
    assert outcomes(client, sent) == [WAYS[way] for way in ways] * (AT_ONCE // 8)
    assert [result.get(timeout=TIMEOUT_S) for result in chains] == [[3, 3]] * AT_ONCE
    assert started.stop() == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("limit", ["1", "2", "10"])
def test_two_hundred_tasks_send_everything_at_once_and_the_worker_answers_throughout(
    worker: Callable[..., Worker], client: Celery[Any], limit: str
) -> None:
    arguments = ("--without-mingle", "--without-gossip", "-c", "500")
    started = worker(canvas_tasks.__name__, *arguments, env={"CANVAS_POOL_LIMIT": limit})
    wait_until_listening(client, started.name)
    check_that_many_send_everything_at_once(client, 200)
    assert started.stop() == 0
