"""Second deliveries: a task is not run by two at once, and one that kills its worker is not begun for ever."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import Ignore
from kombu.utils.json import dumps

from asyncworker.counters import counter
from asyncworker.errors import StoreError, TooManyDeliveries
from asyncworker.settings import Settings
from asyncworker.store import shared_store
from asyncworker.worker import dead_letters
from asyncworker.worker.given_back import GivenBack
from asyncworker.worker.job import Job
from asyncworker.worker.leases import LeaseKeeper
from asyncworker.worker.message import sent_as
from asyncworker.worker.provisional import moment_of

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
        app: Its result backend is asked where a broker does not tell a copy from a message that is sent again.
    """

    def __init__(self, settings: Settings, leases: LeaseKeeper, app: Any) -> None:
        self._settings = settings
        self._leases = leases
        self._app = app
        #: Tasks on the last delivery that their broker allows: their dead letters are written before they begin.
        self._buried_in_advance: set[str] = set()

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
        if job.draining and _acks_late(job):  # an early acknowledgement leaves nothing that could go back
            logger.info("%s goes back to the queue: its holder is another process, and this one ends", job)
            return GivenBack("this worker ends", requeue=True)
        if job.late and not sent_as(job.message) and await self._has_succeeded(job):
            job.finished = True
            logger.info("%s is delivered again, and its success is stored; it is acknowledged", job)
            return Ignore("its success is stored")
        job.resumes = await self._resumes(job)
        last = _is_last_delivery(job)
        return await self._begin(job, last) if self._settings.max_deliveries or last else None

    async def _has_succeeded(self, job: Job) -> bool:
        """Return whether the success of an earlier delivery was stored a moment ago: its acknowledgement was lost.

        Later it may be that of another message under the same task id, which these brokers do not tell from it. A task
        that something follows runs again, and so does a member of a chord: whether that was sent is not stored.
        """
        payload = getattr(job.request, "_payload", None)
        embed = payload[2] if isinstance(payload, list | tuple) and len(payload) == 3 else None
        if embed and any(embed.get(name) for name in ("chord", "chain", "callbacks")):
            return False
        try:
            ended_at = await asyncio.to_thread(_succeeded_at, self._app, job.id)
            return ended_at is not None and self._leases.is_recent(ended_at)
        except Exception as exc:
            logger.warning("%s is delivered again, and its result could not be looked at: %r", job, exc)
            return False

    async def _resumes(self, job: Job) -> bool:
        """Return whether a job goes on with what its message has begun before; asked where it could expire."""
        request: Any = job.request
        asks = getattr(getattr(request, "task", None), "has_begun", None)
        if asks is None or not request.expires:
            return False
        try:
            return bool(await asks(await shared_store(self._settings), job.args[2]))
        except StoreError as exc:
            logger.warning("%s is delivered again, and it could not be looked whether it was begun: %s", job, exc)
            return True  # what is unknown does not end it

    async def _begin(self, job: Job, last: bool) -> TooManyDeliveries | None:
        """Count a beginning; on the last delivery that the broker allows, keep what it would drop."""
        # A store that is away lets it begin.
        try:
            deliveries = await self._deliveries()
            history = await deliveries.begin(job.id, str(job.args[2].get("hostname")), os.getpid())
            dropped_next = last and len(history) > 1
            if not dropped_next and (
                len(history) <= self._settings.max_deliveries or not self._settings.max_deliveries
            ):
                job.counted = True
                if last:
                    await deliveries.bury(_letter(job, history))
                    self._buried_in_advance.add(job.id)
                return None
            await deliveries.bury(_letter(job, history[:-1]))
            dead_letters.counted.add()
        except StoreError as exc:
            logger.warning("%s is delivered again and could not be counted: %s", job, exc)
            return None
        job.finished = True
        why = "; its queue's delivery limit allows no other delivery" if dropped_next else ""
        error = TooManyDeliveries(
            f"{job} was begun {len(history) - 1} times after its first delivery, and its worker died each time{why}; "
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
            deliveries = await self._deliveries()
            await deliveries.end(job.id)
            if job.id in self._buried_in_advance:
                self._buried_in_advance.discard(job.id)
                await deliveries.forget_dead(job.id)
        except StoreError as exc:
            logger.warning("%s has ended, and its deliveries could not be forgotten: %s", job, exc)

    async def _deliveries(self) -> Deliveries:
        store = await shared_store(self._settings)  # which imports what follows off the loop
        from asyncworker.store import Deliveries

        return Deliveries(store)


def _delivery_info(job: Job) -> dict[str, Any]:
    return job.args[2].get("delivery_info") or {}


def _is_last_delivery(job: Job) -> bool:
    """Tell whether the broker drops a job's message where this process does not live to acknowledge it."""
    return bool(_acks_late(job) and getattr(job.message, "is_last_delivery", False))


def _acks_late(job: Job) -> bool:
    return bool(getattr(getattr(job.request, "task", None), "acks_late", False))


def _succeeded_at(app: Any, task_id: str) -> datetime | None:
    """Return when a task succeeded, by the result backend; ``None`` where that stores no success. Blocks."""
    if isinstance(app.backend, RPCBackend | DisabledBackend):  # which cannot be asked
        return None
    meta = app.backend.get_task_meta(task_id, cache=False)
    return moment_of(meta.get("date_done")) if meta["status"] == states.SUCCESS else None


def _letter(job: Job, history: list[Start]) -> DeadLetter:
    from asyncworker.store import DeadLetter

    request = job.args[2]
    return DeadLetter(
        task_id=job.id,
        task=job.name,
        queue=str(_delivery_info(job).get("routing_key") or ""),
        starts=len(history),
        dead_at=datetime.now(UTC),
        history=history,
        arguments=dumps({"args": request.get("args"), "kwargs": request.get("kwargs")}).encode(),
    )
