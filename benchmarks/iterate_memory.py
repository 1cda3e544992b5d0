"""What a long fan-out takes of memory, each in a process of its own; and how often it writes to its store.

``python -m benchmarks.iterate_memory ITEMS none|stored`` prints the highest resident size of one, in megabytes.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["count_transactions", "highest_rss_mb"]

ROOT = Path(__file__).parents[1]


def highest_rss_mb(items: int, results: str) -> float:
    """Run so many items from a generator, with a checkpoint, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.iterate_memory", str(items), results]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


async def _run(items: int, results: str, pause_s: float = 0.0) -> tuple[int, float]:
    """Returns the transactions that were committed, and the seconds of the run."""
    from sqlalchemy import event

    from asyncworker.iterate import execute_run, make_options, source_of
    from asyncworker.store import open_store

    def paths() -> Iterator[str]:
        for number in range(items):
            yield f"/outgoing/file-{number:07d}.xml"

    async def item(row: dict[str, Any]) -> int:
        if pause_s:
            await asyncio.sleep(pause_s)
        return len(row["path"])

    commits = 0

    def committed(_connection: Any) -> None:
        nonlocal commits
        commits += 1

    with tempfile.TemporaryDirectory() as folder:
        store = await open_store(f"sqlite+aiosqlite:///{folder}/store.sqlite")
        event.listen(store._engine.sync_engine, "commit", committed)
        try:
            began = time.perf_counter()
            options = make_options(concurrency=100, results=results)
            outcome = await execute_run(item, source_of({"path": paths()}), options, store=store, run_id="run")
            seconds = time.perf_counter() - began
        finally:
            await store.close()
    if outcome.progress.done != items:
        raise SystemExit(f"{outcome.progress.done} of {items} items were done")
    return commits, seconds


def count_transactions(items: int) -> tuple[int, float]:
    """Run so many items that take 10 ms each; returns committed transactions and seconds."""
    return asyncio.run(_run(items, "stored", 0.01))


def _highest_rss_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: there, a child begins with what its parent had.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), sys.argv[2]))
    print(_highest_rss_mb())
