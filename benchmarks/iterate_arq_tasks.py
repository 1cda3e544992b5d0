"""The task of an arq worker: ``arq benchmarks.iterate_arq_tasks.WorkerSettings``."""

from __future__ import annotations

import os
from typing import Any

from arq.connections import RedisSettings

__all__ = ["SETTINGS", "WorkerSettings", "item"]

SETTINGS = RedisSettings(unix_socket_path=os.environ["BENCHMARK_SOCKET"], database=int(os.environ["BENCHMARK_ARQ_DB"]))


async def item(_context: dict[str, Any], number: int) -> int:
    """Do nothing."""
    return number


class WorkerSettings:
    """What the command reads; many jobs at once, and no waiting between two looks at the queue."""

    functions = (item,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = 0.01
