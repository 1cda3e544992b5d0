"""A worker of ``--processes`` that is replaced, with its messages on RabbitMQ: no task is lost or run twice."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from celery import Celery

from tests.integration.test_recycling import (
    HELD,
    LONG_S,
    Held,
    Start,
    held,
    the_child,
)
from tests.integration.test_recycling import (
    test_what_runs_in_a_replaced_worker_goes_on_beside_its_successor as test_what_runs_goes_on_beside_its_successor,
)
from tests.integration.test_shutdown import wait_until
from tests.integration.test_supervisor import QUICK, ends
from tests.servers.rabbitmq import RabbitMQ

__all__ = ["held", "test_what_runs_goes_on_beside_its_successor"]


def consumers(rabbitmq: RabbitMQ, vhost: str) -> int:
    """How many take tasks from the queue."""
    listed = rabbitmq.ctl("list_queues", "-p", vhost, "name", "consumers", "--no-table-headers")
    return {name: int(count) for name, count in (line.split() for line in listed.splitlines())}["celery"]


def leases(state_dir: Path) -> int:
    """How many tasks somebody holds, as any process sees it."""
    path = state_dir / "store.sqlite"
    if not path.exists():
        return 0
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(path, timeout=60)) as store:
        return int(store.execute("SELECT count(*) FROM asyncworker_lease WHERE NOT ended").fetchone()[0])
    return 0  # the worker is just making its tables


@pytest.mark.promise("recycled-worker-loses-nothing")
def test_a_retiring_worker_takes_nothing_also_after_its_connection_was_closed(
    worker: Start, client: Celery, rabbitmq: RabbitMQ, vhost: str, held: Held, state_dir: Path
) -> None:
    # A lease is taken after half of its time: what was delivered before that may be run by whoever gets it again.
    node = worker(HELD, "--processes", "1", "--max-tasks", "2", *QUICK, env={"ASYNCWORKER_LEASE_S": "6"})
    old = the_child(node)
    results = [client.tasks[f"h.{kind}"].delay(*held.arguments(kind)) for kind in ("early", "late")]
    node.wait_for_log(" retires: ", LONG_S)
    # The successor alone consumes, though both have a connection.
    wait_until(lambda: consumers(rabbitmq, vhost) == 1, LONG_S)
    wait_until(lambda: leases(state_dir) == 1, LONG_S)
    rabbitmq.drop_connections(vhost)
    wait_until(lambda: node.log().count("Connected to") >= 4, LONG_S)
    more = [client.tasks["h.late"].delay(*held.arguments(f"m{n}")) for n in range(5)]
    wait_until(lambda: len(held.started()) == 7, LONG_S)
    assert old.pid not in {pid for n in range(5) for pid in held.started()[f"m{n}"]}
    assert consumers(rabbitmq, vhost) == 1
    held.let_go()
    assert [result.get(timeout=LONG_S) for result in results] == [old.pid] * 2
    assert old.pid not in {result.get(timeout=LONG_S) for result in more}
    assert ends([old])
    # The late one was delivered again, and waited for its holder.
    assert all(len(pids) == 1 for pids in held.started().values())
    rabbitmq.wait_until_settled(vhost)
    assert node.stop() == 0
