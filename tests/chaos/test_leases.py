"""Late-ack tasks that outlast the visibility timeout: run once while their worker lives, else taken over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redelivery import redeliver
from tests.servers.worker import Worker, pause_outside_transactions

MODULE = tasks.__name__
ENV = {"ASYNCWORKER_LEASE_S": "3"}


def on_rabbitmq(rabbitmq: RabbitMQ, valkey: EmbeddedServer) -> tuple[str, dict[str, str], Any]:
    """Make a virtual host; returns it, a worker's environment, and where a client finds both servers."""
    vhost = rabbitmq.add_vhost()
    url = rabbitmq.broker_url(vhost)
    urls = SimpleNamespace(broker_url=url, result_url=valkey.result_url)
    return vhost, ENV | {"ASYNCWORKER_BROKER_URL": url}, urls


def wait_until_it_waits_for_a_holder(client: Celery, node: Worker) -> None:
    """Wait until the one job of a worker waits for another process, which runs the same task or fan-out."""
    until = time.monotonic() + 120
    seen: list[Any] = []
    while "wait_for_holder: " not in str(seen):
        assert time.monotonic() < until, str(seen)
        seen = client.control.broadcast("coroutines", destination=[node.name], reply=True, timeout=10, limit=1)


@pytest.mark.parametrize("name", ["t.gated_late", "t.gated_late_sync"])
@pytest.mark.promise("late-ack-task-runs-once")
def test_a_long_task_that_is_delivered_again_is_run_once(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, tmp_path: Path, name: str
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(MODULE, "--without-mingle", env=ENV)
    result = client.tasks[name].delay(str(log), str(gate))
    first.wait_for_log(f"{name}[{result.id}] received")
    time.sleep(5)  # its lease is taken after three
    client.control.cancel_consumer("celery", destination=[first.name], reply=True, timeout=10, limit=1)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    second.wait_for_log(f"[{result.id}] received")
    time.sleep(5)  # its second delivery waits for longer than a lease lasts, too
    gate.touch()
    assert result.get(timeout=120) == "done"

    def logs() -> str:
        return first.log() + second.log()

    until = time.monotonic() + 120
    while "was finished by another delivery of it" not in logs():
        assert time.monotonic() < until, logs()
        time.sleep(0.05)
    assert log.read_text() == "begun\nended\n"
    with redis.Redis.from_url(valkey.redis_url) as broker:
        until = time.monotonic() + 120
        while broker.hlen("unacked") or broker.llen("celery"):
            assert time.monotonic() < until, "a delivery was not settled"
            time.sleep(0.05)


@pytest.mark.parametrize("ran_s", [0, 5], ids=["before its lease was taken", "with a lease"])
@pytest.mark.parametrize("finished", [False, True], ids=["while the other runs", "when the other has finished"])
@pytest.mark.promise("frozen-holder-changes-nothing")
def test_a_frozen_worker_is_taken_over_and_its_outcome_is_refused(
    worker: Callable[..., Worker],
    client: Celery,
    valkey: EmbeddedServer,
    tmp_path: Path,
    state_dir: Path,
    ran_s: float,
    finished: bool,
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(MODULE, "--without-mingle", env=ENV)
    link = client.tasks["t.logged_link"].si(str(log))
    result = client.tasks["t.gated_late"].apply_async((str(log), str(gate)), link=link)
    first.wait_for_log(f"[{result.id}] received")
    if ran_s:
        time.sleep(ran_s)
    else:
        wait_for_line(log, "begun")
    pause_outside_transactions(first, state_dir)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    if finished:
        gate.touch()
        second.wait_for_log(f"t.gated_late[{result.id}] succeeded")
        wait_for_line(log, "linked")
    elif ran_s:
        second.wait_for_log("taking it over")
    else:
        second.wait_for_log(f"[{result.id}] received")
        time.sleep(5)  # for the one that is frozen, a lease must have passed
    first.resume()
    if ran_s and not finished:
        first.wait_for_log("was taken over by another process; its outcome here is ignored")
    gate.touch()
    first.wait_for_log("was taken over by another process; its outcome here is ignored")
    assert result.get(timeout=120) == "done"
    second.wait_for_log(f"t.gated_late[{result.id}] succeeded")
    wait_for_line(log, "linked")
    assert first.stop() == 0
    assert log.read_text().count("linked") == 1
    assert f"t.gated_late[{result.id}] succeeded" not in first.log()


def test_the_progress_of_a_frozen_worker_does_not_replace_the_outcome_of_its_successor(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, tmp_path: Path, state_dir: Path
) -> None:
    gate = tmp_path / "gate"
    first = worker(MODULE, "--without-mingle", env=ENV)
    fan_out = client.tasks["t.slow_or_picky"].partial(gate=str(gate), pause_s=0.05).options(concurrency=20)
    result = fan_out.iterate(number=range(100_000)).delay()
    wait_for_state(client, result.id, "PROGRESS")
    pause_outside_transactions(first, state_dir)
    redeliver(valkey)
    gate.touch()
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    second.wait_for_log("taking it over")
    wait_for_state(client, result.id, "FAILURE")
    gate.unlink()  # so that the first has something to tell before it learns that it has lost the run
    first.resume()
    first.wait_for_log("its outcome is reported there")
    assert first.stop() == 0  # whatever it had to store is stored
    assert client.AsyncResult(result.id).state == "FAILURE"


def wait_for_state(client: Celery, task_id: str, state: str) -> None:
    """Wait until a task's result has that state."""
    until = time.monotonic() + 120
    while (found := client.backend.get_state(task_id)) != state:
        assert time.monotonic() < until, found
        time.sleep(0.05)


def wait_for_line(log: Path, line: str) -> None:
    """Wait until a task has written that."""
    until = time.monotonic() + 120
    while not log.exists() or line not in log.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_delivery_that_has_lost_its_lease_goes_back_to_rabbitmq(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path, state_dir: Path
) -> None:
    """The holder has lost its connection, and with it its delivery: the other one is all that the broker has."""
    log, gate, (vhost, env, urls) = tmp_path / "log", tmp_path / "gate", on_rabbitmq(rabbitmq, valkey)
    first = worker(MODULE, "--without-mingle", env=env)
    with client_app(urls) as app:
        result = app.tasks["t.gated_late"].delay(str(log), str(gate))
        first.wait_for_log(f"[{result.id}] received")
        second = worker(MODULE, "--without-mingle", env=env, name="second@test")
        pause_outside_transactions(first, state_dir)
        rabbitmq.drop_connections(vhost)
        second.wait_for_log(f"[{result.id}] received")
        first.resume()
        gate.touch()
        assert result.get(timeout=120) == "done"
    # The second has begun it before the first could take its lease, and gives way; on a very busy machine, or waits.
    rabbitmq.wait_until_settled(vhost)


def test_a_fan_out_that_is_done_is_not_begun_anew_by_its_first_delivery(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path, state_dir: Path
) -> None:
    """A frozen worker has the message, and does not know that it has lost it: by its own account nobody else has it."""
    log, (vhost, env, urls) = tmp_path / "log", on_rabbitmq(rabbitmq, valkey)
    first = worker(MODULE, "--without-mingle", env=env)
    pause_outside_transactions(first, state_dir)
    with client_app(urls) as app:
        result = app.tasks["t.item"].partial(log=str(log)).iterate(number=range(100)).delay()
        rabbitmq.wait_until_delivered(vhost)  # to the only one who takes it
        rabbitmq.drop_connections(vhost)
        second = worker(MODULE, "--without-mingle", env=env, name="second@test")
        assert result.get(timeout=120)["done"] == 100
    first.resume()
    first.wait_for_log(f"[{result.id}] received")
    rabbitmq.wait_until_settled(vhost)
    assert f"[{result.id}] received" in second.log()
    assert sorted(map(int, log.read_text().split())) == list(range(100))


@pytest.mark.parametrize("kind", ["task", "fan-out"])
def test_a_process_that_was_frozen_does_not_take_over_from_itself(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path, kind: str
) -> None:
    """Both deliveries are with it: that the holder was silent says nothing, for it was away as well."""
    log, gate, (vhost, env, urls) = tmp_path / "log", tmp_path / "gate", on_rabbitmq(rabbitmq, valkey)
    node = worker(MODULE, "--without-mingle", env=env)
    with client_app(urls) as app:
        if kind == "task":
            result = app.tasks["t.gated_late"].delay(str(log), str(gate))
        else:
            item = app.tasks["t.gated_logged"].partial(log=str(log), gate=str(gate)).options(concurrency=5)
            result = item.iterate(number=range(250)).delay()
        node.wait_for_log(f"[{result.id}] received")
        time.sleep(5)  # a task's lease is taken after three
        rabbitmq.drop_connections(vhost)
        node.wait_for_log(f"[{result.id}] is delivered again to this process")
        for _ in range(3):
            time.sleep(1)
            node.pause()
            time.sleep(4)
            node.resume()
        gate.touch()
        result.get(timeout=120)
    assert "taking it over" not in node.log()
    lines = log.read_text().split()
    assert sorted(lines) == (["begun", "ended"] if kind == "task" else sorted(map(str, range(250))))


@pytest.mark.parametrize("kind", ["task", "fan-out"])
def test_a_delivery_that_waits_for_its_holder_does_not_hold_up_the_end_of_its_worker(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, tmp_path: Path, state_dir: Path, kind: str
) -> None:
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env=ENV)
    if kind == "task":
        result = client.tasks["t.logged_late"].delay(str(log), 600)
    else:
        result = client.tasks["t.sleep"].partial().iterate(seconds=[600]).delay()
    first.wait_for_log(f"[{result.id}] received")
    time.sleep(5)  # a task's lease is taken after three
    pause_outside_transactions(first, state_dir)  # so that the other one gets it
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV | {"ASYNCWORKER_LEASE_S": "600"}, name="second@test")
    wait_until_it_waits_for_a_holder(client, second)
    first.resume()
    assert second.stop() == 0
    second.wait_for_log("goes back to the queue" if kind == "task" else "waits for that no more")
    with redis.Redis.from_url(valkey.redis_url) as broker:
        assert broker.llen("celery") + broker.hlen("unacked") >= 1
    first.kill()


def test_a_task_that_was_cut_by_a_cold_shutdown_is_run_by_the_next_worker_at_once(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(MODULE, "--without-mingle", env=ENV)
    result = client.tasks["t.gated_late"].delay(str(log), str(gate))
    first.wait_for_log(f"[{result.id}] received")
    time.sleep(5)
    first.signal(signal.SIGQUIT)
    first.wait(120)
    gate.touch()
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    assert result.get(timeout=120) == "done"
    assert "taking it over" not in second.log()
