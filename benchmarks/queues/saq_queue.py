"""saq's side of the benchmark; ``... work`` is its worker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Self

import uvloop
from saq import Job, Worker
from saq.queue.redis import RedisQueue

from benchmarks.queues import client, counting

#: Seconds that a result is kept; -1: not at all.
TTL = 3600 if counting.RESULTS else -1
#: Results are asked for again and again; so often.
_POLL_S = 0.001


async def noop(ctx: Any, *, number: int) -> int:
    """Count."""
    return counting.count(number)


async def nap(ctx: Any, *, number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


def _queue() -> Any:
    return RedisQueue.from_url(counting.REDIS_URL + "&max_connections=10000")


def _job(name: str, row: client.Row) -> Job:
    # Else it ends after ten seconds.
    return Job(function=name, timeout=0, kwargs=dict(zip(("number", "seconds"), row, strict=False)), ttl=TTL)


class Client:
    """Sends jobs."""

    async def __aenter__(self) -> Self:
        self._queue = _queue()
        await self._queue.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._queue.disconnect()

    async def send_many(self, name: str, rows: Sequence[client.Row]) -> None:
        """A few at once; there is no batch."""
        await client.a_few_at_once(self._queue.enqueue(_job(name, row)) for row in rows)

    async def call(self, number: int) -> int:
        """Send one, and wait for it."""
        return int(await self._queue.apply("noop", number=number, poll_interval=_POLL_S))


async def work(concurrency: int) -> None:
    """Drain it until killed."""
    queue = _queue()
    worker: Any = Worker(queue, [noop, nap], concurrency=concurrency)  # type: ignore[list-item]
    await queue.connect()
    await worker.start()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.run(work(int(sys.argv[2]) if len(sys.argv) > 2 else 100))
    else:
        client.main(Client)
