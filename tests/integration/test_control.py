"""Looking into a running worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from tests.integration import tasks
from tests.servers.worker import ROOT, Worker


def test_inspect_coroutines_shows_where_each_task_waits(
    worker: Callable[..., Worker], client: Celery, worker_env: dict[str, str], tmp_path: Path
) -> None:
    node = worker(tasks.__name__, "--without-mingle")
    waiting = client.tasks["t.sleep"].delay(60)
    enough = tmp_path / "enough"
    threaded = client.tasks["t.thread_until"].delay(str(enough))
    node.wait_for_log(f"t.thread_until[{threaded.id}] received")
    command = ["-A", "asyncworker", "inspect", "--json", "coroutines"]
    while True:
        ended = subprocess.run(
            [sys.executable, "-m", "celery", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT), **worker_env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        seen = json.loads(ended.stdout)[node.name]
        if all(job["stack"] for job in seen["jobs"]):
            break
        time.sleep(0.05)
    jobs = {job["id"]: job for job in seen["jobs"]}
    assert seen["in-flight"] == 2
    assert jobs[waiting.id]["task"] == "t.sleep"
    assert jobs[waiting.id]["on"] == "loop"
    assert any("in sleep: await asyncio.sleep(seconds)" in line for line in jobs[waiting.id]["stack"])
    assert jobs[threaded.id]["on"] == "thread"
    assert any("in thread_until: " in line for line in jobs[threaded.id]["stack"])
    enough.touch()
    waiting.revoke(terminate=True)
