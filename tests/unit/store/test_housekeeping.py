"""What is old goes, whole; what is not stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from asyncworker.errors import PayloadError, RunExpired, RunNotFound
from asyncworker.store import Housekeeper, Partitions, Payload, Payloads, Store, schema
from tests.unit.store import test_store
from tests.unit.store.test_store import batch, failure, request

url = test_store.url
store = test_store.store

LONG_AGO = datetime.now(UTC) - timedelta(days=3)


@pytest.fixture
async def housekeeper(store: Store) -> AsyncIterator[Housekeeper]:
    housekeeper = Housekeeper(store, keep_s=86400.0)
    housekeeper._task.cancel()  # it would sweep at any time
    yield housekeeper
    await housekeeper.close()


async def ended(store: Store, run_id: str, at: datetime, state: str = "done") -> None:
    hold = await store.begin_run(request(run_id))
    values = batch([0, 1], [b"0", b"1"], failures=[failure(2)], state=state, complete=state == "done", at=at)
    await store.write(hold, values, 0)


async def rows(store: Store) -> int:
    async with store.reading() as connection:
        tables = [table for table in schema.metadata.sorted_tables if "run_id" in table.c]
        return sum([await connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables])


@pytest.mark.promise("finished-runs-are-deleted")
async def test_runs_that_ended_long_ago_are_deleted_whole(store: Store, housekeeper: Housekeeper) -> None:
    for number in range(50):
        await ended(store, f"old {number}", LONG_AGO, "failed" if number % 2 else "done")
    await ended(store, "young", datetime.now(UTC))
    await ended(store, "unended", LONG_AGO, "running")
    await ended(store, "put back", LONG_AGO, "pending")
    assert await housekeeper.sweep() == 50
    assert sorted(run.run_id for run in await store.runs(limit=100)) == ["put back", "unended", "young"]
    assert await rows(store) == 9
    for call in (store.progress, store.request_of):
        with pytest.raises(RunExpired, match=r"run old 1 of task ended \(failed\) at .* was deleted at"):
            await call("old 1")
    with pytest.raises(RunNotFound, match="no run 'never'"):
        await store.progress("never")
    # Begun again, it is a run as any other.
    await store.begin_run(request("old 1"))
    assert (await store.progress("old 1")).state == "running"
    assert await housekeeper.sweep() == 0


async def test_partitions_go_with_their_run_and_not_before(store: Store, housekeeper: Housekeeper) -> None:
    hold = await store.begin_run(request("whole"))
    await Partitions(store).plan(hold, [request("whole/0"), request("whole/1")], again=False)
    table = schema.run
    async with store.writing() as connection:
        old = {"state": "done", "finished_at": LONG_AGO}
        await connection.execute(update(table).where(table.c.run_id != "whole").values(old))
    assert await housekeeper.sweep() == 0
    async with store.writing() as connection:
        await connection.execute(update(table).values(old))
    assert await housekeeper.sweep() == 1
    assert await rows(store) == 0


async def test_large_results_go_with_their_run(store: Store, housekeeper: Housekeeper, tmp_path: Path) -> None:
    payloads = store.payloads = Payloads(str(tmp_path / "payloads"))

    def put() -> list[Payload]:
        return [payloads.put_result("old", b"1"), payloads.put_result("young", b"2"), payloads.put_source(b"3")]

    old, young, source = await asyncio.to_thread(put)
    await ended(store, "old", LONG_AGO)
    await ended(store, "young", datetime.now(UTC))
    assert await housekeeper.sweep() == 1
    assert await asyncio.to_thread(payloads.get, young) == b"2"
    assert await asyncio.to_thread(payloads.get, source) == b"3"
    with pytest.raises(PayloadError):
        await asyncio.to_thread(payloads.get, old)
