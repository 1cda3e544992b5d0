"""Long late-ack tasks hold a lease: a task that outlasts the broker's visibility timeout is not run twice.

A task on its first delivery costs nothing until it has run for half of ``lease_s``, before anybody could take its
process for dead, or until the connection that it came by is lost, when its message returns to its queue. Then its lease
is taken, and renewed while it lives, all of a process's in one transaction. A task that was delivered again takes its
lease before it starts: it waits while the holder lives, is dropped when the holder finishes it, and takes over from a
holder that is silent. A holder that finds its lease gone or another's has lost the task for good.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from asyncworker.clock import SYSTEM_CLOCK, Clock, first_of
from asyncworker.errors import AsyncWorkerError, StoreError
from asyncworker.loop import live_jobs
from asyncworker.settings import Settings
from asyncworker.store import opened_store, shared_store
from asyncworker.worker.job import Job
from asyncworker.worker.message import sent_as
from asyncworker.worker.ownership import on_suspicion, suspects

if TYPE_CHECKING:
    from asyncworker.store import Lease, Leases

__all__ = ["LeaseKeeper", "needs_lease"]

logger = logging.getLogger(__name__)

#: How long a finished lease turns deliveries away that wait for it, in multiples of ``lease_s``, where the broker does
#: not tell a message that comes again from another one of the same task id.
_ENDED_COUNTS = 2
#: How often holders are looked at.
WATCHES_A_LEASE = 10
#: How long finished leases are kept for a holder that was frozen meanwhile, and how often older ones are deleted.
_ENDED_RETENTION_S = 3600.0
_SWEEP_EVERY_S = 60.0


class LeaseKeeper:
    """The leases of this process's tasks. Used on the loop thread.

    Args:
        settings: ``lease_s``.
        on_lost: Called with a job whose lease another process has taken; its outcome must not count.
        clock: Time.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[Job], None], clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._on_lost = on_lost
        self._clock = clock
        #: What this process has taken: whoever finds one of them gone has lost it, and does not take it again. This
        #: process may run one task twice, where it was delivered again to it: one lease then.
        self._held: set[str] = set()
        #: A claim that overtook the release of a lease would bring it back, and nobody would end it again.
        self._claiming = asyncio.Lock()
        self._holder = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex}"
        self._swept_at_s = -_SWEEP_EVERY_S
        self._hurried = asyncio.Event()

    async def keep(self) -> None:
        """Take and renew leases for as long as the loop runs."""
        while True:
            await first_of(self._hurried, self._settings.lease_s / 3, self._clock)
            self._hurried.clear()
            try:
                await self.renew()
            except Exception:
                # Whatever one of them causes: without this loop all of them would be taken over.
                logger.exception("leases could not be renewed; it is tried again")

    def hurry(self) -> None:
        """Take the leases that are due at once: messages may have returned to their queues."""
        self._hurried.set()

    async def watch(self) -> None:
        """Watch for silent holders for as long as the loop runs, once this process has opened the store.

        A reason to open it is that another process may have died, by what the broker knows: what it held is delivered
        again after a lease, and by then its holder has to be known to be silent for as long.
        """
        suspected = asyncio.Event()
        notice = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, suspected.set)
        with on_suspicion(notice):
            while True:
                await self.look()
                await first_of(suspected, self._settings.lease_s / WATCHES_A_LEASE, self._clock)
                suspected.clear()

    async def look(self) -> None:
        """Look once at the signs of life of all holders."""
        try:
            store = await shared_store(self._settings) if suspects() else opened_store(self._settings)
            if store is not None:
                from asyncworker.store import look_at_holders

                await look_at_holders(store, self._settings.lease_s / WATCHES_A_LEASE, self._clock)
        except AsyncWorkerError as exc:
            logger.debug("holders cannot be looked at: %s", exc)

    async def renew(self) -> None:
        """Take the leases that are due, and renew those that are held."""
        jobs: dict[str, list[Job]] = defaultdict(list)
        for job in list(live_jobs.values()):
            if isinstance(job, Job) and job.leases is self and self.is_due(job):
                jobs[key_of(job)].append(job)
        if not jobs:
            return
        try:
            lost = await self._secure(jobs)
            await self._sweep()
        except StoreError as exc:
            logger.warning("the leases of %d long tasks could not be renewed: %s", len(jobs), exc)
            return
        for key in lost:
            for job in jobs[key]:
                if not (job.settled or job.abandoned):
                    self._lose(job)

    async def _secure(self, jobs: Mapping[str, list[Job]]) -> set[str]:
        """Renew the leases of these jobs, or take them for the first time; return the keys of those that are lost."""
        leases = await self._leases()
        lost: set[str] = set()
        held = jobs.keys() & self._held
        if held:
            lost |= await leases.renew(held)
            self._held -= lost
        if held != jobs.keys():
            async with self._claiming:
                lost |= await self._claim(leases, {key: jobs[key] for key in jobs.keys() - held})
        return lost

    async def _claim(self, leases: Leases, jobs: Mapping[str, list[Job]]) -> set[str]:
        started_at: dict[str, datetime] = {}
        for key, of_key in jobs.items():
            for job in of_key:
                # Before it is looked whether the job has ended: whoever ends it looks in the other order.
                job.leased = True
                if not job.settled:
                    started_at[key] = self._clock.now() - timedelta(seconds=job.age_s)
        refused = await leases.claim(started_at) if started_at else set()
        self._held |= started_at.keys() - refused
        return refused

    async def _sweep(self) -> None:
        if self._clock.monotonic() - self._swept_at_s >= _SWEEP_EVERY_S:
            self._swept_at_s = self._clock.monotonic()
            await (await self._leases()).forget_ended(max(_ENDED_COUNTS * self._settings.lease_s, _ENDED_RETENTION_S))

    async def wait_for_holder(self, job: Job) -> bool:
        """Wait while another process runs the same task, then take its lease; return whether it is still to be run.

        A worker that is told to end waits no longer: see ``job.draining``. A store that is away lets it run: late acks
        promise at least once.
        """
        key, lease_s = key_of(job), self._settings.lease_s
        try:
            leases = await self._leases()
            silence = leases.silence_of(key, lease_s)
            if await leases.look(key) is None:
                # A holder that has lost its connection just now is about to take it.
                await self._clock.sleep(silence.pause_s)
            while not (job.abandoned or job.draining):
                seen = await leases.look(key)
                if seen is not None and seen.ended and (sent_as(job.message) or self.is_recent(seen.renewed_at)):
                    return False
                if seen is None or seen.ended:
                    if await self._take(leases, job, seen):
                        return True
                elif key not in self._held and await silence.outlasts(lease_s, seen.renewed_at, leases.wait_writable):
                    if await self._take(leases, job, seen):
                        logger.warning("%s: its holder was silent for %g s; taking it over", job, lease_s)
                        return True
                else:
                    await self._clock.sleep(silence.pause_s)
        except StoreError as exc:
            logger.warning("%s is delivered again, and its lease could not be looked at: %s", job, exc)
        return True

    def is_recent(self, ended_at: datetime) -> bool:
        """Tell whether an end is so recent that a delivery under the same task id counts as a copy."""
        return (self._clock.now() - ended_at).total_seconds() <= _ENDED_COUNTS * self._settings.lease_s

    async def _take(self, leases: Leases, job: Job, seen: Lease | None) -> bool:
        async with self._claiming:
            taken = await leases.take(key_of(job), seen)
            if taken:
                job.leased = True
                self._held.add(key_of(job))
        return taken

    def is_due(self, job: Job) -> bool:
        """Tell whether a job holds a lease, or has run for so long that it needs one. From any thread."""
        if job.lost or not job.late:
            return False
        if job.abandoned:  # its outcome was reported: who waits is to hear of it once its code has ended
            return job.leased and job.finished
        # One that waits for another's lease has not begun, however long it waits.
        begun = job.task is not None or job.thread_ident is not None
        return job.leased or (begun and (job.returned or job.age_s >= self._settings.lease_s / 2))

    async def still_held(self, job: Job) -> bool:
        """Tell whether the outcome of a job that `is_due` counts; asked when its code has ended, before any is stored.

        It is renewed by that, so there is the time of a lease for storing the outcome.
        """
        try:
            lost = await self._secure({key_of(job): [job]})
        except StoreError as exc:
            logger.warning("%s has ended, and its lease could not be looked at: %s", job, exc)
            return True
        if lost:
            self._lose(job)
        return not lost

    async def end(self, job: Job) -> None:
        """Let deliveries that wait know: drop them where the task is finished, else let one of them run it."""
        try:
            leases = await self._leases()
            async with self._claiming:
                self._held.discard(key_of(job))
                await (leases.end(key_of(job)) if job.finished else leases.release(key_of(job)))
        except StoreError as exc:
            logger.warning("%s has ended, and its lease could not be given up: %s", job, exc)

    def _lose(self, job: Job) -> None:
        logger.error("%s was taken over by another process; its outcome here is ignored", job)
        job.leased = False
        self._on_lost(job)

    async def _leases(self) -> Leases:
        store = await shared_store(self._settings)  # which imports what follows off the loop
        from asyncworker.store import Leases

        return Leases(store, self._holder, self._clock)


def key_of(job: Job) -> str:
    """Name a message of a task: a retry is another one, under the same task id, and so is what is sent again."""
    named = sent_as(job.message)
    return f"{job.id}/{job.args[2].get('retries') or 0}" + (f"/{named}" if named else "")


def needs_lease(task: Any) -> bool:
    """Tell whether a task could be run twice because it takes long; a fan-out sees to that by itself."""
    return bool(task.acks_late) and not getattr(task, "holds_own_lease", False)
