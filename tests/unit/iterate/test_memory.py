"""A hundred thousand items: memory stays flat and tasks pending bounded, with a store and without."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from asyncworker.iterate import execute_run, make_options, source_of
from asyncworker.store import open_store

CONCURRENCY = 50


async def test_memory_does_not_grow_with_the_items(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'store.sqlite'}")
    sizes: dict[int, int] = {}
    most_tasks = 0

    async def source(count: int) -> AsyncIterator[str]:
        nonlocal most_tasks
        for number in range(count):
            if number % 1000 == 0:
                most_tasks = max(most_tasks, len(asyncio.all_tasks()))
                sizes[number] = sys.getallocatedblocks()
            yield f"file-{number}.xml"

    async def call(row: dict[str, Any]) -> int:
        if row["path"].endswith("77.xml"):
            await asyncio.sleep(0)
        return len(row["path"])

    options = make_options(concurrency=CONCURRENCY, checkpoint_every_s=0.05)
    await execute_run(call, source_of({"path": source(2000)}), options, store=store, run_id="warm")
    outcome = await execute_run(call, source_of({"path": source(100_000)}), options, store=store, run_id="run")
    assert outcome.progress.done == 100_000
    # What waits for a checkpoint comes and goes, so the least of many looks counts.
    early, late = (min(size for at, size in sizes.items() if low <= at < low + 30_000) for low in (10_000, 70_000))
    assert late < early + 5_000
    # Pullers, the source's reader, the checkpoint's writer with its two waits, and this test.
    assert most_tasks <= CONCURRENCY + 8
    await store.close()
