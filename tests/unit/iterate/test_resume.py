"""Runs that are cancelled, taken over, drained or changed, and gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import RunCancelled, RunChanged, RunDrained, RunTakenOver, SettingsError, SourceError
from asyncworker.iterate import Drain, source_of
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.store import RunRequest, Store, open_store, schema
from tests.unit.iterate.clocks import IdleClock
from tests.unit.iterate.running import Process, execute, results_of, undisturbed


@pytest.fixture(autouse=True, scope="module")
def frequent_writes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreRecorder, "HEARTBEAT_S", 0.01)
        yield


@pytest.fixture
async def clock() -> AsyncIterator[IdleClock]:
    clock = IdleClock()
    async with clock.running():
        yield clock


async def test_a_cancelled_run_records_all_that_was_done(store: Store) -> None:
    executed: list[int] = []

    async def call(row: dict[str, Any]) -> int:
        if row["x"] >= 30:
            await asyncio.Event().wait()
        executed.append(row["x"])
        return int(row["x"])

    task = asyncio.create_task(execute(call, source_of({"x": range(100)}), store, concurrency=5, checkpoint_every_s=60))
    while len(executed) < 30:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    progress = await store.progress("run")
    assert (progress.done, progress.state) == (30, "pending")

    async def rest(row: dict[str, Any]) -> int:
        executed.append(row["x"])
        return int(row["x"])

    outcome = await execute(rest, source_of({"x": range(100)}), store, redelivered=True)
    assert sorted(executed) == list(range(100))
    assert (outcome.progress.resumed, outcome.progress.attempt, outcome.progress.done) == (30, 2, 100)
    assert await results_of(store) == [(index, index) for index in range(100)]


async def test_a_run_is_cancelled_through_the_store(store: Store) -> None:
    started = asyncio.Event()

    async def call(row: dict[str, Any]) -> int:
        if row["x"] == 3:
            started.set()
            await asyncio.Event().wait()
        return int(row["x"])

    task = asyncio.create_task(execute(call, source_of({"x": range(100)}), store, concurrency=1))
    await started.wait()
    await store.request_cancel("run")
    with pytest.raises(RunCancelled, match="run run was cancelled"):
        await task
    progress = await store.progress("run")
    assert (progress.state, progress.done) == ("cancelled", 3)
    outcome = await execute(call, source_of({"x": range(100)}), store, redelivered=True)
    with pytest.raises(RunCancelled):
        outcome.raise_for_failures()


async def test_a_holder_that_is_overtaken_stops_and_spoils_nothing(store: Store) -> None:
    release = asyncio.Event()

    async def slow(row: dict[str, Any]) -> str:
        await release.wait()
        return "slow"

    async def fast(row: dict[str, Any]) -> str:
        return "fast"

    source = source_of({"x": range(10)})
    first = asyncio.create_task(execute(slow, source, store))
    while not await store.runs():
        await asyncio.sleep(0)
    # A busy machine answers within that: the new holder begins no item while it may have lost the run.
    outcome = await execute(fast, source, store, resume=True, force=True, lease_s=60)
    release.set()
    with pytest.raises(RunTakenOver):
        await first
    assert outcome.progress.state == "done"
    assert await results_of(store) == [(index, "fast") for index in range(10)]
    assert await store.progress("run") == outcome.progress


#: What a second delivery says of itself. One that lay with a frozen process calls itself the first, and comes late.
SECOND: list[dict[str, Any]] = [
    {"redelivered": True},
    {"redelivered": True, "resume": True},
    {"redelivered": False},
    {"redelivered": False, "resume": True, "message": "first"},
]


@pytest.mark.parametrize("says", SECOND)
async def test_a_second_delivery_waits_for_the_holder_and_is_told_the_outcome(
    store: Store, says: dict[str, Any]
) -> None:
    release = asyncio.Event()

    async def slow(row: dict[str, Any]) -> str:
        await release.wait()
        return "slow"

    async def never(row: dict[str, Any]) -> str:
        raise AssertionError("run twice")

    source = source_of({"x": range(10)})
    first = asyncio.create_task(execute(slow, source, store, message="first", checkpoint_every_s=0.01))
    while not await store.runs():
        await asyncio.sleep(0)
    second = asyncio.create_task(execute(never, source, store, lease_s=2.0, **says))
    done, _ = await asyncio.wait([second], timeout=4.0)  # twice the lease
    assert not done
    release.set()
    assert (await first).progress == (await second).progress
    assert await results_of(store) == [(index, "slow") for index in range(10)]


@pytest.mark.parametrize("says", SECOND)
async def test_a_second_delivery_takes_over_from_a_holder_that_is_silent(store: Store, says: dict[str, Any]) -> None:
    async def fast(row: dict[str, Any]) -> str:
        return "fast"

    source = source_of({"x": range(10)})
    # Begun, and never heard of again.
    fingerprint = source.fingerprint(b"fixed")
    await store.begin_run(RunRequest(run_id="run", task="task", fingerprint=fingerprint, total=10, message="first"))
    outcome = await execute(fast, source, store, lease_s=0.1, **says)
    assert (outcome.progress.attempt, outcome.progress.state) == (2, "done")


@pytest.mark.parametrize("deliveries", [2, 5])
async def test_of_deliveries_that_wait_for_a_silent_holder_only_one_takes_over(store: Store, deliveries: int) -> None:
    executed: list[int] = []

    async def call(row: dict[str, Any]) -> int:
        executed.append(row["x"])
        await asyncio.sleep(0.001)
        return int(row["x"])

    source = source_of({"x": range(100)})
    await store.begin_run(
        RunRequest(run_id="run", task="task", fingerprint=source.fingerprint(b"fixed"), total=100), redelivered=False
    )
    outcomes = await asyncio.gather(
        *(execute(call, source, store, redelivered=True, lease_s=2.0, concurrency=5) for _ in range(deliveries))
    )
    assert {(outcome.progress.attempt, outcome.progress.done) for outcome in outcomes} == {(2, 100)}
    assert sorted(executed) == list(range(100))


async def test_a_holder_that_cannot_write_because_nobody_can_is_not_taken_over(tmp_path: Path) -> None:
    """A process that is frozen within a transaction keeps SQLite's write lock: that is no silence of the holder."""
    path = tmp_path / "store.sqlite"
    store, other = [await open_store(f"sqlite+aiosqlite:///{path}") for _ in range(2)]
    release = asyncio.Event()
    executed: list[int] = []

    async def call(row: dict[str, Any]) -> int:
        executed.append(row["x"])
        await release.wait()
        return int(row["x"])

    source = source_of({"x": range(5)})
    first = asyncio.create_task(execute(call, source, store))
    while len(executed) < 5:
        await asyncio.sleep(0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as frozen:
        frozen.execute("BEGIN IMMEDIATE")
        second = asyncio.create_task(execute(call, source, other, redelivered=True, lease_s=0.5))
        await asyncio.sleep(2)
        release.set()
        frozen.execute("ROLLBACK")
        assert (await first).progress == (await second).progress
    assert executed == list(range(5))
    await store.close()
    await other.close()


async def test_a_drained_run_finishes_what_is_in_flight_and_leaves_the_rest(store: Store) -> None:
    executed: list[int] = []
    drain = Drain(grace_s=30)

    async def call(row: dict[str, Any]) -> int:
        if row["x"] == 20:
            drain.request()
        await asyncio.sleep(0)
        executed.append(row["x"])
        return int(row["x"])

    source = source_of({"x": range(100)})
    with pytest.raises(RunDrained):
        await execute(call, source, store, concurrency=5, drain=drain)
    progress = await store.progress("run")
    assert (progress.state, progress.ended, progress.done) == ("pending", False, len(executed))
    assert 20 < len(executed) < 30
    outcome = await execute(call, source, store, redelivered=True)  # released: no waiting
    assert (outcome.progress.done, outcome.progress.state) == (100, "done")
    assert sorted(executed) == list(range(100))


async def test_only_what_failed_is_run_when_a_complete_run_is_resumed(store: Store) -> None:
    broken = True
    executed: list[int] = []

    async def call(row: dict[str, Any]) -> int:
        executed.append(row["x"])
        if broken and row["x"] in (2, 5):
            raise ValueError
        return int(row["x"])

    source = source_of({"x": range(8)})
    outcome = await execute(call, source, store)
    assert (outcome.progress.failed, outcome.progress.complete) == (2, True)
    broken, executed = False, []
    outcome = await execute(call, source, store, resume=True)
    assert executed == [2, 5]
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.state) == (8, 0, "done")
    assert await results_of(store) == [(index, index) for index in range(8)]
    executed = []
    await execute(call, source, store)
    assert executed == list(range(8))


async def test_inline_results_include_those_of_earlier_attempts(store: Store, clock: IdleClock) -> None:
    with pytest.raises(RunTakenOver):
        await Process(store, clock, 20).run(source_of({"x": range(50)}), results="inline", concurrency=3)
    outcome = await Process(store, clock, None).run(source_of({"x": range(50)}), results="inline")
    assert outcome.results == undisturbed(list(range(50)))[0]


async def test_a_redelivered_run_that_has_ended_tells_its_outcome(store: Store, clock: IdleClock) -> None:
    source = source_of({"x": range(30)})
    ended = await Process(store, clock, None).run(source, results="inline")

    async def never(row: dict[str, Any]) -> None:
        raise AssertionError("run again")

    told = await execute(never, source, store, results="inline", redelivered=True)
    assert (told.progress, told.failures, told.results) == (ended.progress, ended.failures, ended.results)


async def test_a_result_that_cannot_be_stored_fails_its_item_alone(store: Store) -> None:
    async def call(row: dict[str, Any]) -> Any:
        return object() if row["x"] == 1 else row["x"]

    outcome = await execute(call, source_of({"x": range(3)}), store, retries=5)
    assert [(failure.index, failure.type, failure.attempt) for failure in outcome.failures] == [(1, "TypeError", 1)]
    assert await results_of(store) == [(0, 0), (2, 2)]


async def test_results_are_dropped_where_they_are_not_wanted(store: Store) -> None:
    async def call(row: dict[str, Any]) -> Any:
        return object()

    outcome = await execute(call, source_of({"x": range(3)}), store, results="none")
    assert (outcome.progress.done, outcome.results) == (3, None)
    assert await results_of(store) == []


async def test_a_source_that_raises_is_gone_on_with(store: Store) -> None:
    executed: list[int] = []
    whole = False

    async def pages() -> AsyncIterator[int]:
        for value in range(10):
            if value == 6 and not whole:
                raise OSError("gone")
            yield value

    async def call(row: dict[str, Any]) -> None:
        executed.append(row["x"])

    with pytest.raises(SourceError):
        await execute(call, source_of({"x": pages()}), store)
    progress = await store.progress("run")
    assert (progress.state, progress.done, progress.complete) == ("failed", 6, False)
    assert "OSError: gone" in progress.error
    whole = True
    outcome = await execute(call, source_of({"x": pages()}), store)
    assert executed == list(range(10))
    assert (outcome.progress.total, outcome.progress.resumed) == (10, 6)


async def test_a_changed_source_is_noticed(store: Store, clock: IdleClock) -> None:
    with pytest.raises(RunTakenOver):
        await Process(store, clock, 3).run(source_of({"x": range(20)}))
    with pytest.raises(RunChanged, match="the source was"):
        await Process(store, clock, None).run(source_of({"x": range(21)}))
    outcome = await Process(store, clock, None).run(source_of({"x": range(1)}), on_change="restart")
    assert (outcome.progress.attempt, outcome.progress.done) == (1, 1)


async def test_options_that_cannot_work_do_not_leave_a_run_open(store: Store, clock: IdleClock) -> None:
    for options, error in ({"key": "y"}, SourceError), ({"retry_on": ["no.such:Error"]}, SettingsError):
        with pytest.raises(error):
            await Process(store, clock, None).run(source_of({"x": [1]}), **options)
        progress = await store.progress("run")
        assert (progress.state, progress.complete) == ("failed", False)
        await store.begin_run(RunRequest(run_id="other", task="t", fingerprint="f"))
        await _forget(store)


async def _forget(store: Store) -> None:
    async with store._writer.begin() as connection:
        await connection.execute(schema.run.delete())
