"""An outcome that is forgotten is not taken for the next one of the same task."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from asyncworker.tasks.forgetting import forget_outcome

READ_BY = ("subscription", "asking", "nobody")


@pytest.mark.parametrize("ways", list(itertools.product(READ_BY, repeat=3)), ids="-".join)
def test_whoever_has_read_it(client: Celery[Any], ways: tuple[str, ...]) -> None:
    result = client.AsyncResult("again and again")
    backend: Any = result.backend
    for attempt, way in enumerate([*ways, "subscription"]):
        # As Celery does where a task is sent.
        AsyncResult.__init__(result, result.id, backend=backend, app=client)
        backend.on_task_call(None, result.id)
        backend.store_result(result.id, attempt, "SUCCESS")
        if way == "subscription":
            # Read from the subscription, as a client does that came before the outcome.
            backend.add_pending_result(result)
            while not result._cache:
                backend.result_consumer.drain_events(timeout=5)
        if way != "nobody":
            assert result.get(timeout=5) == attempt
        forget_outcome(result)
