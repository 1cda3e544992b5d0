"""taskiq's side of the benchmark: ``... fill noop N``; its worker is ``taskiq worker``. List or stream."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queues import counting

_kind: Any = RedisStreamBroker if os.environ.get("BENCHMARK_POOL") == "stream" else ListQueueBroker
broker: Any = _kind(counting.REDIS_URL)
if counting.RESULTS:
    backend: Any = RedisAsyncResultBackend(counting.REDIS_URL.replace("db=0", "db=1"), result_ex_time=3600)
    broker = broker.with_result_backend(backend)


@broker.task("noop")
async def noop(number: int) -> int:
    """Count."""
    return counting.count(number)


@broker.task("nap")
async def nap(number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


async def fill(name: str, amount: int, *more: Any) -> None:
    """Fill the queue."""
    await broker.startup()
    task = broker.find_task(name)
    for start in range(0, amount, 50):
        await asyncio.gather(*(task.kiq(number, *more) for number in range(start, min(start + 50, amount))))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
