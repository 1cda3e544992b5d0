"""The task of a taskiq worker: ``taskiq worker benchmarks.iterate_taskiq_tasks:broker``."""

from __future__ import annotations

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

__all__ = ["broker", "item"]

_URL = os.environ["BENCHMARK_TASKIQ_URL"]
broker = ListQueueBroker(url=_URL).with_result_backend(RedisAsyncResultBackend(redis_url=_URL))


@broker.task
async def item(number: int) -> int:
    """Do nothing."""
    return number
