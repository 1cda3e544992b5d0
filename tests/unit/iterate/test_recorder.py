"""The recorder: batched writes, and a store that lags, fails for a while, or for good."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncworker.clock import SystemClock
from asyncworker.errors import RunTakenOver, StoreError
from asyncworker.iterate import source_of
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.store import Batch, RunHold, Store
from tests.unit.iterate.running import execute, results_of


class Lagging:
    """A store whose writes wait until they may, or fail so many times."""

    def __init__(self, store: Store, failures: int = 0) -> None:
        self.may_write = asyncio.Event()
        self.failures = failures
        self.batches: list[Batch] = []
        self.under_way = 0
        self._real = store.write
        store.write = self.write  # type: ignore[method-assign]

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        assert not self.under_way
        self.under_way += 1
        try:
            await self.may_write.wait()
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is full")
            self.batches.append(batch)
            return await self._real(hold, batch, first_chunk)
        finally:
            self.under_way -= 1


async def test_a_store_that_lags_holds_the_pullers_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreRecorder, "ITEMS_HELD", 50)
    lagging = Lagging(store)
    executed = 0

    async def call(row: dict[str, Any]) -> None:
        nonlocal executed
        executed += 1

    task = asyncio.create_task(execute(call, source_of({"x": range(1000)}), store, concurrency=4))
    while not lagging.under_way:
        await asyncio.sleep(0.001)
    for _ in range(100):
        await asyncio.sleep(0)
    assert executed < 200
    lagging.may_write.set()
    outcome = await task
    assert outcome.progress.done == executed == 1000


class AwayClock(SystemClock):
    """Of a process that may have been away."""

    away_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.away_s


async def test_who_was_away_for_a_lease_begins_nothing_until_it_has_written(store: Store) -> None:
    """It was taken over meanwhile, and the store is slow to tell."""
    lagging = Lagging(store)
    lagging.may_write.set()
    clock = AwayClock()
    executed = 0

    async def call(row: dict[str, Any]) -> None:
        nonlocal executed
        await asyncio.sleep(0.001)
        executed += 1

    source = source_of({"x": range(100_000)})
    task = asyncio.create_task(execute(call, source, store, concurrency=4, lease_s=60, clock=clock))
    while executed < 100:
        await asyncio.sleep(0.001)
    lagging.may_write.clear()
    while not lagging.under_way:
        await asyncio.sleep(0.001)
    lately = executed
    while executed < lately + 100:  # a store that is slow is nothing to wait for
        await asyncio.sleep(0.001)
    clock.away_s = 60
    while executed != lately:  # the slice of time ends in which nobody asks; it is over for who was away indeed
        lately = executed
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.2)
    begun_before_it_wrote = executed - lately
    await execute(lambda row: asyncio.sleep(0), source_of({"x": range(100_000)}), Store(store._engine), resume=True)
    lagging.may_write.set()
    with pytest.raises(RunTakenOver):
        await task
    assert begun_before_it_wrote == 0
    assert executed == lately


async def test_who_was_away_and_still_holds_the_run_goes_on(store: Store) -> None:
    clock = AwayClock()
    executed = 0

    async def call(row: dict[str, Any]) -> None:
        nonlocal executed
        executed += 1
        clock.away_s += 20
        await asyncio.sleep(0)

    outcome = await execute(call, source_of({"x": range(50)}), store, concurrency=4, lease_s=60, clock=clock)
    assert outcome.progress.done == executed == 50


async def test_a_store_whose_answers_all_come_too_late_ends_the_run(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    clock = AwayClock()
    write = store.write

    async def late(hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        cancel_requested = await write(hold, batch, first_chunk)
        clock.away_s += 61
        return cancel_requested

    async def call(row: dict[str, Any]) -> int:
        clock.away_s += 61
        await asyncio.sleep(0.01)
        return int(row["x"])

    store.write = late  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="more than a lease"):
        await execute(call, source_of({"x": range(50)}), store, concurrency=1, lease_s=60, clock=clock)
    assert "no item begins until it takes less" in caplog.text
    store.write = write  # type: ignore[method-assign]
    outcome = await execute(call, source_of({"x": range(50)}), store, redelivered=True, concurrency=1)
    assert outcome.progress.done == 50


async def test_a_store_that_fails_for_a_while_is_tried_again(store: Store) -> None:
    lagging = Lagging(store, failures=2)
    lagging.may_write.set()

    async def call(row: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return int(row["x"])

    outcome = await execute(call, source_of({"x": range(500)}), store)
    assert lagging.failures == 0
    assert outcome.progress.done == 500
    assert await results_of(store) == [(index, index) for index in range(500)]


async def test_a_store_that_fails_for_good_ends_the_run(store: Store) -> None:
    store.patience_s = 0.0
    lagging = Lagging(store, failures=10**9)
    lagging.may_write.set()

    async def call(row: dict[str, Any]) -> None:
        await asyncio.Event().wait() if row["x"] == 3 else None

    with pytest.raises(StoreError, match="the disk is full"):
        await execute(call, source_of({"x": range(10)}), store)


async def test_transactions_go_with_time_and_not_with_items(store: Store) -> None:
    lagging = Lagging(store)
    lagging.may_write.set()

    async def call(row: dict[str, Any]) -> int:
        return int(row["x"])

    outcome = await execute(call, source_of({"x": range(17_000)}), store, checkpoint_every_s=0.25)
    elapsed_s = (outcome.progress.updated_at - outcome.progress.started_at).total_seconds()
    assert len(lagging.batches) <= elapsed_s * 4 + 5
    assert all(len(chunk.indexes) <= 1000 for batch in lagging.batches for chunk in batch.results)


async def test_two_items_of_one_key_are_told_apart(store: Store) -> None:
    async def call(row: dict[str, Any]) -> str:
        return str(row["x"])

    outcome = await execute(call, source_of({"x": ["a", "b", "a"]}), store, key="x")
    assert [(failure.index, failure.key) for failure in outcome.failures] == [(2, "a")]
    assert "the same key as item 0" in outcome.failures[0].message
    assert await results_of(store) == [(0, "a"), (1, "b")]
