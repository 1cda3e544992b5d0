"""Celery's side of the benchmark: stock pools, another async pool, and ours.

``BENCHMARK_POOL`` says whose tasks these are: ``ours``, ``async`` (another pool for ``async def``) or ``stock``;
``BENCHMARK_SENDS`` how many tasks are sent: by ``publish_many``, ``adelay`` or ``delay``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Self

from celery import Celery

from benchmarks.queues import client, counting

POOL = os.environ.get("BENCHMARK_POOL", "stock")
SENDS = os.environ.get("BENCHMARK_SENDS", "publish_many")

app: Any = Celery("benchmark", broker=counting.BROKER_URL, backend=counting.RESULT_URL)
if POOL == "ours":
    import asyncworker

    asyncworker.install(app)
else:
    # Else each thread, and each greenlet, looks for the backend and opens a connection: a fifth of the speed.
    app.conf.result_backend_thread_safe = True
    app.conf.redis_max_connections = 10_000  # thousands of sleeping tasks end at once; without a number it is 100
app.conf.update(
    task_default_queue="benchmark",
    task_ignore_result=not counting.RESULTS,
    broker_connection_retry_on_startup=True,
)

if POOL == "stock":

    @app.task(name="noop")
    def noop(number: int) -> int:
        """Count."""
        return counting.count(number)

    @app.task(name="nap")
    def nap(number: int, seconds: float) -> int:
        """Sleep, then count."""
        return counting.sync_nap(number, seconds)

else:

    @app.task(name="noop")
    async def noop(number: int) -> int:
        """Count."""
        return counting.count(number)

    @app.task(name="nap")
    async def nap(number: int, seconds: float) -> int:
        """Sleep, then count."""
        return await counting.nap(number, seconds)


class Client:
    """Sends tasks."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        app.close()

    async def send_many(self, name: str, rows: Sequence[client.Row]) -> None:
        """As ``BENCHMARK_SENDS`` says; any worker of Celery's takes what ``publish_many`` sends."""
        task = app.tasks[name]
        if SENDS == "publish_many":
            from asyncworker import publish_many  # not above: a stock worker has nothing of ours

            await publish_many(task.s(*row) for row in rows)
        elif SENDS == "adelay":
            await asyncio.gather(*(task.adelay(*row) for row in rows))
        else:
            for row in rows:
                task.delay(*row)

    async def call(self, number: int) -> int:
        """Send one, and wait for it, as any program does; nothing else is on this loop."""
        return int(noop.delay(number).get(timeout=30))


if __name__ == "__main__":
    client.main(Client)
