"""The leases of a process's long tasks, without a broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from asyncworker.loop import get_loop_thread, live_jobs
from asyncworker.settings import Settings
from asyncworker.store import Leases, shared_store
from asyncworker.worker.job import Job, Reports
from asyncworker.worker.leases import LeaseKeeper, key_of

REPORTS = Reports(*[lambda *_: None] * 4)


def _late_job(number: int) -> Job:
    job = Job(print, ("t.late", "one-id", {"id": "one-id"}), REPORTS, soft_timeout_s=None, timeout_s=None)
    job.late, job.thread_ident = True, number
    job.started_at_s -= 60
    return job


def test_a_task_that_one_process_runs_twice_has_one_lease_and_loses_it_twice(tmp_path: Path) -> None:
    settings = Settings(store_url=f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", lease_s=0.05)
    jobs = {-number: _late_job(number) for number in (1, 2)}
    lost: list[Job] = []

    async def main() -> None:
        keeping = asyncio.create_task(LeaseKeeper(settings, lost.append).keep())
        while not all(job.still_held for job in jobs.values()):
            await asyncio.sleep(0.01)
        other: Any = Leases(await shared_store(settings), "another process")
        while not (lease := await other.look(key_of(jobs[-1]))) or not await other.take(key_of(jobs[-1]), lease):
            await asyncio.sleep(0.01)
        while len(lost) < 2:
            await asyncio.sleep(0.01)
        keeping.cancel()

    live_jobs.update(jobs)
    try:
        get_loop_thread().run(main(), timeout_s=30)
    finally:
        for number in jobs:
            del live_jobs[number]
    assert set(lost) == set(jobs.values())
    assert not any(job.leased for job in jobs.values())
