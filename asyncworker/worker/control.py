"""Remote control commands of the async worker: ``celery -A ... inspect coroutines``."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from asyncworker.loop import live_jobs
from asyncworker.worker.job import Job

__all__ = ["coroutines"]

#: Innermost lines of a stack that are told.
STACK_LINES = 8


@inspect_command(args=[("limit", int)], signature="[LIMIT=100]")
def coroutines(state: Any, limit: int = 100, **_: Any) -> dict[str, Any]:
    """Every task in flight in the async pool, the oldest first: id, age, and the stack where it waits."""
    jobs = sorted(live_jobs.values(), key=lambda job: job.started_at_s)
    return {
        "in-flight": len(jobs),
        "loop-lag-s": round(state.consumer.pool.loop_lag_s, 3) if hasattr(state.consumer.pool, "loop_lag_s") else None,
        "jobs": [_described(job) for job in jobs[:limit]],
    }


def _described(job: Any) -> dict[str, Any]:
    return {
        "id": job.id,
        "task": job.name,
        "age-s": round(job.age_s, 3),
        "on": "thread" if job.thread_ident is not None else "loop",
        "abandoned": isinstance(job, Job) and job.abandoned,
        "stack": job.stack()[-STACK_LINES:],
    }
