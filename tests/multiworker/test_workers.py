"""Three workers on one broker: work is shared, one can be restarted or killed, remote control finds the right one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery.exceptions import TaskRevokedError
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from asyncworker.cli.embedded import EmbeddedServer
from tests.servers.client import wait_until_listening

GET_S = 120.0


def wait_until(reached: Callable[[], object], timeout_s: float = GET_S) -> None:
    give_up_at_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < give_up_at_s, "did not happen in time"
        time.sleep(0.05)


def running_on(setup: CeleryTestSetup) -> dict[str, set[str]]:
    """The ids of the tasks in flight, by node."""
    answers = setup.app.control.inspect(timeout=10, limit=len(setup.worker_cluster)).active() or {}
    return {node: {task["id"] for task in tasks} for node, tasks in answers.items()}


def test_work_is_shared_and_remote_control_reaches_all(celery_setup: CeleryTestSetup) -> None:
    nodes = {worker.hostname() for worker in celery_setup.worker_cluster}
    assert len(nodes) == 3
    wait_until_listening(celery_setup.app, *nodes)
    answers = celery_setup.app.control.ping(timeout=60, limit=len(nodes))
    assert {name for answer in answers for name in answer} == nodes
    # More than two of them take. Acknowledged late: of others each may reserve as many again as it runs.
    results = [celery_setup.app.tasks["t.sleep_late"].delay(600) for _ in range(25)]
    ids = {result.id for result in results}
    wait_until(lambda: set().union(*running_on(celery_setup).values()) == ids)
    running = running_on(celery_setup)
    assert sum(map(len, running.values())) == 25
    assert sum(bool(tasks) for tasks in running.values()) == 3
    # One is revoked, on whichever worker it runs; the others go on.
    results[7].revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        results[7].get(timeout=GET_S)
    wait_until(lambda: set().union(*running_on(celery_setup).values()) == ids - {results[7].id})
    for result in results:
        result.revoke(terminate=True)
    wait_until(lambda: not any(running_on(celery_setup).values()))


def test_a_rolling_restart_loses_nothing_and_runs_nothing_twice(
    celery_setup: CeleryTestSetup, valkey: EmbeddedServer, tmp_path: Path
) -> None:
    log, count = tmp_path / "log", 600
    t = celery_setup.app.tasks
    fan_out = t["t.item"].partial(pause_s=0.05, log=str(log)).options(concurrency=5)
    run = fan_out.iterate(number=range(count)).delay()
    wait_until(lambda: run.progress().done)
    late = []
    for worker in celery_setup.worker_cluster:
        late += [t["t.sleep_late"].delay(0.5) for _ in range(10)]
        worker.restart()
        assert worker.ready()
    assert run.get(timeout=GET_S)["done"] == count
    assert [result.get(timeout=GET_S) for result in late] == [0.5] * 30
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1
    with redis.Redis.from_url(valkey.redis_url) as broker:
        wait_until(lambda: not broker.llen("celery") and not broker.hlen("unacked"))


def test_what_a_killed_worker_had_is_done_by_the_others(
    celery_setup: CeleryTestSetup, valkey: EmbeddedServer, tmp_path: Path
) -> None:
    gate, gated = tmp_path / "gate", celery_setup.app.tasks["t.gated_late"]
    results = [gated.delay(str(tmp_path / "log"), str(gate)) for _ in range(24)]
    wait_until(lambda: set().union(*running_on(celery_setup).values()) == {result.id for result in results})
    running = running_on(celery_setup)
    victim: CeleryTestWorker = max(celery_setup.worker_cluster, key=lambda worker: len(running[worker.hostname()]))
    victim.kill()
    with redis.Redis.from_url(valkey.redis_url) as broker:
        for tag in broker.hkeys("unacked"):
            broker.zadd("unacked_index", {tag: 0})  # the visibility timeout has passed
    # Somebody has to look for what has passed it, as every worker does when it starts.
    victim.restart()
    gate.touch()
    assert [result.get(timeout=GET_S) for result in results] == ["done"] * 24
