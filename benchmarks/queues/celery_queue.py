"""Celery's side of the benchmark: stock pools, another async pool, and ours.

``BENCHMARK_POOL`` says whose tasks these are: ``ours``, ``async`` (another pool for ``async def``) or ``stock``;
``BENCHMARK_SENDS`` how many tasks are sent: by ``publish_many``, ``adelay`` or ``delay``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Self

import celery
from celery import Celery

from benchmarks.queues import client, counting

POOL = os.environ.get("BENCHMARK_POOL", "stock")
#: Tasks of a chord, its body among them; the clients send by multiples of it.
CHORD = 10
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


def _fail(number: int) -> None:
    counting.count(number)
    raise ValueError(number)


def _retry(task: Any, number: int) -> int:
    if task.request.retries:
        return counting.end(number)
    counting.begin()
    raise task.retry(exc=ValueError(number), countdown=0)


if POOL == "stock":

    @app.task(name="fail")
    def fail(number: int) -> None:
        """Count, then fail."""
        _fail(number)

    @app.task(name="retry", bind=True, max_retries=1)
    def retry(self: Any, number: int) -> int:
        """Be tried twice."""
        return _retry(self, number)

    @app.task(name="join")
    def join(found: list[int], number: int) -> int:
        """Count, as the body of a chord."""
        return counting.count(number)

    @app.task(name="noop")
    def noop(number: int) -> int:
        """Count."""
        return counting.count(number)

    @app.task(name="nap")
    def nap(number: int, seconds: float) -> int:
        """Sleep, then count."""
        return counting.sync_nap(number, seconds)

else:

    @app.task(name="fail")
    async def fail(number: int) -> None:
        """Count, then fail."""
        _fail(number)

    @app.task(name="retry", bind=True, max_retries=1)
    async def retry(self: Any, number: int) -> int:
        """Be tried twice."""
        return _retry(self, number)

    @app.task(name="join")
    async def join(found: list[int], number: int) -> int:
        """Count, as the body of a chord."""
        return counting.count(number)

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
        if name == "chord":
            # Each row is a task; of ten the last is the body.
            for first in range(0, len(rows), CHORD):
                *header, body = rows[first : first + CHORD]
                celery.chord(noop.s(*row) for row in header)(join.s(*body))
            return
        if name == "later":
            for number, seconds in rows:
                noop.apply_async((number,), countdown=seconds)
            return
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
