"""A task that gives its message back is run again, however long it had run and whatever it held meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from tests.integration import tasks
from tests.servers.worker import Worker

LEASE_S = 3.0


def test_a_task_that_held_a_lease_and_requeued_itself_runs_again(worker: Callable[..., Worker], client: Celery) -> None:
    node = worker(tasks.__name__, "--without-mingle", "--without-gossip", env={"ASYNCWORKER_LEASE_S": str(LEASE_S)})
    # Long enough for a lease, which a task takes in the middle of the time that one lasts.
    results = [client.send_task(name, (LEASE_S,)) for name in ("t.reject_once", "t.reject_once_sync")]
    assert [result.get(timeout=120) for result in results] == ["second time"] * 2
    assert node.stop() == 0
