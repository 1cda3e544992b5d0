"""A hundred thousand items: memory stays flat and tasks pending bounded, with a store and without."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncworker.iterate import StoreRecorder, execute_run, make_options, source_of
from asyncworker.store import Store

CONCURRENCY = 50


async def test_memory_does_not_grow_with_the_items(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreRecorder, "ITEMS_HELD", 2000)
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
    # 60,000 items lie between, each of several blocks. What waits for a checkpoint comes and goes: the least counts.
    early, late = (min(size for at, size in sizes.items() if low <= at < low + 30_000) for low in (10_000, 70_000))
    assert late < early + 30_000
    # Pullers, the source's reader, the checkpoint's writer with its two waits, and this test.
    assert most_tasks <= CONCURRENCY + 8
