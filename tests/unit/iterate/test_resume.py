"""Runs that are killed, cancelled or changed, and gone on with: the end is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from asyncworker.errors import (
    RunCancelled,
    RunChanged,
    RunDrained,
    RunTakenOver,
    SettingsError,
    SourceError,
    StoreError,
)
from asyncworker.iterate import (
    Drain,
    RunOutcome,
    SkipItem,
    Source,
    TaskSource,
    execute_run,
    make_options,
    source_from_wire,
    source_of,
    source_of_rows,
)
from asyncworker.iterate.keys import digest_of
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.store import Batch, Bitmap, RunHold, RunRequest, Store, open_store, schema
from asyncworker.store.chunks import keys_from_row


@pytest.fixture(autouse=True, scope="module")
def frequent_writes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreRecorder, "HEARTBEAT_S", 0.01)
        yield


async def execute(call: Any, source: Source, store: Store, **options: Any) -> RunOutcome:
    given = {"run_id": "run", "redelivered": False, "resume": False, "on_change": "error", "drain": None, "lease_s": 30}
    given |= {name: options.pop(name) for name in list(options) if name in given}
    fingerprint = source.fingerprint(b"fixed")
    chosen = make_options(**{"checkpoint_every_s": 0.005, **options})
    return await execute_run(call, source, chosen, store=store, task="task", fingerprint=fingerprint, **given)


async def results_of(store: Store) -> list[tuple[int, Any]]:
    return [pair async for pair in store.results("run")]


class Process:
    """A process that dies at its n-th item: nothing that it does afterwards counts, and its writes do not arrive.

    Half-way to that it sees a checkpoint written.
    """

    def __init__(self, store: Store, dies_after: int | None) -> None:
        self.left = dies_after
        self.half = -1 if dies_after is None else dies_after // 2
        self.wrote = asyncio.Event()
        self.wrote.set()
        self.dead = False
        self.executed: list[Any] = []
        self.at_once = self.most_at_once = 0
        self.store = Store(store._engine)
        self.store.write = self.write  # type: ignore[method-assign]
        self._real = store

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        if self.dead:
            raise RunTakenOver("this process is dead")
        cancel_requested = await self._real.write(hold, batch, first_chunk)
        self.wrote.set()
        return cancel_requested

    async def call(self, row: dict[str, Any]) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.work(row["x"])
        finally:
            self.at_once -= 1

    async def work(self, value: int) -> Any:
        for _ in range(value % 3):
            await asyncio.sleep(0)
        if self.left is not None:
            self.dead = self.dead or self.left == 0
            self.left -= 1
            if self.left == self.half:
                self.wrote.clear()
            await self.wrote.wait()
        if self.dead:
            await asyncio.Event().wait()
        self.executed.append(value)
        if value % 11 == 7:
            raise SkipItem
        if value % 13 == 5:
            raise ValueError(value)
        return [value]


def undisturbed(values: list[int]) -> tuple[list[tuple[int, Any]], int, list[int]]:
    """What `Process.call` comes to: the results, how many are skipped, the indexes that fail."""
    skipped = {value for value in values if value % 11 == 7}
    failing = {value for value in values if value % 13 == 5} - skipped
    results = [(index, [value]) for index, value in enumerate(values) if value not in skipped | failing]
    return results, len(skipped), [index for index, value in enumerate(values) if value in failing]


async def recorded(store: Store, values: list[int]) -> set[int]:
    """The values that the checkpoint holds as finished."""
    async with store.reading() as connection:
        row = (await connection.execute(select(schema.run))).one()
        chunks = [keys_from_row(each) for each in await connection.execute(select(schema.key_chunk))]
    keys = {chunk.keys[at : at + 16] for chunk in chunks for at in range(0, len(chunk.keys), 16)}
    finished = Bitmap(row.finished_map)
    if row.keyed:
        return {value for value in range(1000) if digest_of(value) in keys}
    return {value for index, value in enumerate(values) if index in finished}


async def rows_of(values: list[int]) -> AsyncIterator[int]:
    for value in values:
        yield value
        if value % 5 == 0:
            await asyncio.sleep(0)


async def row_dicts_of(values: list[int]) -> AsyncIterator[dict[str, int]]:
    async for value in rows_of(values):
        yield {"x": value}


def travelled(source: Source) -> Source:
    """As it is in another process; a task is opened there."""
    return source_from_wire(source.to_wire(), lambda name, args, kwargs: rows_of(*args))


#: Every way to give the same values.
KINDS: dict[str, Callable[[list[int]], Source]] = {
    "list": lambda values: source_of({"x": list(values)}),
    "list that travelled": lambda values: travelled(source_of({"x": values})),
    "iterator": lambda values: source_of({"x": iter(values)}),
    "generator": lambda values: source_of({"x": (value for value in values)}),
    "dict": lambda values: source_of({"x": dict.fromkeys(values).keys()}),
    "async": lambda values: source_of({"x": rows_of(values)}),
    "task": lambda values: travelled(source_of({"x": TaskSource("numbers", (values,))})),
    "rows": lambda values: source_of_rows([{"x": value} for value in values]),
    "async rows": lambda values: source_of_rows(row_dicts_of(values)),
    "product": lambda values: source_of({"x": values, "y": [None]}),
    "zip": lambda values: source_of({"x": values, "y": iter(values)}, mode="zip"),
}

#: Long ones are as likely as short ones, which lists() would not give.
SOURCES = st.builds(
    lambda seed, count: random.Random(seed).sample(range(200), count), st.integers(0, 1000), st.integers(0, 100)
)


async def killed_and_resumed(
    store: Store, values: list[int], kills: list[int], concurrency: int, kind: str, keyed: bool, data: st.DataObject
) -> None:
    """Run, die, and go on, as often as there are kills; then hold what came of it against an undisturbed run."""
    now = values
    held: set[int] = set()
    for dies_after in [*kills, None]:
        process = Process(store, dies_after)
        try:
            outcome = await execute(
                process.call, KINDS[kind](now), process.store, concurrency=concurrency, key="x" if keyed else None
            )
            ended = True
        except RunTakenOver:
            ended = False
        assert process.most_at_once <= concurrency
        # What the checkpoint holds is not run again, nor is anything run twice by one process.
        assert not held & set(process.executed)
        assert len(process.executed) == len(set(process.executed))
        if ended:
            break
        held = await recorded(store, now)
        if keyed:
            # Re-ordered, with some gone and some new: what is known by its key does not mind.
            now = data.draw(SOURCES)
    results, skipped, failing = undisturbed(now)
    assert await results_of(store) == results
    assert [failure.index for failure in await store.errors("run")] == failing
    progress = outcome.progress
    assert (progress.done, progress.skipped, progress.failed) == (len(results), skipped, len(failing))
    assert (progress.total, progress.complete) == (len(now), True)
    assert progress.settled == len(now)
    stored = await store.progress("run")
    assert stored == progress


#: What decides a run, for any database.
killings = given(
    values=SOURCES,
    kills=st.lists(st.integers(0, 40), max_size=4),
    concurrency=st.integers(1, 20),
    kind=st.sampled_from(sorted(KINDS)),
    keyed=st.booleans(),
    data=st.data(),
)


@settings(deadline=None, max_examples=60)
@killings
def test_a_run_killed_and_resumed_equals_an_undisturbed_one(**example: Any) -> None:
    async def scenario(folder: str) -> None:
        store = await open_store(f"sqlite+aiosqlite:///{folder}/store.sqlite")
        try:
            await killed_and_resumed(store, **example)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))


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
    outcome = await execute(fast, source, store, resume=True)
    release.set()
    with pytest.raises(RunTakenOver):
        await first
    assert outcome.progress.state == "done"
    assert await results_of(store) == [(index, "fast") for index in range(10)]
    assert await store.progress("run") == outcome.progress


async def test_a_second_delivery_waits_for_the_holder_and_is_told_the_outcome(store: Store) -> None:
    release = asyncio.Event()

    async def slow(row: dict[str, Any]) -> str:
        await release.wait()
        return "slow"

    async def never(row: dict[str, Any]) -> str:
        raise AssertionError("run twice")

    source = source_of({"x": range(10)})
    first = asyncio.create_task(execute(slow, source, store, checkpoint_every_s=0.01))
    while not await store.runs():
        await asyncio.sleep(0)
    second = asyncio.create_task(execute(never, source, store, redelivered=True, lease_s=0.5))
    done, _ = await asyncio.wait([second], timeout=1.0)  # twice the lease
    assert not done
    release.set()
    assert (await first).progress == (await second).progress
    assert await results_of(store) == [(index, "slow") for index in range(10)]


async def test_a_second_delivery_takes_over_from_a_holder_that_is_silent(store: Store) -> None:
    async def fast(row: dict[str, Any]) -> str:
        return "fast"

    source = source_of({"x": range(10)})
    # Begun, and never heard of again.
    await store.begin_run(
        RunRequest(run_id="run", task="task", fingerprint=source.fingerprint(b"fixed"), total=10), redelivered=False
    )
    outcome = await execute(fast, source, store, redelivered=True, lease_s=0.1)
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
        *(execute(call, source, store, redelivered=True, lease_s=0.3, concurrency=5) for _ in range(deliveries))
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


async def test_inline_results_include_those_of_earlier_attempts(store: Store) -> None:
    first = Process(store, 20)
    with pytest.raises(RunTakenOver):
        await execute(first.call, source_of({"x": range(50)}), first.store, results="inline", concurrency=3)
    outcome = await execute(Process(store, None).call, source_of({"x": range(50)}), store, results="inline")
    assert outcome.results == undisturbed(list(range(50)))[0]


async def test_a_redelivered_run_that_has_ended_tells_its_outcome(store: Store) -> None:
    source = source_of({"x": range(30)})
    ended = await execute(Process(store, None).call, source, store, results="inline")

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


async def test_a_changed_source_is_noticed(store: Store) -> None:
    process = Process(store, 3)
    with pytest.raises(RunTakenOver):
        await execute(process.call, source_of({"x": range(20)}), process.store)
    with pytest.raises(RunChanged, match="the source was"):
        await execute(process.call, source_of({"x": range(21)}), store)
    outcome = await execute(Process(store, None).call, source_of({"x": range(1)}), store, on_change="restart")
    assert (outcome.progress.attempt, outcome.progress.done) == (1, 1)


async def test_options_that_cannot_work_do_not_leave_a_run_open(store: Store) -> None:
    for options, error in (({"key": "y"}, SourceError), ({"retry_on": ["no.such:Error"]}, SettingsError)):
        with pytest.raises(error):
            await execute(Process(store, None).call, source_of({"x": [1]}), store, **options)
        progress = await store.progress("run")
        assert (progress.state, progress.complete) == ("failed", False)
        await store.begin_run(RunRequest(run_id="other", task="t", fingerprint="f"))
        await _forget(store)


async def _forget(store: Store) -> None:
    async with store._writer.begin() as connection:
        await connection.execute(schema.run.delete())


# -- the recorder ------------------------------------------------------------------------------------------------------


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
