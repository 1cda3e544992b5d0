"""A task that kills its worker is not begun for ever: each new beginning is counted before it happens."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Any

from kombu.utils.json import dumps

from asyncworker.errors import StoreError, TooManyDeliveries
from asyncworker.settings import Settings
from asyncworker.store import DeadLetter, Deliveries, Start, shared_store
from asyncworker.worker.job import Job

__all__ = ["DeliveryGuard"]

logger = logging.getLogger(__name__)


class DeliveryGuard:
    """Counts the beginnings of tasks that were delivered again. Used on the loop thread.

    A task on its first delivery costs nothing. One that comes to an end, whatever end, or is put back by a worker that
    shuts down, is forgotten: only those whose process died while they ran add up.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def concerns(self, job: Job) -> bool:
        """Tell whether a job's beginning is to be counted."""
        return self._settings.max_deliveries > 0 and bool(_delivery_info(job).get("redelivered"))

    async def begin(self, job: Job) -> TooManyDeliveries | None:
        """Count a beginning; returns why the task is not to begin once more. A store that is away lets it begin."""
        try:
            deliveries = Deliveries(await shared_store(self._settings))
            history = await deliveries.begin(job.id, str(job.args[2].get("hostname")), os.getpid())
            if len(history) <= self._settings.max_deliveries:
                return None
            await deliveries.bury(_letter(job, history))
        except StoreError as exc:
            logger.warning("%s is delivered again and could not be counted: %s", job, exc)
            return None
        error = TooManyDeliveries(
            f"{job} was begun {len(history) - 1} times after its first delivery, and its worker died each time; "
            f"it is given up. `asyncworker dead show {job.id}` tells when and where, `asyncworker dead replay` sends it"
        )
        logger.error("%s", error)
        return error

    async def end(self, job: Job) -> None:
        """Forget a job's beginnings."""
        try:
            await Deliveries(await shared_store(self._settings)).end(job.id)
        except StoreError as exc:
            logger.warning("%s has ended, and its deliveries could not be forgotten: %s", job, exc)


def _delivery_info(job: Job) -> dict[str, Any]:
    return job.args[2].get("delivery_info") or {}


def _letter(job: Job, history: list[Start]) -> DeadLetter:
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
