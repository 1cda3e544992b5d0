"""Celery's side of the benchmark: stock pools, another async pool, and ours. ``... fill N`` fills the queue.

``BENCHMARK_POOL`` says whose tasks these are: ``ours``, ``async`` (another pool for ``async def``) or ``stock``.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import uuid
from typing import Any

import redis
from celery import Celery

from benchmarks.queues import counting

POOL = os.environ.get("BENCHMARK_POOL", "stock")

app: Any = Celery("benchmark", broker=counting.BROKER_URL, backend=counting.RESULT_URL)
if POOL == "ours":
    import asyncworker

    asyncworker.install(app)
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

else:

    @app.task(name="noop")
    async def noop(number: int) -> int:
        """Count."""
        return counting.count(number)


@app.task(name="nap")
async def nap(number: int, seconds: float) -> int:
    """Sleep, then count."""
    return await counting.nap(number, seconds)


def fill(name: str, amount: int, *more: Any) -> None:
    """Send one task by Celery, and the others as copies of its message with ids and arguments of their own."""
    app.tasks[name].apply_async((0, *more))
    with redis.Redis.from_url(counting.REDIS_URL) as broker:
        message = json.loads(broker.lindex("benchmark", 0))
        for start in range(1, amount, 1000):
            copies = [_copy(message, number, *more) for number in range(start, min(start + 1000, amount))]
            broker.lpush("benchmark", *copies)


def _copy(message: dict[str, Any], number: int, *more: Any) -> str:
    task_id = str(uuid.uuid4())
    _args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    body = base64.b64encode(json.dumps([[number, *more], kwargs, embedded]).encode()).decode()
    shown = repr((number, *more))
    headers = message["headers"] | {"id": task_id, "root_id": task_id, "argsrepr": shown}
    properties = message["properties"] | {"correlation_id": task_id, "delivery_tag": str(uuid.uuid4())}
    return json.dumps(message | {"body": body, "headers": headers, "properties": properties})


if __name__ == "__main__":
    fill(sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:]))
