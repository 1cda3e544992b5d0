"""A broker that closes channels, or cuts connections, ends no worker and repeats no task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from asyncworker.errors import TooManyDeliveries
from tests.integration import tasks
from tests.integration.rabbitmq import amqp_app
from tests.servers.command import asyncworker
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker

MODULE = tasks.__name__
WAIT_S = 120.0
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
@pytest.mark.promise("consumer-timeout-runs-nothing-twice")
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


@pytest.mark.promise("consumer-timeout-runs-nothing-twice")
def test_a_task_that_outlasts_the_timeout_runs_once_among_several_workers(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    """A copy that comes to another worker waits there for the holder, and is dropped when that has finished."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    # A lease is taken after half of its time: before the broker's patience ends, as it is with RabbitMQ's 30 minutes.
    env = {"ASYNCWORKER_LEASE_S": "6"}
    with rabbitmq.acknowledgement_timeout(6):
        nodes = [worker(MODULE, "-c", "4", "--without-mingle", name=f"{name}@test", env=env) for name in ("one", "two")]
        held = [client.tasks["t.gated_late"].delay(str(log), str(gate)) for _ in range(2)]
        give_up_at_s = time.monotonic() + WAIT_S
        while sum(node.log().count(CLOSED) for node in nodes) < 4:
            assert time.monotonic() < give_up_at_s, [node.log() for node in nodes]
            time.sleep(0.1)
        assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
        gate.touch()
        assert [result.get(timeout=WAIT_S) for result in held] == ["done"] * 2
        rabbitmq.wait_until_settled(vhost)
        assert sorted(log.read_text().split()) == ["begun"] * 2 + ["ended"] * 2
        assert [node.stop() for node in nodes] == [0, 0]


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


def leave_unacknowledged(client: Celery[Any], queue: str = "celery") -> None:
    """Take a message and close the connection, so that it is delivered again."""
    with client.connection_for_read() as connection:
        assert connection.default_channel.basic_get(queue) is not None


def test_a_late_task_whose_success_is_stored_is_acknowledged_and_not_run_again(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    """What the broker has left where the acknowledgement is lost together with the worker."""
    log = tmp_path / "log"
    first = worker(MODULE, "-c", "2", "--without-mingle")
    client.tasks["t.logged_late"].apply_async((str(log), 0), task_id="the-same").get(timeout=WAIT_S)
    assert first.stop() == 0
    again = client.tasks["t.logged_late"].apply_async((str(log), 0), task_id="the-same")
    leave_unacknowledged(client)
    worker(MODULE, "-c", "2", "--without-mingle", name="second@test")
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    rabbitmq.wait_until_settled(vhost)
    assert log.read_text().split() == ["begun", "ended"]
    assert again.state == "SUCCESS"


def test_a_late_task_without_a_stored_success_is_run_when_it_is_delivered_again(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    result = client.tasks["t.logged_late"].delay(str(log), 0)
    leave_unacknowledged(client)
    worker(MODULE, "-c", "2", "--without-mingle")
    assert result.get(timeout=WAIT_S) == 0
    rabbitmq.wait_until_settled(vhost)


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.promise("quorum-queue-keeps-a-dead-letter")
def test_a_task_that_kills_its_workers_is_kept_before_its_queue_drops_it(
    limit: int,
    worker: Callable[..., Worker],
    client: Celery[Any],
    worker_env: dict[str, str],
    rabbitmq: RabbitMQ,
    vhost: str,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"app": amqp_app.__name__, "env": {"AMQP_QUORUM": "1", "AMQP_DELIVERY_LIMIT": str(limit)}}
    last = worker(MODULE, "-c", "2", "--without-mingle", name="declares@test", **options)
    last.wait_for_log(f"its delivery limit ({limit}) is not above max_deliveries (10)")
    assert last.stop() == 0
    client.conf.update(amqp_app.quorum(limit))
    result = client.tasks["t.poison"].delay(str(tmp_path / "never"))
    # With a limit of one no earlier delivery was counted that could tell a poison: the last one is run, too.
    deaths = limit if limit > 1 else 2
    for attempt in range(deaths):
        victim = worker(MODULE, "--without-mingle", name=f"victim{attempt}@test", ready=False, **options)
        victim.wait(timeout_s=WAIT_S)
    survivor = worker(MODULE, "-c", "2", "--without-mingle", name="survivor@test", **options)
    if limit > 1:
        with pytest.raises(TooManyDeliveries, match="its queue's delivery limit allows no other delivery"):
            result.get(timeout=WAIT_S)
    rabbitmq.wait_until_settled(vhost)
    assert result.id in asyncworker("dead", "list", env=worker_env).stdout
    assert survivor.stop() == 0


@pytest.mark.promise("quorum-queue-keeps-a-dead-letter")
def test_a_task_that_ends_on_the_last_delivery_leaves_no_dead_letter(
    worker: Callable[..., Worker], client: Celery[Any], worker_env: dict[str, str], rabbitmq: RabbitMQ, vhost: str
) -> None:
    options: dict[str, Any] = {"app": amqp_app.__name__, "env": {"AMQP_QUORUM": "1", "AMQP_DELIVERY_LIMIT": "1"}}
    assert worker(MODULE, "--without-mingle", name="declares@test", **options).stop() == 0
    client.conf.update(amqp_app.quorum(1))
    result = client.tasks["t.sleep_late"].delay(0)
    leave_unacknowledged(client)
    worker(MODULE, "--without-mingle", **options)
    assert result.get(timeout=WAIT_S) == 0
    rabbitmq.wait_until_settled(vhost)
    assert asyncworker("dead", "list", "--json", env=worker_env).stdout == ""


@pytest.mark.promise("worker-consumes-again")
def test_a_queue_that_is_deleted_under_its_consumer_is_declared_again(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    """What runs goes on, and what was held is gone with the queue."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    node = worker(MODULE, "-c", "2", "--without-mingle")
    held = client.tasks["t.gated_late"].delay(str(log), str(gate))
    node.wait_for_log(f"[{held.id}] received")
    rabbitmq.ctl("delete_queue", "-p", vhost, "celery")
    give_up_at_s = time.monotonic() + WAIT_S
    while "celery\n" not in rabbitmq.ctl("list_queues", "-p", vhost, "name", "--no-table-headers"):
        assert node.returncode is None and time.monotonic() < give_up_at_s, node.log()
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    gate.touch()
    assert held.get(timeout=WAIT_S) == "done"
    assert log.read_text().split() == ["begun", "ended"]
    assert node.stop() == 0


@pytest.mark.promise("worker-consumes-again")
def test_a_queue_that_another_connection_holds_for_itself_is_waited_for(
    worker: Callable[..., Worker], client: Celery[Any]
) -> None:
    """A connection that is being cut, of this worker or of another one, may hold it for a moment."""
    with client.connection_for_read() as connection:
        connection.default_channel.queue_declare("celery", exclusive=True, durable=True, auto_delete=False)
        node = worker(MODULE, "-c", "2", "--without-mingle", ready=False)
        node.wait_for_log("RESOURCE_LOCKED")
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    assert node.stop() == 0


@pytest.mark.promise("worker-consumes-again")
def test_a_virtual_host_that_is_away_for_a_while_is_waited_for(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str
) -> None:
    node = worker(MODULE, "-c", "2", "--without-mingle")
    rabbitmq.ctl("delete_vhost", vhost)
    node.wait_for_log(f"vhost {vhost} not found")
    rabbitmq.ctl("add_vhost", vhost)
    rabbitmq.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("user", "vhost_name", "reason"),
    [("guest:wrong", "/", "ACCESS_REFUSED"), ("guest:guest", "nothing", "vhost nothing not found")],
)
@pytest.mark.promise("refused-worker-says-why")
def test_a_worker_that_may_not_connect_ends_with_one_line(
    user: str, vhost_name: str, reason: str, worker: Callable[..., Worker], rabbitmq: RabbitMQ
) -> None:
    url = rabbitmq.broker_url(vhost_name).replace("guest:guest", user)
    node = worker(MODULE, ready=False, env={"ASYNCWORKER_BROKER_URL": url})
    assert node.wait(timeout_s=WAIT_S) != 0
    assert "refuses this worker" in node.log()
    assert reason in node.log()
    assert "Traceback" not in node.log()


@pytest.mark.promise("refused-worker-says-why")
def test_a_worker_that_the_broker_never_serves_ends_with_its_reason(
    worker: Callable[..., Worker], client: Celery[Any]
) -> None:
    with client.connection_for_read() as connection:
        connection.default_channel.queue_declare("celery", durable=False, auto_delete=False)
    node = worker(MODULE, "-c", "2", "--without-mingle", ready=False)
    assert node.wait(timeout_s=WAIT_S) != 0
    assert "the broker refuses what this worker needs" in node.log()
    assert "inequivalent arg 'durable'" in node.log()
    assert "Traceback" not in node.log()


def test_late_acknowledgements_arrive_while_the_broker_blocks_publishers(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = worker(MODULE, "-c", "5", "--without-mingle")
    held = [client.tasks["t.gated_late"].delay(str(tmp_path / "log"), str(gate)) for _ in range(5)]
    for result in held:
        node.wait_for_log(f"[{result.id}] received")
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        gate.touch()
        rabbitmq.wait_until_settled(vhost)
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    assert [result.get(timeout=WAIT_S) for result in held] == ["done"] * 5
    assert node.stop() == 0
