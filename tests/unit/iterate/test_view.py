"""What a run has in flight, seen from outside."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncworker.iterate import MemoryRecorder, make_options, run_items, source_of
from asyncworker.loop import LiveJob, current_job, stack_of


async def test_the_items_in_flight_are_told_with_key_attempt_and_where_they_wait() -> None:
    job = LiveJob("id", "task")
    release, begun = asyncio.Event(), 0

    async def call(row: dict[str, Any]) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ValueError("once")
        if row["x"] != "b":
            await release.wait()

    async def main() -> None:
        current_job.set(job)
        options = make_options(concurrency=5, key="x", retries=1, backoff_s=0.01)
        await run_items(call, source_of({"x": list("abcde")}), options, recorder=MemoryRecorder("run", "task"))

    run = asyncio.create_task(main())
    while job.items is None or len(job.items()) < 4:
        assert not run.done(), run
        await asyncio.sleep(0.01)
    seen = job.items()
    assert [(each.item.index, each.item.key, each.item.attempt) for each in seen] == [
        (0, "a", 2),
        (2, "c", 1),
        (3, "d", 1),
        (4, "e", 1),
    ]
    assert all("await release.wait()" in "".join(stack_of(each.coroutine)) for each in seen)
    release.set()
    await run
    assert job.items() == []
