"""Fan-outs whose worker dies, whose message comes twice, that are very long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import redis
from celery import Celery

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from tests.integration import tasks
from tests.servers.worker import Worker

GET_S = 60.0
MODULE = tasks.__name__


def test_kill_and_redelivery_run_only_what_is_left(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    """The worker dies by SIGKILL; the message comes again; the run goes on where its checkpoint stands."""
    count, concurrency = 3000, 20
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle")
    fan_out = client.tasks["t.item"].partial(pause_s=0.01, log=str(log)).options(concurrency=concurrency)
    result = fan_out.iterate(number=range(count)).delay()
    while result.progress().done < count / 3:
        time.sleep(0.02)
    first.kill()
    first.wait()
    held = result.progress().done
    with redis.Redis.from_url(valkey.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    worker(MODULE, "--without-mingle", name="second@test")
    assert result.get(timeout=GET_S)["resumed"] == held
    assert result.results() == [2 * n for n in range(count)]
    runs = Counter(log.read_text().split())
    assert len(runs) == count
    # What was finished in the flush window before the kill, and what was in flight.
    assert sum(runs.values()) <= count + concurrency + 0.25 / 0.01 * concurrency * 2
    assert held < count


def test_a_finished_run_that_is_delivered_again_runs_nothing(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    worker(MODULE, "--without-mingle")
    result = client.tasks["t.item"].partial(log=str(log)).iterate(number=range(10)).delay()
    first = result.get(timeout=GET_S)
    again = result.resume().get(timeout=GET_S)
    assert again["done"] == first["done"] == 10
    assert len(log.read_text().split()) == 10


def test_memory_is_flat_over_a_long_source(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    node = worker(MODULE, "--without-mingle")
    process = psutil.Process(node.pid)
    items = client.tasks["t.item"].partial().options(results="none")
    items.iterate(number=client.tasks["t.numbers"].s(20_000)).delay().get(timeout=GET_S)
    before_bytes = process.memory_info().rss
    result = items.iterate(number=client.tasks["t.numbers"].s(100_000)).delay()
    assert result.get(timeout=GET_S)["done"] == 100_000
    assert process.memory_info().rss - before_bytes < 20_000_000
