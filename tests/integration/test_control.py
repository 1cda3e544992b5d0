"""Looking into a running worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import Celery

from tests.integration import tasks
from tests.servers.client import wait_until_listening
from tests.servers.worker import ROOT, Worker


def test_inspect_coroutines_shows_where_each_task_waits(
    worker: Callable[..., Worker], client: Celery, worker_env: dict[str, str], tmp_path: Path
) -> None:
    node = worker(tasks.__name__, "--without-mingle")
    waiting = client.tasks["t.sleep"].delay(60)
    enough = tmp_path / "enough"
    threaded = client.tasks["t.thread_until"].delay(str(enough))
    node.wait_for_log(f"t.thread_until[{threaded.id}] received")
    command = ["-A", "asyncworker", "inspect", "--timeout", "5", "--json", "coroutines"]
    give_up_at_s = time.monotonic() + 120
    while True:
        ended = subprocess.run(
            [sys.executable, "-m", "celery", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), **worker_env},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert time.monotonic() < give_up_at_s, ended
        if ended.returncode == 0:  # else nobody has answered in time
            seen = json.loads(ended.stdout)[node.name]
            if all(job["stack"] for job in seen["jobs"]):
                break
    jobs = {job["id"]: job for job in seen["jobs"]}
    assert seen["in-flight"] == 2
    assert jobs[waiting.id]["task"] == "t.sleep"
    assert jobs[waiting.id]["on"] == "loop"
    assert any("in sleep: await asyncio.sleep(seconds)" in line for line in jobs[waiting.id]["stack"])
    assert jobs[threaded.id]["on"] == "thread"
    assert any("in thread_until: " in line for line in jobs[threaded.id]["stack"])
    enough.touch()
    waiting.revoke(terminate=True)


def test_a_time_limit_that_remote_control_sets_has_an_effect(worker: Callable[..., Worker], client: Celery) -> None:
    node = worker(tasks.__name__, "--without-mingle")
    wait_until_listening(client, node.name)
    sleep = client.tasks["t.sleep"]
    client.control.time_limit("t.sleep", hard=0.5, reply=True)
    with pytest.raises(TimeLimitExceeded):
        sleep.delay(60).get(timeout=60)
    client.control.time_limit("t.sleep", soft=0.5, reply=True)
    with pytest.raises(SoftTimeLimitExceeded):
        sleep.delay(60).get(timeout=60)
    # What a message says comes first.
    with pytest.raises(TimeLimitExceeded):
        sleep.apply_async((60,), time_limit=0.3).get(timeout=60)
    client.control.time_limit("t.sleep", reply=True)
    assert sleep.delay(1).get(timeout=60) == 1


@pytest.mark.parametrize("command", ["pool_grow", "pool_shrink"])
def test_a_number_of_places_that_is_none_is_refused_and_changes_nothing(
    worker: Callable[..., Worker], client: Celery, command: str
) -> None:
    node = worker(tasks.__name__, "--without-mingle", "-c", "3")
    wait_until_listening(client, node.name)
    for number in (1.5, "1", None, True, {}, -1, 10**400):
        [answer] = client.control.broadcast(command, arguments={"n": number}, reply=True, timeout=60, limit=1)
        assert "error" in answer[node.name], (number, answer)
    [answer] = client.control.broadcast(command, arguments={"n": 1}, reply=True, timeout=60, limit=1)
    assert "ok" in answer[node.name]
    stats = client.control.inspect(timeout=60, limit=1).stats()[node.name]
    assert stats["pool"]["max-concurrency"] == {"pool_grow": 4, "pool_shrink": 2}[command]
    assert client.tasks["t.add"].delay(1, 2).get(timeout=60) == 3
