"""Second deliveries: a task is not run by two at once, and one that kills its worker is not begun for ever."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore
from kombu.utils.json import dumps

from asyncworker.counters import counter
from asyncworker.errors import StoreError, TooManyDeliveries
from asyncworker.settings import Settings
from asyncworker.store import shared_store
from asyncworker.worker.given_back import GivenBack
from asyncworker.worker.job import Job
from asyncworker.worker.leases import LeaseKeeper

if TYPE_CHECKING:
    from asyncworker.store import DeadLetter, Deliveries, Start

__all__ = ["DeliveryGuard"]

logger = logging.getLogger(__name__)

_redeliveries = counter("redeliveries")


class DeliveryGuard:
    """Admits tasks that were delivered again, and counts their beginnings. Used on the loop thread.

    A task on its first delivery costs nothing. One that comes to an end, whatever end, or is put back by a worker that
    shuts down, is forgotten: only those whose process died while they ran add up.

    Args:
        settings: ``max_deliveries``.
        leases: Those of this process's tasks.
    """

    def __init__(self, settings: Settings, leases: LeaseKeeper) -> None:
        self._settings = settings
        self._leases = leases

    def concerns(self, job: Job) -> bool:
        """Tell whether a job is to be admitted before it begins."""
        return job.redelivered

    async def admit(self, job: Job) -> Exception | None:
        """Wait while another process runs the same task, and count its beginning here.

        Returns:
            What to report in the place of running it: ``Ignore`` where it is done, ``GivenBack`` where this worker ends
            before that, or that it was begun too often.
        """
        _redeliveries.add()
        if job.late and not await self._leases.wait_for_holder(job):
            logger.info("%s was finished by another delivery of it", job)
            return Ignore("finished by another delivery")
        if job.draining:
            logger.info("%s goes back to the queue: its holder is another process, and this one ends", job)
            return GivenBack("this worker ends", requeue=True)
        return await self._begin(job) if self._settings.max_deliveries else None

    async def _begin(self, job: Job) -> TooManyDeliveries | None:
        # A store that is away lets it begin.
        try:
            deliveries = await self._deliveries()
            history = await deliveries.begin(job.id, str(job.args[2].get("hostname")), os.getpid())
            if len(history) <= self._settings.max_deliveries:
                job.counted = True
                return None
            await deliveries.bury(_letter(job, history))
        except StoreError as exc:
            logger.warning("%s is delivered again and could not be counted: %s", job, exc)
            return None
        job.finished = True
        error = TooManyDeliveries(
            f"{job} was begun {len(history) - 1} times after its first delivery, and its worker died each time; "
            f"it is given up. `asyncworker dead show {job.id}` tells when and where, `asyncworker dead replay` sends it"
        )
        logger.error("%s", error)
        return error

    async def end(self, job: Job) -> None:
        """Forget a job's beginnings, and let the deliveries know that wait for it."""
        if job.leased:
            await self._leases.end(job)
        if not job.counted or job.lost:  # the account is its successor's now
            return
        try:
            await (await self._deliveries()).end(job.id)
        except StoreError as exc:
            logger.warning("%s has ended, and its deliveries could not be forgotten: %s", job, exc)

    async def _deliveries(self) -> Deliveries:
        store = await shared_store(self._settings)  # which imports what follows off the loop
        from asyncworker.store import Deliveries

        return Deliveries(store)


def _delivery_info(job: Job) -> dict[str, Any]:
    return job.args[2].get("delivery_info") or {}


def _letter(job: Job, history: list[Start]) -> DeadLetter:
    from asyncworker.store import DeadLetter

    request = job.args[2]
    return DeadLetter(
        task_id=job.id,
        task=job.name,
        queue=str(_delivery_info(job).get("routing_key") or ""),
        starts=len(history) - 1,
        dead_at=datetime.now(UTC),
        history=history[:-1],
        arguments=dumps({"args": request.get("args"), "kwargs": request.get("kwargs")}).encode(),
    )
