"""streaq's side of the benchmark; ``... work`` is its worker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from streaq import Worker

from benchmarks.queues import client, counting

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


class Client:
    """Sends tasks."""

    async def __aenter__(self) -> Self:
        await worker.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await worker.__aexit__(*exc)

    async def send_many(self, name: str, rows: Sequence[client.Row]) -> None:
        """In one batch."""
        task = {"noop": noop, "nap": nap}[name]
        await worker.enqueue_many([task.enqueue(*row) for row in rows])

    async def call(self, number: int) -> int:
        """Send one, and wait for it."""
        task = await noop.enqueue(number)
        return int((await task.result()).result)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        worker.run_sync()
    else:
        client.main(Client)
