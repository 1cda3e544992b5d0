"""Late-ack tasks that outlast the visibility timeout: run once while their worker lives, else taken over."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
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
from tests.servers.worker import Worker

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
    until = time.monotonic() + 30
    seen: list[Any] = []
    while "wait_for_holder: " not in str(seen):
        assert time.monotonic() < until, str(seen)
        seen = client.control.broadcast("coroutines", destination=[node.name], reply=True, timeout=5, limit=1)


@pytest.mark.parametrize("name", ["t.logged_late", "t.logged_late_sync"])
@pytest.mark.promise("late-ack-task-runs-once")
def test_a_long_task_that_is_delivered_again_is_run_once(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, tmp_path: Path, name: str
) -> None:
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env=ENV)
    # Its second delivery waits for longer than a lease lasts, too.
    result = client.tasks[name].delay(str(log), 12)
    first.wait_for_log(f"{name}[{result.id}] received")
    time.sleep(5)  # its lease is taken after three
    client.control.cancel_consumer("celery", destination=[first.name], reply=True, timeout=30, limit=1)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    assert result.get(timeout=60) == 12

    def logs() -> str:
        return first.log() + second.log()

    until = time.monotonic() + 30
    while "was finished by another delivery of it" not in logs():
        assert time.monotonic() < until, logs()
        time.sleep(0.05)
    assert log.read_text() == "begun\nended\n"
    with redis.Redis.from_url(valkey.redis_url) as broker:
        until = time.monotonic() + 10
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
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env=ENV)
    result = client.tasks["t.logged_late"].apply_async((str(log), 12), link=client.tasks["t.logged_link"].si(str(log)))
    first.wait_for_log(f"[{result.id}] received")
    if ran_s:
        time.sleep(ran_s)
    else:
        wait_for_line(log, "begun")
    pause_outside_transactions(first, state_dir)
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    if finished:
        second.wait_for_log(f"t.logged_late[{result.id}] succeeded", 60)
        wait_for_line(log, "linked")
    elif ran_s:
        second.wait_for_log("taking it over")
    else:
        second.wait_for_log(f"[{result.id}] received")
        time.sleep(5)  # for the one that is frozen, a lease must have passed
    first.resume()
    first.wait_for_log("was taken over by another process; its outcome here is ignored", 60)
    assert result.get(timeout=60) == 12
    second.wait_for_log(f"t.logged_late[{result.id}] succeeded")
    wait_for_line(log, "linked")
    assert first.stop() == 0
    assert log.read_text().count("linked") == 1
    assert f"t.logged_late[{result.id}] succeeded" not in first.log()


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
    until = time.monotonic() + 90
    while (found := client.backend.get_state(task_id)) != state:
        assert time.monotonic() < until, found
        time.sleep(0.05)


def pause_outside_transactions(node: Worker, state_dir: Path) -> None:
    """Freeze a worker while it cannot hold SQLite's write lock, which it would keep from all others."""
    for file in state_dir.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            node.pause()
            connection.execute("ROLLBACK")
            return
    node.pause()


def wait_for_line(log: Path, line: str) -> None:
    """Wait until a task has written that."""
    until = time.monotonic() + 60
    while not log.exists() or line not in log.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_delivery_that_has_lost_its_lease_goes_back_to_rabbitmq(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """The holder has lost its connection, and with it its delivery: the other one is all that the broker has."""
    log, (vhost, env, urls) = tmp_path / "log", on_rabbitmq(rabbitmq, valkey)
    first = worker(MODULE, "--without-mingle", env=env)
    with client_app(urls) as app:
        result = app.tasks["t.logged_late"].delay(str(log), 20)
        first.wait_for_log(f"[{result.id}] received")
        second = worker(MODULE, "--without-mingle", env=env, name="second@test")
        first.pause()
        rabbitmq.drop_connections(vhost)
        second.wait_for_log(f"[{result.id}] received")
        first.resume()
        assert result.get(timeout=60) == 20
    # The second has begun it before the first could take its lease, and gives way; on a very busy machine, or waits.
    rabbitmq.wait_until_settled(vhost, 30)


def test_a_fan_out_that_is_done_is_not_begun_anew_by_its_first_delivery(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """A frozen worker has the message, and does not know that it has lost it: by its own account nobody else has it."""
    log, (vhost, env, urls) = tmp_path / "log", on_rabbitmq(rabbitmq, valkey)
    first = worker(MODULE, "--without-mingle", env=env)
    first.pause()
    with client_app(urls) as app:
        result = app.tasks["t.item"].partial(log=str(log)).iterate(number=range(100)).delay()
        time.sleep(1)  # until it is on its way to the only one who takes it
        rabbitmq.drop_connections(vhost)
        second = worker(MODULE, "--without-mingle", env=env, name="second@test")
        assert result.get(timeout=60)["done"] == 100
    first.resume()
    first.wait_for_log(f"[{result.id}] received")
    rabbitmq.wait_until_settled(vhost, 30)
    assert f"[{result.id}] received" in second.log()
    assert sorted(map(int, log.read_text().split())) == list(range(100))


@pytest.mark.parametrize("kind", ["task", "fan-out"])
def test_a_process_that_was_frozen_does_not_take_over_from_itself(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path, kind: str
) -> None:
    """Both deliveries are with it: that the holder was silent says nothing, for it was away as well."""
    log, (vhost, env, urls) = tmp_path / "log", on_rabbitmq(rabbitmq, valkey)
    node = worker(MODULE, "--without-mingle", env=env)
    with client_app(urls) as app:
        if kind == "task":
            result = app.tasks["t.logged_late"].delay(str(log), 20)
        else:
            item = app.tasks["t.item"].partial(log=str(log), pause_s=0.5).options(concurrency=5)
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
        result.get(timeout=90)
    assert "taking it over" not in node.log()
    lines = log.read_text().split()
    assert sorted(lines) == (["begun", "ended"] if kind == "task" else sorted(map(str, range(250))))


@pytest.mark.parametrize("kind", ["task", "fan-out"])
def test_a_delivery_that_waits_for_its_holder_does_not_hold_up_the_end_of_its_worker(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, tmp_path: Path, kind: str
) -> None:
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env=ENV)
    if kind == "task":
        result = client.tasks["t.logged_late"].delay(str(log), 600)
    else:
        result = client.tasks["t.sleep"].partial().iterate(seconds=[600]).delay()
    first.wait_for_log(f"[{result.id}] received")
    time.sleep(5)  # a task's lease is taken after three
    first.pause()  # so that the other one gets it
    redeliver(valkey)
    second = worker(MODULE, "--without-mingle", env=ENV | {"ASYNCWORKER_LEASE_S": "600"}, name="second@test")
    wait_until_it_waits_for_a_holder(client, second)
    first.resume()
    assert second.stop(30) == 0
    second.wait_for_log("goes back to the queue" if kind == "task" else "waits for that no more")
    with redis.Redis.from_url(valkey.redis_url) as broker:
        assert broker.llen("celery") + broker.hlen("unacked") >= 1
    first.kill()


def test_a_task_that_was_cut_by_a_cold_shutdown_is_run_by_the_next_worker_at_once(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env=ENV)
    result = client.tasks["t.logged_late"].delay(str(log), 16)
    first.wait_for_log(f"[{result.id}] received")
    time.sleep(5)
    first.signal(signal.SIGQUIT)
    first.wait(30)
    second = worker(MODULE, "--without-mingle", env=ENV, name="second@test")
    assert result.get(timeout=60) == 16
    assert "taking it over" not in second.log()
