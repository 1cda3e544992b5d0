"""Long literal sources through a real broker: the message is short, and a killed run still gets its source."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain

from asyncworker import AsyncTask
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import PayloadError, RunCancelled
from tests.integration import tasks
from tests.servers.worker import Worker

GET_S = 120.0
MODULE = tasks.__name__


def messages(valkey: EmbeddedServer) -> list[bytes]:
    with redis.Redis.from_url(valkey.redis_url) as broker:
        return broker.lrange("celery", 0, -1)  # type: ignore[return-value]


@pytest.mark.parametrize("scheme", ["", "local://"])
@pytest.mark.promise("long-source-travels-aside")
def test_a_hundred_thousand_paths_make_a_short_message(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path, scheme: str
) -> None:
    paths = [f"/in/2030-01-01/order-{number:06}.xml" for number in range(100_000)]
    url = f"{scheme}{tmp_path / 'shared'}"
    client.conf.asyncworker_payload_url = url
    result = client.tasks["t.length"].partial().options(results="none").iterate(text=paths).delay()
    (message,) = messages(valkey)
    assert len(message) < 4000
    worker(MODULE, "--without-mingle", env={"ASYNCWORKER_PAYLOAD_URL": url})
    assert result.get(timeout=GET_S)["done"] == 100_000


def test_partitions_read_their_part_of_it(worker: Callable[..., Worker], client: Celery[AsyncTask]) -> None:
    worker(MODULE, "--without-mingle")
    items = client.tasks["t.item"].partial().options(partitions=3, results="inline")
    client.conf.asyncworker_payload_over_bytes = 1000
    assert items.iterate(number=list(range(5000))).delay().get(timeout=GET_S) == [2 * n for n in range(5000)]


def test_a_chain_carries_it_shortly_too(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer
) -> None:
    fan_out = client.tasks["t.length"].partial().options(results="inline").iterate(text=["x" * 1000] * 1000)
    fan_out.set(immutable=True)
    result = chain(client.tasks["t.total"].s([1, 2]), fan_out, app=client).delay()
    assert all(len(message) < 4000 for message in messages(valkey))
    worker(MODULE, "--without-mingle")
    assert result.get(timeout=GET_S) == [1000] * 1000


@pytest.mark.promise("calls-block-no-loop")
async def test_sending_from_a_coroutine_blocks_no_loop(client: Celery[AsyncTask], valkey: EmbeddedServer) -> None:
    # The detector of blocked loops is on in every test.
    await client.tasks["t.length"].iterate(text=["x" * 1000] * 1000).adelay()
    assert all(len(message) < 4000 for message in messages(valkey))


def test_killed_redelivered_cancelled_and_resumed(
    worker: Callable[..., Worker], client: Celery[AsyncTask], valkey: EmbeddedServer, tmp_path: Path
) -> None:
    count = 4000
    client.conf.asyncworker_payload_over_bytes = 1000
    log = tmp_path / "log"
    first = worker(MODULE, "--without-mingle", env={"ASYNCWORKER_LEASE_S": "3"})
    fan_out = client.tasks["t.item"].partial(pause_s=0.1, log=str(log)).options(concurrency=50)
    result = fan_out.iterate(number=list(range(count))).delay()
    while not result.progress().done:
        time.sleep(0.02)
    first.kill()
    first.wait()
    with redis.Redis.from_url(valkey.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    held = result.progress().done
    worker(MODULE, "--without-mingle", name="second@test", env={"ASYNCWORKER_LEASE_S": "3"})
    while result.progress().done <= held:
        time.sleep(0.02)
    result.cancel()
    with pytest.raises(RunCancelled):
        result.get(timeout=GET_S)
    stopped = result.progress()
    assert held < stopped.done < count
    assert result.resume().get(timeout=GET_S)["resumed"] == stopped.done
    assert result.results() == [2 * number for number in range(count)]
    assert len(Counter(log.read_text().split())) == count


def test_a_worker_that_cannot_reach_it_says_where_it_looked(
    worker: Callable[..., Worker], client: Celery[AsyncTask], tmp_path: Path
) -> None:
    client.conf.asyncworker_payload_url = str(tmp_path / "mine")
    worker(MODULE, "--without-mingle", env={"ASYNCWORKER_PAYLOAD_URL": str(tmp_path / "its")})
    result: Any = client.tasks["t.length"].iterate(text=["x" * 1000] * 1000).delay()
    with pytest.raises(PayloadError) as caught:
        result.get(timeout=GET_S)
    assert str(tmp_path / "its") in str(caught.value)
    assert "set ASYNCWORKER_PAYLOAD_URL alike" in str(caught.value)
    assert result.progress().state == "failed"
