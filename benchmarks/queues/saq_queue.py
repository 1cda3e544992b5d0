"""saq's side of the benchmark: ``... fill noop N``, ``... work``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from saq import Job, Worker
from saq.queue.redis import RedisQueue

from benchmarks.queues import counting

#: Seconds that a result is kept; -1: not at all.
TTL = 3600 if counting.RESULTS else -1


async def noop(ctx: Any, *, number: int) -> int:
    """Count."""
    return counting.count(number)


async def nap(ctx: Any, *, number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


def _queue() -> Any:
    return RedisQueue.from_url(counting.REDIS_URL + "&max_connections=1000")


async def fill(name: str, amount: int, *more: Any) -> None:
    """Fill the queue."""
    queue = _queue()
    for start in range(0, amount, 50):
        await asyncio.gather(
            *(
                queue.enqueue(
                    Job(function=name, kwargs=dict(zip(("number", "seconds"), (number, *more), strict=False)), ttl=TTL)
                )
                for number in range(start, min(start + 50, amount))
            )
        )
    await queue.disconnect()


async def work(concurrency: int) -> None:
    """Drain it until killed."""
    queue = _queue()
    worker: Any = Worker(queue, [noop, nap], concurrency=concurrency)  # type: ignore[list-item]
    await queue.connect()
    await worker.start()


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        uvloop.run(fill(sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
    else:
        uvloop.run(work(int(sys.argv[2]) if len(sys.argv) > 2 else 100))
