"""What a worker that does not need it leaves unloaded: memory of every process, and time of every start."""

from __future__ import annotations

import subprocess
import sys

WORKER = "import asyncworker, asyncworker.worker.pool, asyncworker.worker.transport; asyncworker.app"
LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_neither_the_store_nor_metrics_nor_sftp_are_loaded_before_they_are_used() -> None:
    command = [sys.executable, "-c", f"{WORKER}; {LOADED}"]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert {"celery", "redis", "asyncworker"} <= set(loaded)
    assert {"sqlalchemy", "aiosqlite", "prometheus_client", "statsd", "asyncssh", "rich"}.isdisjoint(loaded)


def test_the_store_is_loaded_with_the_first_name_that_needs_it() -> None:
    command = [sys.executable, "-c", f"{WORKER}; from asyncworker.store import Store; {LOADED}"]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "sqlalchemy" in loaded
