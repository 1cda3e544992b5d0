"""The task that runs one partition of a fan-out; what the fan-out is stands in the store."""

from __future__ import annotations

import logging

from celery import shared_task
from celery.exceptions import Ignore
from kombu.utils.json import loads

from asyncworker.errors import RunDrained, RunError, RunNotFound, RunTakenOver, SourceError
from asyncworker.iterate import execute_partition
from asyncworker.settings import load_settings
from asyncworker.store import patiently
from asyncworker.tasks.names import RUN_PARTITION
from asyncworker.tasks.run_iterate import drain_of_this_job, run_of, store_for_run
from asyncworker.tasks.task import AsyncTask
from asyncworker.worker.given_back import GivenBack

__all__ = ["RunPartitionTask", "run_partition"]

logger = logging.getLogger(__name__)


class RunPartitionTask(AsyncTask):
    """A partition as a Celery task."""

    abstract = True
    #: It is held in the store, item by item.
    holds_own_lease = True


@shared_task(
    name=RUN_PARTITION,
    base=RunPartitionTask,
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
)
async def run_partition(self: RunPartitionTask, *, run: str, number: int) -> None:
    """Run a partition to its end, from its checkpoint where it has one. Its outcome is part of the run's.

    Args:
        self: The task.
        run: The run's id.
        number: Which of its partitions.
    """
    settings = load_settings(conf=self.app.conf)
    drain = drain_of_this_job(settings)
    store = await store_for_run(settings, drain, run)
    try:
        what = f"run {run}: reading what partition {number} is part of"
        request = loads(await patiently(lambda: store.request_of(run), patience_s=store.patience_s, what=what))
        split = run_of(self.app, run, request, store, settings)
        await execute_partition(split, number, drain=drain)
    except RunDrained as exc:
        raise GivenBack(str(exc), requeue=True) from exc
    except (RunTakenOver, RunNotFound) as exc:
        logger.warning("%s; its outcome is reported there", exc)
        raise Ignore(str(exc)) from exc
    except (RunError, SourceError) as exc:
        # Recorded with the partition; whoever holds the whole run tells it.
        logger.warning("run %s: partition %d: %s", run, number, exc)
