"""arq's side of the benchmark; ``... work`` is its worker. Runs in arq's own interpreter, see ``--arq-python``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import uvloop
from arq import create_pool, func, run_worker
from arq.connections import RedisSettings
from arq.jobs import ResultNotFound

from benchmarks.queues import client, counting

SETTINGS = RedisSettings(unix_socket_path=urlsplit(counting.REDIS_URL).path)
#: Results are asked for again and again; so often.
_POLL_S = 0.001


async def noop(ctx: Any, number: int) -> int:
    """Count."""
    return counting.count(number)


async def nap(ctx: Any, number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


class Client:
    """Sends jobs."""

    async def __aenter__(self) -> Self:
        self._pool = await create_pool(SETTINGS)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._pool.aclose()

    async def send_many(self, name: str, rows: Sequence[client.Row]) -> None:
        """A few at once; there is no batch."""
        await client.a_few_at_once(self._pool.enqueue_job(name, *row) for row in rows)

    async def call(self, number: int) -> int:
        """Send one, and wait for it."""
        job = await self._pool.enqueue_job("noop", number)
        try:
            return int(await job.result(poll_delay=_POLL_S))
        except ResultNotFound:  # arq 0.25 looks for the result, and then for the job, which may have ended in between
            return int(await job.result(poll_delay=_POLL_S))


class Worker:
    """The worker's settings; it polls, so the wait between two polls is as short as pays."""

    redis_settings = SETTINGS
    functions = (func(noop, name="noop"), func(nap, name="nap"))
    max_jobs = 100
    poll_delay = 0.005
    keep_result = 3600 if counting.RESULTS else 0


if __name__ == "__main__":
    if sys.argv[1] == "work":
        if len(sys.argv) > 2:
            Worker.max_jobs = int(sys.argv[2])
        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(Worker)  # type: ignore[arg-type]
    else:
        client.main(Client)
