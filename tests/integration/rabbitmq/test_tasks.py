"""The async pool on RabbitMQ: what works on Redis works there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord
from celery.exceptions import TaskRevokedError

from tests.integration import tasks
from tests.integration.test_shutdown import refuses
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


def wait_until(reached: Callable[[], object], timeout_s: float = GET_S) -> None:
    give_up_at_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < give_up_at_s, "did not happen in time"
        time.sleep(0.05)


@pytest.mark.promise("rabbitmq-all-queues-and-tls")
def test_every_kind_of_task(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    node = worker(MODULE, "-c", "50", "--without-mingle")
    t = client.tasks
    assert t["t.add"].delay(1, 2).get(timeout=GET_S) == 3
    assert t["t.sync_double"].delay(4).get(timeout=GET_S)[0] == 8
    late = [t["t.sleep_late"].delay(0.2) for _ in range(20)]
    assert [result.get(timeout=GET_S) for result in late] == [0.2] * 20
    with pytest.raises(KeyError, match="on purpose"):
        t["t.fail"].delay().get(timeout=GET_S)
    assert t["t.retry"].delay().get(timeout=GET_S) == 2
    assert t["t.add"].apply_async((1, 1), countdown=0.5).get(timeout=GET_S) == 2
    assert chain(t["t.add"].s(1, 2), t["t.add"].s(3), app=client).apply_async().get(timeout=GET_S) == 6
    header = [t["t.add"].s(i, i) for i in range(5)]
    assert chord(header, t["t.total"].s(), app=client).apply_async().get(timeout=GET_S) == 20
    fan_out = t["t.item"].partial(base=1).iterate(number=range(500)).delay()
    assert fan_out.get(timeout=GET_S)["done"] == 500
    assert fan_out.results() == [1 + 2 * n for n in range(500)]
    assert "Traceback" not in node.log().replace("KeyError: 'on purpose'", "").partition("t.fail")[0]


def test_revoke_and_remote_control(worker: Callable[..., Worker], client: Celery[Any]) -> None:
    node = worker(MODULE, "-c", "1", "--without-mingle")
    running, waiting = client.tasks["t.sleep"].delay(60), client.tasks["t.sleep"].delay(0)
    wait_until(lambda: node.log().count("received") >= 1)
    waiting.revoke()
    running.revoke(terminate=True)
    for result in (running, waiting):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=GET_S)
    assert client.control.ping(timeout=60, limit=1) == [{node.name: {"ok": "pong"}}]
    assert client.tasks["t.add"].delay(1, 2).get(timeout=GET_S) == 3


def test_priorities(worker: Callable[..., Worker], client: Celery[Any], tmp_path: Path) -> None:
    """With a queue that has priorities, of what waits in the broker the most urgent comes first."""
    log = tmp_path / "log"
    client.conf.task_queue_max_priority = 9
    send = client.tasks["t.item"].apply_async
    results = [send((n,), {"log": str(log)}, priority=n) for n in range(10)]
    worker("tests.integration.tasks", "-c", "1", "--without-mingle", app="tests.integration.priority_app")
    for result in results:
        result.get(timeout=GET_S)
    assert [int(line) for line in log.read_text().split()] == list(range(9, -1, -1))


def test_warm_shutdown_returns_what_waits(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = worker(MODULE, "-c", "3", "--without-mingle")
    results = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(10)]
    wait_until(lambda: node.log().count("received") >= 3)
    node.signal(signal.SIGTERM)
    wait_until(lambda: refuses(client))
    gate.touch()
    assert node.wait() == 0
    done = sum(result.state == "SUCCESS" for result in results)
    assert done == 3
    wait_until(lambda: rabbitmq.messages(vhost) == 10 - done)
    worker(MODULE, "-c", "10", "--without-mingle", name="second@test")
    assert [result.get(timeout=GET_S) for result in results] == ["done"] * 10
    rabbitmq.wait_until_settled(vhost)  # acknowledged once the outcome is stored
