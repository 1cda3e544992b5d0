"""arq's side of the benchmark: ``... fill noop N``, ``... work``. Runs in an environment of arq's own."""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import urlsplit

import uvloop
from arq import create_pool, func, run_worker
from arq.connections import RedisSettings

from benchmarks.queues import counting

SETTINGS = RedisSettings(unix_socket_path=urlsplit(counting.REDIS_URL).path, max_connections=100)


async def noop(ctx: Any, number: int) -> int:
    """Count."""
    return counting.count(number)


async def nap(ctx: Any, number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


async def fill(name: str, amount: int, *more: Any) -> None:
    """Fill the queue."""
    pool = await create_pool(SETTINGS)
    for start in range(0, amount, 50):
        await asyncio.gather(
            *(pool.enqueue_job(name, number, *more) for number in range(start, min(start + 50, amount)))
        )


class Worker:
    """The worker's settings; it polls, so the wait between two polls is as short as pays."""

    redis_settings = SETTINGS
    functions = (func(noop, name="noop"), func(nap, name="nap"))
    max_jobs = 100
    poll_delay = 0.005
    keep_result = 3600 if counting.RESULTS else 0


if __name__ == "__main__":
    uvloop.install()
    if sys.argv[1] == "fill":
        asyncio.run(fill(sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
    else:
        if len(sys.argv) > 2:
            Worker.max_jobs = int(sys.argv[2])
        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(Worker)  # type: ignore[arg-type]
