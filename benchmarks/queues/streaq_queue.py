"""streaq's side of the benchmark: ``... fill noop N``, ``... work``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import anyio
from streaq import Worker

from benchmarks.queues import counting

CONCURRENCY = int(sys.argv[2]) if sys.argv[1:2] == ["work"] and len(sys.argv) > 2 else 100
TTL = timedelta(hours=1) if counting.RESULTS else 0

worker: Any = Worker(redis_url=counting.REDIS_URL, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task(ttl=TTL, name="noop")
async def noop(number: int) -> int:
    """Count."""
    return counting.count(number)


@worker.task(ttl=TTL, name="nap")
async def nap(number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


async def fill(name: str, amount: int, *more: Any) -> None:
    """Fill the queue."""
    task = {"noop": noop, "nap": nap}[name]
    async with worker:
        for start in range(0, amount, 1000):
            await worker.enqueue_many(
                [task.enqueue(number, *more) for number in range(start, min(start + 1000, amount))]
            )


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        anyio.run(fill, sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:]))
    else:
        worker.run_sync()
