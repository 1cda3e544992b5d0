"""The AMQP transport of our own: reads ahead, and acknowledges many messages in one write."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker.amqp_transport import MOST_A_TURN, READ_AHEAD_BYTES
from tests.integration import tasks
from tests.integration.rabbitmq import amqp_app
from tests.servers.client import client_app
from tests.servers.http import self_signed
from tests.servers.proxy import running_proxy
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.worker import Worker, running_worker

MODULE = tasks.__name__
WAIT_S = 120.0
OURS = os.environ.get("ASYNCWORKER_FAST_BROKER") != "0"


def test_messages_of_all_sizes(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str
) -> None:
    """Within, at, and beyond what is read at once, and more of them than one turn takes."""
    node = worker(MODULE, "-c", "500", "--without-mingle")
    assert ("amqp_transport" in node.log()) is OURS
    edges = [size + more for size in (READ_AHEAD_BYTES, 2 * READ_AHEAD_BYTES) for more in range(-600, 600, 60)]
    sizes = [0, 1, 200_000, *edges, 3_000_000, *range(3 * MOST_A_TURN)]
    results = [client.tasks["t.length"].delay("x" * size) for size in sizes]
    assert [result.get(timeout=WAIT_S) for result in results] == sizes
    rabbitmq.wait_until_settled(vhost)


def test_late_acknowledgements_arrive_while_the_worker_is_idle(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str
) -> None:
    worker(MODULE, "-c", "50", "--without-mingle")
    results = [client.tasks["t.sleep_late"].delay(0.1) for _ in range(120)]
    assert [result.get(timeout=WAIT_S) for result in results] == [0.1] * 120
    rabbitmq.wait_until_settled(vhost)


def test_an_early_acknowledgement_is_with_the_broker_before_its_task_begins(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    """A task that takes its worker down at its first step does not come again."""
    client.tasks["t.dies"].delay(str(tmp_path / "begun"))
    first = worker(MODULE, "-c", "50", "--without-mingle")
    first.wait(timeout_s=WAIT_S)
    rabbitmq.wait_until_settled(vhost)
    second = worker(MODULE, "-c", "50", "--without-mingle", name="second@test")
    assert client.tasks["t.add"].delay(1, 2).get(timeout=WAIT_S) == 3
    assert second.returncode is None
    assert (tmp_path / "begun").read_text() == "begun\n"


def test_cut_off_in_the_flow(
    worker: Callable[..., Worker], client: Celery[Any], rabbitmq: RabbitMQ, vhost: str
) -> None:
    """Connections are dropped while messages come and acknowledgements are collected: late ones are all run."""
    node = worker(MODULE, "-c", "100", "--without-mingle")
    results = []
    for _ in range(3):
        results += [client.tasks["t.sleep_late"].delay(0.2) for _ in range(200)]
        rabbitmq.drop_connections(vhost)
    assert [result.get(timeout=WAIT_S) for result in results] == [0.2] * 600
    rabbitmq.wait_until_settled(vhost)
    assert node.stop() == 0


@pytest.mark.promise("rabbitmq-all-queues-and-tls")
def test_behind_tls(rabbitmq: RabbitMQ, vhost: str, valkey: EmbeddedServer, tmp_path: Path) -> None:
    """The server that the tests have speaks no TLS; what stands before it speaks nothing else."""
    tls, certificate = self_signed(tmp_path)
    with running_proxy(rabbitmq.port, tls) as proxy:
        url = rabbitmq.broker_url(vhost).replace("amqp://", "amqps://").replace(str(rabbitmq.port), str(proxy.port))
        urls: Any = SimpleNamespace(broker_url=url, result_url=valkey.result_url)
        env = {
            "AMQP_CA": str(certificate),
            "CELERY_BROKER_URL": url,
            "CELERY_RESULT_BACKEND": valkey.result_url,
            "ASYNCWORKER_INCLUDE": MODULE,
            "ASYNCWORKER_STATE_DIR": str(tmp_path),
        }
        trusting = {"ca_certs": str(certificate), "cert_reqs": ssl.CERT_REQUIRED}
        with (
            running_worker(tmp_path, "-c", "50", "--without-mingle", app=amqp_app.__name__, env=env) as node,
            client_app(urls, broker_use_ssl=trusting, include=[MODULE]) as app,
        ):
            assert ("amqp_transport" in node.log()) is OURS
            sizes = [0, 100, 300_000, *range(2 * MOST_A_TURN)]
            results = [app.tasks["t.length"].delay("x" * size) for size in sizes]
            assert [result.get(timeout=WAIT_S) for result in results] == sizes
            rabbitmq.wait_until_settled(vhost)
            assert node.stop() == 0
            del results


@pytest.mark.promise("rabbitmq-all-queues-and-tls")
def test_quorum_queues(
    worker: Callable[..., Worker], worker_env: dict[str, str], rabbitmq: RabbitMQ, vhost: str, state_dir: Path
) -> None:
    """They have no limit for a whole channel, and delayed tasks wait in queues of the broker's own."""
    urls: Any = SimpleNamespace(
        broker_url=worker_env["ASYNCWORKER_BROKER_URL"], result_url=worker_env["ASYNCWORKER_RESULT_URL"]
    )
    options: dict[str, Any] = {"app": amqp_app.__name__, "env": {"AMQP_QUORUM": "1"}}
    with client_app(urls, asyncworker_state_dir=str(state_dir), include=[MODULE], **amqp_app.QUORUM) as app:
        node = worker(MODULE, "-c", "50", "--without-mingle", **options)
        listed = rabbitmq.ctl("list_queues", "-p", vhost, "--silent", "name", "type")
        assert ["celery", "quorum"] in [line.split() for line in listed.splitlines()]
        delayed = app.tasks["t.add"].apply_async((1, 2), countdown=3)
        results = [app.tasks["t.length"].delay("x" * size) for size in range(3 * MOST_A_TURN)]
        assert [result.get(timeout=WAIT_S) for result in results] == [*range(3 * MOST_A_TURN)]
        assert delayed.get(timeout=WAIT_S) == 3
        fan_out = app.tasks["t.item"].partial(base=1).iterate(number=range(100)).delay()
        assert fan_out.get(timeout=WAIT_S)["done"] == 100
        late = [app.tasks["t.sleep_late"].delay(2) for _ in range(120)]
        node.wait_for_log(f"[{late[0].id}] received")
        node.kill()
        worker(MODULE, "-c", "200", "--without-mingle", name="second@test", **options)
        assert [result.get(timeout=WAIT_S) for result in late] == [2] * 120
        rabbitmq.wait_until_settled(vhost)
        del delayed, fan_out, late, results
