"""Measure a worker's peak memory over tasks that fail: ``python -m tests.chaos.failing_memory``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.integration import failing_tasks
from tests.servers.client import client_app
from tests.servers.valkey import running_valkey
from tests.servers.worker import running_worker


def _run(app: Any, how: str, tasks: int) -> None:
    # The results go with this call: one that outlives the server waits for it when it is freed.
    results = [app.tasks["f.ends"].delay(how) for _ in range(tasks)]
    for result in results:
        result.get(timeout=1200, propagate=False)


def main() -> None:
    """Print the peak before and after tasks that succeed, and tasks that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("-c", "--concurrency", type=int, default=200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_valkey(Path(folder) / "valkey") as server:
        urls: Any = SimpleNamespace(broker_url=server.url(), result_url=server.url(1))
        env = {
            "ASYNCWORKER_BROKER_URL": urls.broker_url,
            "ASYNCWORKER_RESULT_URL": urls.result_url,
            "ASYNCWORKER_STATE_DIR": folder,
            "ASYNCWORKER_INCLUDE": failing_tasks.__name__,
            "ASYNCWORKER_DEBUG": "0",
        }
        with running_worker(Path(folder), "-c", str(chosen.concurrency), env=env), client_app(urls) as app:
            peak = app.tasks["f.peak"]
            print(f"before: {peak.delay().get(timeout=120):.0f} MB", flush=True)
            for how in ("success", "failure", "retry"):
                _run(app, how, chosen.tasks)
                print(f"{chosen.tasks} with {how}: {peak.delay().get(timeout=120):.0f} MB", flush=True)


if __name__ == "__main__":
    main()
