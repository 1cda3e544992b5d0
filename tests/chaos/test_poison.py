"""A task that kills its worker is begun a few times, then kept aside; it can be looked at and sent again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import TooManyDeliveries, WorkerDied
from tests.integration import tasks
from tests.servers.command import asyncworker
from tests.servers.worker import Worker


def dead(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return asyncworker("dead", *arguments, env=env)


@pytest.mark.promise("deadly-task-is-given-up")
def test_it_is_given_up_shown_and_replayed(
    worker: Callable[..., Worker],
    client: Celery,
    valkey: EmbeddedServer,
    worker_env: dict[str, str],
    tmp_path: Path,
) -> None:
    env = {"ASYNCWORKER_MAX_DELIVERIES": "2"}
    antidote = tmp_path / "antidote"
    result = client.tasks["t.poison"].delay(str(antidote))
    for attempt in range(3):
        victim = worker(tasks.__name__, "--without-mingle", env=env, name=f"victim{attempt}@test", ready=False)
        victim.wait()
        with redis.Redis.from_url(valkey.redis_url) as broker:
            for tag in broker.hkeys("unacked"):
                broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    survivor = worker(tasks.__name__, "--without-mingle", env=env, name="survivor@test")
    with pytest.raises(TooManyDeliveries, match="was begun 2 times after its first delivery"):
        result.get(timeout=120)
    assert survivor.returncode is None

    assert result.id in dead(worker_env, "list").stdout
    shown = dead(worker_env, "show", result.id).stdout
    assert "t.poison" in shown
    assert "on victim1@test" in shown
    assert "on victim2@test" in shown

    antidote.touch()
    replayed = dead(worker_env, "replay", result.id)
    assert replayed.returncode == 0, replayed.stderr
    assert client.AsyncResult(result.id).get(timeout=120) == "survived"
    assert dead(worker_env, "list", "--json").stdout == ""
    assert "no dead task 'nobody'" in dead(worker_env, "show", "nobody").stderr


def test_an_innocent_task_that_is_delivered_again_leaves_no_trace(
    worker: Callable[..., Worker], client: Celery, valkey: EmbeddedServer, worker_env: dict[str, str]
) -> None:
    """Killed once by somebody else's fault; it ends on its second delivery, and may be begun again as often."""
    env = {"ASYNCWORKER_MAX_DELIVERIES": "1", "ASYNCWORKER_LEASE_S": "3"}
    for attempt in range(4):
        first = worker(tasks.__name__, "--without-mingle", env=env, name=f"first{attempt}@test")
        result = client.tasks["t.sleep_late"].apply_async((3,), task_id="the-same")
        first.wait_for_log("t.sleep_late[the-same] received")
        first.kill()
        first.wait()
        with redis.Redis.from_url(valkey.redis_url) as broker:
            for tag in broker.hkeys("unacked"):
                broker.zadd("unacked_index", {tag: 0})
        second = worker(tasks.__name__, "--without-mingle", env=env, name=f"second{attempt}@test")
        second.wait_for_log("t.sleep_late[the-same] succeeded")
        assert second.stop() == 0
        assert result.state == "SUCCESS"
        time.sleep(2 * 3 + 0.5)  # for two leases an end counts for all deliveries under that id
    assert dead(worker_env, "list", "--json").stdout == ""


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.promise("deadly-item-fails-alone")
def test_an_item_that_kills_its_worker_fails_and_the_rest_is_done(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path, partitions: int
) -> None:
    log, env = tmp_path / "log", {"ASYNCWORKER_LEASE_S": "3", "ASYNCWORKER_MAX_DELIVERIES": "2"}
    item = client.tasks["t.poison_item"].partial(poison=[137], log=str(log))
    result = item.options(concurrency=10, partitions=partitions).iterate(number=range(400)).delay()
    for attempt in (1, 2, 3):
        victim = worker(tasks.__name__, "--without-mingle", env=env, name=f"victim{attempt}@test", ready=False)
        victim.wait(120)
    survivor = worker(tasks.__name__, "--without-mingle", env=env, name="survivor@test")
    with pytest.raises(WorkerDied, match="the worker process died twice while running this item"):
        result.get(timeout=120)
    progress = result.progress()
    assert (progress.done, progress.failed, progress.complete) == (399, 1, True)
    assert [failure.index for failure in result.errors()] == [137]
    assert result.resume().progress().run_id == result.id
    with pytest.raises(WorkerDied):
        result.get(timeout=120)
    assert survivor.returncode is None
    assert log.read_text().split() == ["137"] * 3
