"""Celery's own worker for tests, in a thread of the test's process, with the pool of asyncworker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncworker.cli.embedded import EmbeddedServer

pytestmark = pytest.mark.timeout(400)

#: A process of its own, as a user's test session is one: a pool is started once a process.
SCRIPT = """
import asyncio, os, sys, threading

import asyncworker
from celery import Celery
from celery.contrib.testing.worker import start_worker

app = asyncworker.install(Celery("embedded", broker=sys.argv[1], backend=sys.argv[2]))
@app.task(name="early")
async def early(x):
    await asyncio.sleep(0)
    return x + 1

def worker_of_the_test():
    return start_worker(app, pool="asyncworker.worker.pool:AsyncPool", concurrency=10, perform_ping_check=False)

with worker_of_the_test() as worker:
    # Whatever app is the default one, the worker runs the tasks of its own.
    Celery("other").set_default()
    print("early", early.delay(1).get(timeout=120))

    @app.task(name="late")
    async def late(x):
        await asyncio.sleep(0)
        return x * 10, threading.current_thread().name

    worker.consumer.update_strategies()
    print("late", *late.delay(2).get(timeout=120))

# The next one has a loop of its own.
with worker_of_the_test():
    print("again", early.delay(2).get(timeout=120))
    while not (stats := app.control.inspect(timeout=5, limit=1).stats()):  # it may not listen yet
        pass
    print("processes", *next(iter(stats.values()))["pool"]["processes"])
    print("process", os.getpid())
"""


def test_embedded_workers_run_async_tasks_and_those_registered_after_their_start(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, valkey.broker_url, valkey.result_url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env={"ASYNCWORKER_STATE_DIR": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    words = done.stdout.split()
    assert words[:7] == ["early", "2", "late", "20", "asyncworker-loop", "again", "3"], done.stdout + done.stderr
    assert words[7] == "processes" and words[8:] == [words[8], "process", words[8]]
