"""The metrics of a real worker: what ran is what arrives, and a host without a name holds up nothing."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from asyncworker.metrics.names import full_names
from tests.integration import tasks
from tests.servers.ports import free_port
from tests.servers.statsd import running_statsd
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


def test_what_ran_is_what_arrives(client: Celery[Any], worker: Callable[..., Worker], tmp_path: Path) -> None:
    page_port = free_port()
    with running_statsd() as statsd:
        running = worker(
            MODULE,
            "-c",
            "5",
            env={
                "ASYNCWORKER_STATSD": f"127.0.0.1:{statsd.port}",
                "ASYNCWORKER_STATSD_PREFIX": "{node}.aw",
                "ASYNCWORKER_PROMETHEUS_PORT": str(page_port),
            },
        )
        gate = tmp_path / "gate"
        waiting = client.tasks["t.gated"].delay(10, str(gate))
        later = client.tasks["t.add"].apply_async((1, 1), countdown=3600)
        at = "worker_test.aw."
        statsd.wait_until(
            lambda: (
                statsd.gauges.get(f"{at}executor.running_tasks") == 1
                and statsd.gauges.get(f"{at}executor.open_slots") == 4
                and statsd.gauges.get(f"{at}ti.scheduled") == 1
            )
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{page_port}/metrics", timeout=GET_S) as answer:
            text = answer.read().decode()
        assert "asyncworker_executor_open_slots 4.0" in text
        assert 'asyncworker_ti_start_total{task="t.gated"} 1.0' in text

        gate.touch()
        waiting.get(timeout=GET_S)
        for result in [client.tasks["t.add"].delay(1, n) for n in range(20)]:
            result.get(timeout=GET_S)
        client.tasks["t.fail"].delay().get(timeout=GET_S, propagate=False)
        run = client.tasks["t.picky"].partial().options(concurrency=10).iterate(number=range(50)).delay()
        run.get(timeout=GET_S, propagate=False)
        later.revoke()
        assert running.stop() == 0  # sends what is left

        sums = statsd.counters
        expected = {
            "ti.finish.t_add.success": 20,
            "ti.start.t_add": 20,
            "task.duration.count.t_add": 20,
            "ti.finish.t_fail.other": 1,
            "items.done.t_picky": 45,
            "items.failed.t_picky": 5,
            "item.duration.count.t_picky": 50,
        }
        # The last datagrams may not have been read yet.
        statsd.wait_until(lambda: {name: sums[at + name] for name in expected} == expected)
        assert sums[f"{at}checkpoint.flushes"] > 0
        # Nothing is sent that the table does not know.
        known = full_names()
        for sent in [*sums, *statsd.gauges]:
            name = sent.removeprefix(at)
            assert any(name == each or name.startswith(f"{each}.") for each in known), sent


def page(port: int) -> dict[str, float]:
    """Return what the page shows; nothing where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=GET_S) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def page_once(port: int, condition: Callable[[dict[str, float]], object], node: Worker) -> dict[str, float]:
    give_up_at_s = time.monotonic() + 2 * GET_S
    while not condition(shown := page(port)):
        assert time.monotonic() < give_up_at_s, f"{shown}\n{node.log()}"
        time.sleep(0.05)
    return shown


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, client: Celery[Any]) -> str:
    if request.param == "redis":
        return str(client.conf.broker_url)
    server = request.getfixturevalue("rabbitmq")
    return str(server.broker_url(server.add_vhost()))


def test_the_length_of_each_queue_is_shown_and_what_was_given_up(
    broker: str, worker: Callable[..., Worker], worker_env: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with Celery(broker=broker, set_as_current=False) as sender:
        sender.conf.task_queues = [Queue("celery"), Queue("slow")]
        gate = tmp_path / "gate"
        for _ in range(12):
            sender.send_task("t.gated", (10, str(gate)), queue="slow")
        node = worker(
            MODULE,
            *("-c", "1", "--prefetch-multiplier", "1", "-Q", "slow,celery"),
            env={"ASYNCWORKER_BROKER_URL": broker, "ASYNCWORKER_PROMETHEUS_PORT": str(port)},
        )
        waiting = 'asyncworker_queue_messages{queue="slow"}'
        shown = page_once(port, lambda shown: 0 < shown.get(waiting, 0) < 12, node)
        assert shown['asyncworker_queue_messages{queue="celery"}'] == 0
        assert 0 < shown["asyncworker_process_started_at"] <= time.time()
        assert shown["asyncworker_dead_letters_total"] == 0
        gate.touch()
        page_once(port, lambda shown: shown.get(waiting) == 0, node)
        sender.send_task("t.nowhere", queue="slow")
        page_once(port, lambda shown: shown.get("asyncworker_dead_letters_total") == 1, node)
        assert node.stop() == 0


@pytest.mark.promise("statsd-away-costs-nothing")
def test_a_host_without_a_name_holds_up_nothing(client: Celery[Any], worker: Callable[..., Worker]) -> None:
    running = worker(MODULE, env={"ASYNCWORKER_STATSD": "statsd.invalid:8125"})
    results = [client.tasks["t.add"].delay(1, n) for n in range(20)]
    assert [result.get(timeout=GET_S) for result in results] == [1 + n for n in range(20)]
    running.wait_for_log("statsd at statsd.invalid:8125 cannot be reached, metrics wait")
    assert running.stop() == 0
