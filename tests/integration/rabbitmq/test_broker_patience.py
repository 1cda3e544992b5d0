"""A broker that closes channels, or cuts connections, ends no worker and repeats no task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.integration import tasks
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker

MODULE = tasks.__name__
WAIT_S = 90.0
#: Far below what the tasks here take.
TIMEOUT_S = 1.5
CLOSED = "the broker closed a channel"


@pytest.fixture
def impatient(rabbitmq: RabbitMQ) -> Iterator[None]:
    with rabbitmq.acknowledgement_timeout(TIMEOUT_S):
        yield


def wait_for_closings(node: Worker, count: int) -> None:
    """Wait until the broker's patience has ended that often."""
    give_up_at_s = time.monotonic() + WAIT_S
    while node.log().count(CLOSED) < count:
        assert node.returncode is None and time.monotonic() < give_up_at_s, node.log()
        time.sleep(0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["late", "late in a thread", "fan-out"])
def test_a_task_that_outlasts_the_acknowledgement_timeout_runs_once(
    kind: str, worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    """With one slot left beside it, other tasks are served after each channel that the broker closes."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    node = worker(MODULE, "-c", "2", "--without-mingle")
    if kind == "fan-out":
        held = client.tasks["t.gated_logged"].partial(gate=str(gate), log=str(log)).iterate(number=range(20)).delay()
    else:
        held = client.tasks["t.gated_late" if kind == "late" else "t.gated_late_sync"].delay(str(log), str(gate))
    for closings in range(1, 4):
        wait_for_closings(node, closings)
        others = [client.tasks["t.sleep_late"].delay(0.1) for _ in range(5)]
        assert [other.get(timeout=WAIT_S) for other in others] == [0.1] * 5
    gate.touch()
    held.get(timeout=WAIT_S)
    rabbitmq.wait_until_settled(vhost)
    lines = log.read_text().split()
    assert sorted(lines) == (sorted(map(str, range(20))) if kind == "fan-out" else ["begun", "ended"])
    assert node.stop() == 0


@pytest.mark.usefixtures("impatient")
def test_an_eta_beyond_the_acknowledgement_timeout_is_kept(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    node = worker(MODULE, "-c", "2", "--without-mingle")
    delayed = [
        client.tasks[name].apply_async((str(log), 0), countdown=4 * TIMEOUT_S)
        for name in ("t.logged_late", "t.logged_late_sync")
    ]
    wait_for_closings(node, 1)
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    assert [result.get(timeout=WAIT_S) for result in delayed] == [0, 0]
    rabbitmq.wait_until_settled(vhost)
    assert log.read_text().count("begun") == 2
    assert node.stop() == 0
