"""Deliveries of one late-ack task to several workers: one outcome, and nobody gets back what he has lost."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from celery.exceptions import Ignore

from asyncworker.loop import live_jobs
from asyncworker.settings import Settings
from asyncworker.store import Deliveries, Leases, Store
from asyncworker.worker.deliveries import DeliveryGuard
from asyncworker.worker.job import Job, Reports
from asyncworker.worker.leases import LeaseKeeper
from tests.interleavings.exploring import explore, explore_at_random
from tests.interleavings.world import Holder, World

LEASE_S = 3.0
REPORTS = Reports(*[lambda *_: None] * 4)

_numbers = itertools.count()


class TimedJob(Job):
    """A job that is as old as its holder's clock says."""

    __slots__ = ("accepted_at_s", "holder")

    def __init__(self, holder: Holder, redelivered: bool) -> None:
        request = {"id": "one", "delivery_info": {"redelivered": redelivered}}
        super().__init__(print, ("t.late", "one", request), REPORTS, soft_timeout_s=None, timeout_s=None)
        self.holder = holder
        self.accepted_at_s = holder.monotonic()
        self.late = True

    @property
    def age_s(self) -> float:
        return self.holder.monotonic() - self.accepted_at_s


class HolderLeases(LeaseKeeper):
    """The keeper of one holder."""

    def __init__(self, holder: Holder, settings: Settings) -> None:
        super().__init__(settings, self.lose, clock=holder)
        self.holder = holder
        self._holder = f"{holder.name} {next(_numbers)}"

    def lose(self, job: Job) -> None:
        job.abandoned = job.lost = True
        self.holder.world.say(f"{self.holder.name} has lost the task")

    async def _leases(self) -> Leases:
        return Leases(self.holder.store, self._holder, self._clock)


class HolderGuard(DeliveryGuard):
    """The guard of one holder."""

    def __init__(self, holder: Holder, settings: Settings, leases: LeaseKeeper) -> None:
        super().__init__(settings, leases, None)
        self.holder = holder

    async def _has_succeeded(self, job: Job) -> bool:
        """These tasks store no result."""
        return False

    async def _deliveries(self) -> Deliveries:
        return Deliveries(self.holder.store)


class OneTask:
    """A task whose message is delivered to each holder; one that goes back to the queue comes again.

    Attributes:
        outcomes: Who has stored one.
    """

    def __init__(
        self, world: World, work_s: float, deliveries: int, *, watched: bool = False, returned: bool = False
    ) -> None:
        self.world = world
        #: The connection of the first delivery is lost, which is why the others are made.
        self.returned = returned
        self.watched = watched
        self.work_s = work_s
        self.settings = Settings(lease_s=LEASE_S, max_deliveries=20)
        self.outcomes: list[Holder] = []
        self.lost: list[Job] = []
        for number in range(deliveries):
            world.add("abc"[number], lambda holder, number=number: self.start(holder, redelivered=number > 0))

    async def start(self, holder: Holder, *, redelivered: bool) -> None:
        if self.watched:
            holder.world.spawn(holder.watch(LEASE_S))
            await holder.sleep(LEASE_S / 2 if redelivered else 0)
        await self.deliver(holder, redelivered=redelivered)

    async def deliver(self, holder: Holder, *, redelivered: bool) -> None:
        keeper = HolderLeases(holder, self.settings)
        guard = HolderGuard(holder, self.settings, keeper)
        job = TimedJob(holder, redelivered)
        job.leases = keeper
        job.returned = self.returned and not redelivered
        live_jobs[job.pid] = job
        keeping = holder.world.spawn(keeper.keep())
        if job.returned:
            keeper.hurry()
        try:
            done = await self.run(holder, job, guard)
        finally:
            keeping.cancel()
            live_jobs.pop(job.pid, None)
        if not done:
            self.world.say(f"{holder.name} gives its message back")
            await self.deliver(holder, redelivered=True)

    async def run(self, holder: Holder, job: TimedJob, guard: DeliveryGuard) -> bool:
        if guard.concerns(job):
            refusal = await guard.admit(job)
            if refusal is not None:
                assert isinstance(refusal, Ignore)
                self.world.say(f"{holder.name} drops its message")
                return True
        job.thread_ident = 1
        self.world.say(f"{holder.name} runs the task")
        await holder.sleep(self.work_s)
        if job.lost:
            return False
        with holder.uncut():
            if not await job.is_held():
                return False
            await holder.point("store the outcome")
            self.world.say(f"{holder.name} stores its outcome")
            self.outcomes.append(holder)
            job.finished = job.settled = True
            await guard.end(job)
        await holder.point("acknowledge")
        return True

    async def check(self) -> None:
        """One outcome; a second one only where the first one's holder died before it could acknowledge."""
        survivors = [holder for holder in self.outcomes if not holder.dead]
        assert len(survivors) <= 1
        assert self.outcomes
        assert len(self.outcomes) <= 1 + sum(holder.dead for holder in self.world.holders.values())


def one_task(
    work_s: float, deliveries: int = 2, **how: bool
) -> Callable[[World], Awaitable[Callable[[], Awaitable[None]]]]:
    async def scenario(world: World) -> Any:
        return OneTask(world, work_s, deliveries, **how).check

    return scenario


async def test_a_task_that_is_delivered_twice_has_one_outcome(store: Store, every: int) -> None:
    assert await explore(store, one_task(4.0), deviations=2, every=every) > 1


async def test_of_three_deliveries_one_counts(store: Store, seed: int, schedules: int) -> None:
    await explore_at_random(store, one_task(7.0, 3), seed=seed, schedules=schedules)


async def test_workers_that_watch_before_the_message_comes_do_not_take_it_from_who_lives(
    store: Store, seed: int, schedules: int
) -> None:
    await explore_at_random(store, one_task(7.0, 3, watched=True), seed=seed, schedules=schedules)


@pytest.mark.promise("lost-connection-takes-the-lease-at-once")
async def test_a_short_task_whose_connection_is_lost_has_one_outcome(store: Store, every: int) -> None:
    """It would need no lease; but its message is with others now."""
    assert await explore(store, one_task(LEASE_S / 6, returned=True), deviations=2, every=every) > 1
