"""A message that is held for longer than the broker's patience: its task runs once all the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.client import client_app
from tests.servers.proxy import Proxy, running_proxy
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redelivery import redeliver
from tests.servers.valkey import running_valkey
from tests.servers.worker import Worker

MODULE = tasks.__name__
APP = "tests.integration.impatient_app"
#: A heartbeat a second: what is held is renewed with it.
ENV = {"ASYNCWORKER_LEASE_S": "10"}


def wait_until_settled(valkey: EmbeddedServer, *nodes: Worker) -> None:
    until = time.monotonic() + 120
    with redis.Redis.from_url(valkey.redis_url) as broker:
        while broker.hlen("unacked") or broker.llen("celery"):
            assert time.monotonic() < until, "\n".join(node.log() for node in nodes)
            time.sleep(0.05)


@pytest.mark.skipif("os.environ.get('ASYNCWORKER_TESTS_FAST') == '0'", reason="kombu's own transport")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["t.logged_late", "t.logged_link"])
@pytest.mark.promise("long-eta-runs-once")
def test_an_eta_beyond_the_visibility_timeout_runs_once(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, name: str, workers: int
) -> None:
    """Acknowledged late or early; others look for messages that have waited for too long."""
    folder = tmp_path / "logs"
    folder.mkdir()
    nodes = [worker(MODULE, "--without-mingle", app=APP, env=ENV, name=f"{n}@test") for n in range(workers)]
    results = []
    for number in range(3):
        args = (str(folder / str(number)), 0) if name == "t.logged_late" else (str(folder / str(number)),)
        results.append(client.tasks[name].apply_async(args, countdown=13))
    for result in results:
        result.get(timeout=90)
    wait_until_settled(valkey, *nodes)
    word = "begun" if name == "t.logged_late" else "linked"
    assert [path.read_text().count(word) for path in sorted(folder.iterdir())] == [1, 1, 1]
    assert sum(node.log().count("] received") for node in nodes) == 3


@pytest.mark.parametrize("fast", ["0", "1"], ids=["kombu's transport", "own transport"])
@pytest.mark.parametrize("kind", ["eta", "running", "fan-out"])
@pytest.mark.promise("copy-is-not-run")
def test_a_copy_of_what_a_process_holds_is_not_run(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path, fast: str, kind: str
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    node = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_FAST_BROKER": fast})
    if kind == "fan-out":
        item = client.tasks["t.gated_logged"].partial(log=str(log), gate=str(gate)).options(concurrency=1)
        result: Any = item.iterate(number=range(20)).delay()
    else:
        countdown = 20 if kind == "eta" else None
        result = client.tasks["t.gated_late"].apply_async((str(log), str(gate)), countdown=countdown)
    node.wait_for_log(f"[{result.id}] received")
    redeliver(valkey)
    node.wait_for_log(f"[{result.id}] is delivered again to this process")
    gate.touch()
    result.get(timeout=120)
    wait_until_settled(valkey, node)
    assert node.log().count("] received") == 1
    lines = log.read_text().split()
    assert sorted(lines) == (sorted(map(str, range(20))) if kind == "fan-out" else ["begun", "ended"])


@pytest.mark.parametrize("kind", ["eta", "running"])
def test_a_copy_that_comes_with_a_new_connection_is_acknowledged_when_the_task_is_done(
    worker: Callable[..., Worker], rabbitmq: RabbitMQ, valkey: EmbeddedServer, tmp_path: Path, kind: str
) -> None:
    """The first delivery cannot be acknowledged any more: the copy is all that RabbitMQ has of the task."""
    log, gate, vhost = tmp_path / "log", tmp_path / "gate", rabbitmq.add_vhost()
    url = rabbitmq.broker_url(vhost)
    node = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_BROKER_URL": url})
    with client_app(SimpleNamespace(broker_url=url, result_url=valkey.result_url)) as app:
        countdown = 15 if kind == "eta" else None
        result = app.tasks["t.gated_late"].apply_async((str(log), str(gate)), countdown=countdown)
        node.wait_for_log(f"[{result.id}] received")
        rabbitmq.drop_connections(vhost)
        if kind == "running":  # Celery forgets an eta with its connection: the copy is received anew
            node.wait_for_log(f"[{result.id}] is delivered again to this process")
        gate.touch()
        result.get(timeout=90)
    rabbitmq.wait_until_settled(vhost, 60)
    assert log.read_text().split() == ["begun", "ended"]


def test_a_task_that_gave_its_message_back_is_run_again(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer
) -> None:
    node = worker(MODULE, "--without-mingle")
    assert client.tasks["t.reject_once"].delay(0.5).get(timeout=120) == "second time"
    wait_until_settled(valkey, node)


def test_what_waited_for_its_turn_runs_after_a_new_connection(
    worker: Callable[..., Worker], client: Celery[Any], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """Celery forgets it with the connection: what comes again is no copy of what this process has."""
    node = worker(MODULE, "-c", "2", "--prefetch-multiplier", "10", "--without-mingle")
    gate = tmp_path / "gate"
    long = [client.tasks["t.gated_late"].delay(str(tmp_path / f"log{n}"), str(gate)) for n in range(2)]
    others = [client.tasks["t.add"].delay(number, 1) for number in range(15)]
    node.wait_for_log(f"[{others[-1].id}] received")
    with redis.Redis.from_url(valkey.redis_url) as broker:
        broker.client_kill_filter(_type="normal", skipme=True)
    node.wait_for_log("onnection to broker lost")
    gate.touch()
    assert [result.get(timeout=120) for result in others] == list(range(1, 16)), node.log()
    assert all(result.get(timeout=120) is not None for result in long)
    wait_until_settled(valkey, node)


@contextlib.contextmanager
def broker_behind_proxy(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Proxy, Any]]:
    """Give a broker's URL through a proxy, the proxy, and what waits until all of its messages are settled."""
    if kind == "rabbitmq":
        rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
        vhost = rabbitmq.add_vhost()
        with running_proxy(rabbitmq.port) as proxy:
            url = rabbitmq.broker_url(vhost).replace(str(rabbitmq.port), str(proxy.port))
            yield url, proxy, lambda: rabbitmq.wait_until_settled(vhost, 60)
        return
    with running_valkey(folder) as server, running_proxy(server.port) as proxy, server.connect() as broker:

        def wait() -> None:
            until = time.monotonic() + 120
            while broker.hlen("unacked") or broker.llen("celery"):
                assert time.monotonic() < until
                time.sleep(0.05)

        yield server.url(port=proxy.port), proxy, wait


@pytest.mark.parametrize("kind", ["redis", "kombu's redis", "rabbitmq"])
@pytest.mark.parametrize("name", ["t.gated_late", "t.gated_late_sync"])
def test_what_ended_while_the_broker_was_away_is_not_run_again(
    worker: Callable[..., Worker],
    valkey: EmbeddedServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    name: str,
) -> None:
    """Its message could not be acknowledged, and comes again when nobody runs it any more."""
    logs, gate = [tmp_path / f"log{number}" for number in range(3)], tmp_path / "gate"
    with broker_behind_proxy(kind, request, tmp_path / "server") as (url, proxy, wait_until_settled):
        env = {"ASYNCWORKER_BROKER_URL": url, "ASYNCWORKER_FAST_BROKER": "0" if kind == "kombu's redis" else "1"}
        node = worker(MODULE, "--without-mingle", "-c", "3", env=env)
        with client_app(SimpleNamespace(broker_url=url, result_url=valkey.result_url)) as app:
            results = [app.tasks[name].delay(str(log), str(gate)) for log in logs]
            until = time.monotonic() + 120
            while not all(log.exists() for log in logs):
                assert time.monotonic() < until, node.log()
                time.sleep(0.02)
            proxy.partition()
            until = time.monotonic() + 120
            while "onnection to broker lost" not in node.log():
                assert time.monotonic() < until, node.log()
                proxy.cut()  # once more, where kombu has just connected anew: it would wait for an answer for ever
                time.sleep(0.1)
            gate.touch()
            assert [result.get(timeout=120) for result in results] == ["done"] * 3
            proxy.heal()
            wait_until_settled()
            # It has found its way back.
            assert app.tasks["t.add"].delay(1, 2).get(timeout=120) == 3
    assert [log.read_text().split() for log in logs] == [["begun", "ended"]] * 3, node.log()
