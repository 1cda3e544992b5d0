"""Sending out of a task: what Celery sends for it must reach the broker, however long that is away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from kombu.exceptions import OperationalError

from asyncworker.loop import current_job, off_loop
from asyncworker.worker.job import Job
from asyncworker.worker.persist import until_done

__all__ = ["send_from_bridge"]


def send_from_bridge(name: str, apply_async: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Send a task off the loop.

    What follows a task whose code has ended (the next one of a chain, its links, its retry) is sent again until the
    broker has it: a failure would be the task's own, and an acknowledged one would be lost with all that follows. What
    the task's own code sends raises there after Celery's usual retries, and is its own affair.
    """
    job = current_job.get()
    # A retry is sent by Celery, from within the code that raises it.
    if isinstance(job, Job) and (job.coroutine is None or kwargs.get("task_id") == job.id):
        call = functools.partial(apply_async, *args, **kwargs)
        return until_done(call, _is_away, f"sending {name} for {job}")
    return off_loop(apply_async, *args, **kwargs)


def _is_away(exc: Exception) -> bool:
    return isinstance(exc, OperationalError | OSError)
