"""Long late-ack tasks hold a lease: a task that outlasts the broker's visibility timeout is not run twice.

A task on its first delivery costs nothing until it has run for ``lease_s``; then its lease is taken, and renewed while
it lives, all of a process's in one transaction. A task that was delivered again looks for a lease first: it waits while
the holder lives, is dropped when the holder finishes it, and takes over from a holder that is silent.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asyncworker.errors import StoreError
from asyncworker.loop import live_jobs
from asyncworker.settings import Settings
from asyncworker.store import Silence, shared_store
from asyncworker.worker.job import Job

if TYPE_CHECKING:
    from asyncworker.store import Leases

__all__ = ["LeaseKeeper", "needs_lease"]

logger = logging.getLogger(__name__)

#: How long a finished lease is kept for deliveries that wait, in multiples of ``lease_s``. Not for ever: the same task
#: id may be sent anew.
_ENDED_KEPT = 2


class LeaseKeeper:
    """The leases of this process's tasks. Used on the loop thread.

    Args:
        settings: ``lease_s``.
        on_lost: Called with a job whose lease another process has taken; its outcome must not count.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[Job], None]) -> None:
        self._settings = settings
        self._on_lost = on_lost
        #: A renewal that overtook the end of a lease would bring it back, and nobody would end it again.
        self._writing = asyncio.Lock()
        self._holder = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex}"

    async def keep(self) -> None:
        """Take and renew leases for as long as the loop runs."""
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            async with self._writing:
                await self._renew()

    async def _renew(self) -> None:
        # This process may run one task twice, where it was delivered again to it: one lease then.
        jobs: dict[str, list[Job]] = defaultdict(list)
        for job in list(live_jobs.values()):
            if isinstance(job, Job) and self._is_due(job):
                # Before it is looked whether the job has ended: whoever ends it looks in the other order.
                job.leased = True
                if not job.settled:
                    jobs[key_of(job)].append(job)
        if not jobs:
            return
        try:
            leases = await self._leases()
            lost = await leases.renew(jobs)
            await leases.forget_ended(_ENDED_KEPT * self._settings.lease_s)
        except StoreError as exc:
            logger.warning("the leases of %d long tasks could not be renewed: %s", len(jobs), exc)
            return
        for key, of_key in jobs.items():
            for job in of_key:
                if key in lost:
                    self._lose(job)
                else:
                    self._hold(job)

    async def wait_for_holder(self, job: Job) -> bool:
        """Wait while another process runs the same task; returns whether it is still to be run.

        A worker that is told to end waits no longer: see ``job.draining``. A store that is away lets it run: late acks
        promise at least once.
        """
        lease_s = self._settings.lease_s
        silence = Silence.of_lease(lease_s)
        try:
            leases = await self._leases()
            while not (job.abandoned or job.draining):
                lease = await leases.look(key_of(job))
                if lease is None:
                    return True
                if lease.ended:
                    age_s = (datetime.now(UTC) - lease.renewed_at).total_seconds()
                    return age_s > _ENDED_KEPT * lease_s
                silent = await silence.outlasts(lease_s, lease.renewed_at, leases.wait_writable)
                if silent and await leases.take(key_of(job), lease):
                    logger.warning("%s: its holder was silent for %g s; taking it over", job, lease_s)
                    self._hold(job)
                    return True
                await asyncio.sleep(silence.every_s)
        except StoreError as exc:
            logger.warning("%s is delivered again, and its lease could not be looked at: %s", job, exc)
        return True

    async def still_held(self, job: Job) -> bool:
        """Tell whether a leased job's outcome counts; asked when its code has ended, before anything is stored."""
        try:
            held = await (await self._leases()).held(key_of(job))
        except StoreError as exc:
            logger.warning("%s has ended, and its lease could not be looked at: %s", job, exc)
            return True
        if not held:
            self._lose(job)
        return held

    async def end(self, job: Job, *, succeeded: bool) -> None:
        """Let deliveries that wait know: drop them where the task is done, else let one of them run it."""
        try:
            leases = await self._leases()
            async with self._writing:
                await (leases.end(key_of(job)) if succeeded else leases.release(key_of(job)))
        except StoreError as exc:
            logger.warning("%s has ended, and its lease could not be given up: %s", job, exc)

    def _hold(self, job: Job) -> None:
        job.leased = True
        job.still_held = functools.partial(self.still_held, job)

    def _lose(self, job: Job) -> None:
        logger.error("%s was taken over by another process; its outcome here is ignored", job)
        job.leased, job.still_held = False, None
        self._on_lost(job)

    def _is_due(self, job: Job) -> bool:
        if job.abandoned or not job.late:
            return False
        # One that waits for another's lease has not begun, however long it waits.
        begun = job.task is not None or job.thread_ident is not None
        return job.leased or (begun and job.age_s >= self._settings.lease_s)

    async def _leases(self) -> Leases:
        from asyncworker.store import Leases

        return Leases(await shared_store(self._settings), self._holder)


def key_of(job: Job) -> str:
    """Name a delivery of a task: a retry is another one, under the same task id."""
    return f"{job.id}/{job.args[2].get('retries') or 0}"


def needs_lease(task: Any) -> bool:
    """Tell whether a task could be run twice because it takes long; a fan-out sees to that by itself."""
    return bool(task.acks_late) and not getattr(task, "holds_own_lease", False)
