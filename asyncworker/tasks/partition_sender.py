"""Send the partitions of a fan-out to where the fan-out itself came from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

from celery.utils import uuid

from asyncworker.tasks.delivery import delivery_of, partition_options
from asyncworker.tasks.names import RUN_PARTITION
from asyncworker.tasks.task import AsyncTask
from asyncworker.worker.sending import apost

__all__ = ["partition_sender"]


def partition_sender(task: AsyncTask) -> Callable[[Sequence[int]], Awaitable[None]]:
    """Return what sends partitions of the run that is this task's request."""
    run_id, options = str(task.request.id), partition_options(delivery_of(task.request))

    async def send(numbers: Sequence[int]) -> None:
        partition = cast(AsyncTask, task.app.tasks[RUN_PARTITION])
        for number in numbers:
            call = partial(partition.apply_async, kwargs={"run": run_id, "number": number}, task_id=uuid(), **options)
            # A fan-out whose partitions were not sent would fail for that.
            await apost(call, f"sending partition {number} of run {run_id}")

    return send
