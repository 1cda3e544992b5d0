"""The leases of a process's long tasks, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, update

from asyncworker.clock import SystemClock
from asyncworker.loop import get_loop_thread, live_jobs
from asyncworker.settings import Settings
from asyncworker.store import Leases, Store, schema, shared_store
from asyncworker.worker.job import Job, Reports
from asyncworker.worker.leases import LeaseKeeper, key_of

REPORTS = Reports(*[lambda *_: None] * 4)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store_url=f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", lease_s=0.05)


@pytest.fixture
def late_job() -> Iterator[Callable[..., Job]]:
    """Make jobs that are live, late, and started so long ago."""
    made: list[int] = []

    def make(keeper: LeaseKeeper, age_s: float = 60) -> Job:
        job = Job(print, ("t.late", "one-id", {"id": "one-id"}), REPORTS, soft_timeout_s=None, timeout_s=None)
        job.late, job.thread_ident, job.leases = True, 1, keeper
        job.started_at_s -= age_s
        live_jobs[job.pid] = job
        made.append(job.pid)
        return job

    yield make
    for pid in made:
        del live_jobs[pid]


def on_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    get_loop_thread().run(coroutine, timeout_s=120)


async def another(settings: Settings) -> Leases:
    return Leases(await shared_store(settings), "another process")


async def take_over(settings: Settings, job: Job) -> None:
    """Take a job's lease for another process."""
    other = await another(settings)
    while not await other.take(key_of(job), await other.look(key_of(job))):
        pass


def test_a_task_that_one_process_runs_twice_has_one_lease_and_loses_it_twice(
    settings: Settings, late_job: Callable[..., Job]
) -> None:
    lost: list[Job] = []
    keeper = LeaseKeeper(settings, lost.append)
    jobs = [late_job(keeper) for _ in range(2)]

    async def main() -> None:
        keeping = asyncio.create_task(keeper.keep())
        while not all(job.leased for job in jobs) or await (await another(settings)).look(key_of(jobs[0])) is None:
            await asyncio.sleep(0.01)
        await take_over(settings, jobs[0])
        while len(lost) < 2:
            await asyncio.sleep(0.01)
        keeping.cancel()

    on_loop(main())
    assert set(lost) == set(jobs)
    assert not any(job.leased for job in jobs)


async def _ended(settings: Settings, job: Job) -> None:
    await take_over(settings, job)
    await (await another(settings)).end(key_of(job))


async def _ended_and_forgotten(settings: Settings, job: Job) -> None:
    await _ended(settings, job)
    await (await another(settings)).forget_ended(-60)


async def _given_up(settings: Settings, job: Job) -> None:
    await take_over(settings, job)
    await (await another(settings)).release(key_of(job))


@pytest.mark.parametrize("ask", ["renewal", "end"])
@pytest.mark.parametrize("successor", [take_over, _ended, _ended_and_forgotten, _given_up])
def test_a_holder_that_was_overtaken_never_gets_its_lease_back(
    settings: Settings, late_job: Callable[..., Job], successor: Any, ask: str
) -> None:
    lost: list[Job] = []
    keeper = LeaseKeeper(settings, lost.append)
    job = late_job(keeper)

    async def main() -> None:
        await keeper.renew()
        await successor(settings, job)
        left = await (await another(settings)).look(key_of(job))
        if ask == "end":
            assert not await keeper.still_held(job)
        else:
            await keeper.renew()
        assert lost == [job]
        await keeper.end(job)
        assert await (await another(settings)).look(key_of(job)) == left

    on_loop(main())


@pytest.mark.parametrize("successor", [take_over, _ended])
def test_a_holder_that_was_frozen_before_it_took_its_lease_has_lost_the_task_too(
    settings: Settings, late_job: Callable[..., Job], successor: Any
) -> None:
    lost: list[Job] = []
    keeper = LeaseKeeper(settings, lost.append)
    job = late_job(keeper)

    async def main() -> None:
        await successor(settings, job)
        assert not await keeper.still_held(job)
        assert lost == [job]

    on_loop(main())


def test_a_task_that_is_sent_anew_under_its_id_gets_a_lease_of_its_own(
    settings: Settings, late_job: Callable[..., Job]
) -> None:
    lost: list[Job] = []
    keeper = LeaseKeeper(settings, lost.append)
    job = late_job(keeper)

    async def main() -> None:
        await _ended(settings, job)
        async with (await shared_store(settings)).writing() as connection:
            earlier = datetime.now(UTC) - timedelta(seconds=120)
            await connection.execute(update(schema.lease).values(renewed_at=earlier))
        assert await keeper.still_held(job)
        assert not lost

    on_loop(main())


def test_deliveries_that_come_again_start_one_at_a_time(settings: Settings, late_job: Callable[..., Job]) -> None:
    """None of them has run for long enough to need a lease yet."""
    keepers = [LeaseKeeper(settings, lambda job: None) for _ in range(3)]
    jobs = [late_job(keeper, age_s=0) for keeper in keepers]

    async def main() -> None:
        waiting = [asyncio.create_task(keeper.wait_for_holder(job)) for keeper, job in zip(keepers, jobs, strict=True)]
        done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 3:
            (first,) = [task for task in done if task.result()]
            assert sum(task.result() for task in done) == 1
            number = waiting.index(first)
            jobs[number].finished = True
            await keepers[number].end(jobs[number])
            done, others = await asyncio.wait(waiting)
        assert sum(task.result() for task in done) == 1
        assert not others

    on_loop(main())


def test_a_process_does_not_take_over_from_itself(settings: Settings, late_job: Callable[..., Job]) -> None:
    """However long its first delivery has not renewed the lease that both would share."""
    keeper = LeaseKeeper(settings, lambda job: None)
    first = late_job(keeper)

    async def main() -> None:
        await keeper.renew()
        second = late_job(keeper, age_s=0)
        waiting = asyncio.create_task(keeper.wait_for_holder(second))
        # Others would: they are behind this one in time.
        other = LeaseKeeper(settings, lambda job: None)
        assert await other.wait_for_holder(late_job(other, age_s=0))
        assert not await keeper.still_held(first)
        assert not waiting.done()
        waiting.cancel()

    on_loop(main())


@pytest.fixture
def store(settings: Settings) -> Callable[[], Coroutine[Any, Any, Store]]:
    return lambda: shared_store(settings)


def test_a_lease_that_vanished_is_lost(
    settings: Settings, late_job: Callable[..., Job], store: Callable[[], Coroutine[Any, Any, Store]]
) -> None:
    lost: list[Job] = []
    keeper = LeaseKeeper(settings, lost.append)
    job = late_job(keeper)

    async def main() -> None:
        await keeper.renew()
        async with (await store()).writing() as connection:
            await connection.execute(delete(schema.lease))
        await keeper.renew()
        assert lost == [job]

    on_loop(main())


class NamedReports:
    """The request of a message that the broker names."""

    def __init__(self, named: str) -> None:
        self.message = SimpleNamespace(sent_as=named)


@pytest.mark.parametrize("old", [False, True], ids=["just now", "long ago"])
@pytest.mark.promise("task-sent-again-runs")
def test_a_message_that_is_sent_again_under_an_id_that_has_ended_is_run(
    settings: Settings, late_job: Callable[..., Job], old: bool
) -> None:
    """Its worker has died: it is delivered again, as a copy of what has ended would be, which is not run."""

    async def main() -> None:
        ended_at = SetClock(datetime.now(UTC) - timedelta(hours=1 if old else 0))
        keeper = LeaseKeeper(settings, lambda _job: None, ended_at)
        first, copy, anew = late_job(keeper), late_job(keeper), late_job(keeper)
        for job, named in ((first, "first"), (copy, "first"), (anew, "second")):
            job.request = NamedReports(named)  # type: ignore[assignment]
        assert await keeper.still_held(first)
        first.finished = True
        await keeper.end(first)
        keeper = LeaseKeeper(settings, lambda _job: None)
        assert not await keeper.wait_for_holder(copy)
        assert await keeper.wait_for_holder(anew)

    on_loop(main())


class SetClock(SystemClock):
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


@pytest.mark.promise("lost-connection-takes-the-lease-at-once")
def test_a_task_whose_connection_is_lost_takes_its_lease_at_once(
    settings: Settings, late_job: Callable[..., Job]
) -> None:
    async def main() -> None:
        keeper = LeaseKeeper(msgspec.structs.replace(settings, lease_s=3600.0), lambda _job: None)
        job = late_job(keeper, age_s=0)
        keeping = asyncio.create_task(keeper.keep())
        assert not keeper.is_due(job)
        job.returned = True
        keeper.hurry()
        other = await another(settings)
        while await other.look(key_of(job)) is None:
            await asyncio.sleep(0.01)
        keeping.cancel()

    on_loop(main())
