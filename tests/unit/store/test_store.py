"""The store: who may write a run, what begins afresh, what is read back."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert

from asyncworker.errors import (
    CheckpointCorrupt,
    RunChanged,
    RunNotFound,
    RunTakenOver,
    SettingsError,
    StoreError,
    StoreVersionError,
)
from asyncworker.store import (
    Batch,
    Bitmap,
    Counters,
    ItemFailure,
    KeyChunk,
    Progress,
    ResultChunk,
    RunHold,
    RunRequest,
    Store,
    open_store,
    schema,
)
from asyncworker.store.chunks import result_rows, row_rows
from asyncworker.store.failures import rows_of

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'state' / 'store.sqlite'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await open_store(url)
    yield opened
    await opened.close()


def request(run_id: str = "run", **changes: Any) -> RunRequest:
    given = {"task": "task", "fingerprint": "fixed.source", "total": 10, "request": b"how", "started_at": NOW}
    return RunRequest(run_id=run_id, **{**given, **changes})


def batch(done: list[int], values: list[bytes] | None = None, **changes: Any) -> Batch:
    finished = Bitmap()
    for index in done:
        finished.add(index)
    results = [ResultChunk(done, values)] if values else []
    given = {"counters": Counters(done=len(done)), "finished_map": bytes(finished), "results": results, "at": NOW}
    return Batch(**{**given, **changes})


def failure(index: int) -> ItemFailure:
    return ItemFailure(
        index=index, key=f"key {index}", type="ValueError", message="bad", attempt=2, traceback="Traceback", at=NOW
    )


async def all_results(store: Store, run_id: str = "run") -> list[tuple[int, Any]]:
    return [pair async for pair in store.results(run_id)]


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_opening_makes_the_folder_for_its_owner_alone(url: str, tmp_path: Path) -> None:
    store = await open_store(url)
    await store.close()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_many_may_open_a_new_store_at_once(url: str) -> None:
    stores = await asyncio.gather(*(open_store(url) for _ in range(5)))
    await asyncio.gather(*(store.begin_run(request(str(number))) for number, store in enumerate(stores)))
    assert len(await stores[0].runs()) == 5
    for store in stores:
        await store.close()
        await store.close()


async def test_one_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    # Not in WAL mode yet, and held by one that is about to write: SQLite refuses the change of mode without waiting.
    file = tmp_path / "store.sqlite"
    other = await asyncio.to_thread(sqlite3.connect, file, isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    opening = asyncio.ensure_future(open_store(f"sqlite+aiosqlite:///{file}"))
    await asyncio.wait([opening], timeout=0.05)
    assert not opening.done()
    await asyncio.to_thread(other.close)
    await (await opening).close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nothing", "not a database URL"),
        ("sqlite+aiosqlite://", "give it a file"),
        ("sqlite+aiosqlite:///:memory:", "give it a file"),
        ("sqlite:////tmp/x/y", "not async|async driver"),
        ("nosuch+driver://host/db", "store_url"),
    ],
)
async def test_a_url_that_cannot_be_a_store_says_so(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        await open_store(url)


async def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="folder cannot be made"):
        await open_store(f"sqlite+aiosqlite:///{tmp_path}/file/store.sqlite")


async def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("this is not a database, however long it is. " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await open_store(f"sqlite+aiosqlite:///{tmp_path}/store.sqlite")


async def test_tables_of_another_version_are_refused(url: str, store: Store, tmp_path: Path) -> None:
    await store.close()
    with sqlite3.connect(tmp_path / "state" / "store.sqlite") as connection:
        connection.execute("UPDATE asyncworker_version SET version = 99")
    connection.close()
    with pytest.raises(StoreVersionError, match="version 99"):
        await open_store(url)


# -- beginning ---------------------------------------------------------------------------------------------------------


async def test_a_new_run_begins_with_nothing(store: Store) -> None:
    hold = await store.begin_run(request())
    assert (hold.attempt, hold.finished, hold.finished_map, hold.next_chunk) == (1, None, b"", 0)
    progress = await store.progress("run")
    assert progress == hold.progress
    assert (progress.state, progress.total, progress.started_at) == ("running", 10, NOW)
    assert await store.request_of("run") == b"how"


async def test_an_unfinished_run_continues_and_its_old_holder_is_refused(store: Store) -> None:
    first = await store.begin_run(request())
    await store.write(first, batch([1, 3], [b"1", b"3"], failures=[failure(2)]), first.next_chunk)
    later = NOW + timedelta(minutes=1)
    second = await store.begin_run(request(started_at=later), redelivered=True)
    assert (second.attempt, second.finished_map, second.next_chunk) == (2, b"\x0a", 1)
    progress = await store.progress("run")
    assert (progress.done, progress.failed, progress.carried, progress.attempt_at) == (2, 0, 2, later)
    assert await store.errors("run") == []
    with pytest.raises(RunTakenOver, match="run run: another process holds it"):
        await store.write(first, batch([1, 3, 5], [b"1", b"3", b"5"]), 1)
    assert (await store.progress("run")).done == 2
    assert await all_results(store) == [(1, 1), (3, 3)]


async def test_a_complete_run_that_is_redelivered_is_told_and_not_begun(store: Store) -> None:
    hold = await store.begin_run(request())
    await store.write(hold, batch([0], [b"0"], state="done", complete=True, total=1), 0)
    again = await store.begin_run(request(), redelivered=True)
    assert again.finished == await store.progress("run")
    assert again.finished is not None
    assert (again.finished.state, again.finished.finished_at) == ("done", NOW)


async def test_a_complete_run_is_told_to_the_message_that_it_was_begun_by(store: Store) -> None:
    """A delivery of it that lay with a frozen process does not know that there was another."""
    hold = await store.begin_run(request(message="one"))
    await store.write(hold, batch([0], [b"0"], state="done", complete=True, total=1), 0)
    for resume in (False, True):
        assert (await store.begin_run(request(message="one"), resume=resume)).finished is not None
    resumed = await store.begin_run(request(message="two"), resume=True)
    await store.write(resumed, batch([0, 1], state="done", complete=True, total=2), resumed.next_chunk)
    assert (await store.begin_run(request(message="two"), resume=True)).finished == await store.progress("run")
    assert (await store.begin_run(request(message="three"))).attempt == 1


@pytest.mark.promise("complete-run-starts-afresh")
async def test_a_complete_run_that_is_sent_again_starts_afresh(store: Store) -> None:
    hold = await store.begin_run(request())
    ended = batch([0], [b"0"], failures=[failure(1)], state="failed", complete=True)
    await store.write(hold, ended, 0)
    again = await store.begin_run(request(fingerprint="another"))
    assert (again.finished, again.attempt, again.finished_map, again.next_chunk) == (None, 1, b"", 0)
    assert await all_results(store) == []
    assert await store.errors("run") == []
    with pytest.raises(RunTakenOver):
        await store.write(hold, ended, 0)


async def test_a_complete_run_can_be_resumed_when_that_is_asked_for(store: Store) -> None:
    hold = await store.begin_run(request())
    await store.write(hold, batch([0], [b"0"], failures=[failure(1)], state="failed", complete=True), 0)
    again = await store.begin_run(request(), resume=True)
    assert (again.attempt, again.finished_map, again.progress.complete) == (2, b"\x01", False)
    assert await all_results(store) == [(0, 0)]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_run_that_ended_early_continues_when_it_is_sent_again(store: Store, state: Any) -> None:
    hold = await store.begin_run(request())
    await store.request_cancel("run")
    assert await store.write(hold, batch([0], [b"0"], state=state, error="why"), 0) is True
    assert (await store.begin_run(request(), redelivered=True)).finished is not None
    again = await store.begin_run(request())
    assert (again.attempt, again.finished_map) == (2, b"\x01")
    assert (again.progress.error, again.progress.finished_at) == ("", None)
    assert await store.write(again, batch([0]), again.next_chunk) is False


@pytest.mark.promise("changed-run-is-refused")
async def test_a_changed_run_is_refused_restarted_or_resumed(store: Store) -> None:
    hold = await store.begin_run(request())
    await store.write(hold, batch([0], [b"0"]), 0)
    with pytest.raises(RunChanged, match="the source was source, and now other"):
        await store.begin_run(request(fingerprint="fixed.other"))
    with pytest.raises(RunChanged, match="the fixed arguments or the keywords were fixed, and now changed"):
        await store.begin_run(request(fingerprint="changed.source"))
    with pytest.raises(RunChanged, match="by index, and now by key"):
        await store.begin_run(request(keyed=True), on_change="resume")
    resumed = await store.begin_run(request(fingerprint="fixed.other"), on_change="resume")
    assert (resumed.attempt, resumed.finished_map) == (2, b"\x01")
    restarted = await store.begin_run(request(), on_change="restart")
    assert (restarted.attempt, restarted.finished_map) == (1, b"")


@pytest.mark.promise("keyed-items-stay-done")
async def test_a_keyed_run_may_change_its_source_but_not_its_arguments(store: Store) -> None:
    await store.begin_run(request(keyed=True))
    assert (await store.begin_run(request(keyed=True, fingerprint="fixed.other"))).attempt == 2
    with pytest.raises(RunChanged):
        await store.begin_run(request(keyed=True, fingerprint="changed.other"))


async def test_two_that_begin_one_run_at_once_hold_it_one_after_the_other(store: Store, url: str) -> None:
    other = await open_store(url)
    holds = await asyncio.gather(*(each.begin_run(request()) for each in (store, other) * 4))
    fences = sorted(hold.fence for hold in holds)
    assert fences == list(range(fences[0], fences[0] + 8))
    await other.close()


async def test_a_holder_of_a_run_that_was_deleted_does_not_hold_the_next_one_of_its_name(store: Store) -> None:
    old = await store.begin_run(request())
    async with store.writing() as connection:
        await connection.execute(delete(schema.run))
    with pytest.raises(RunTakenOver):
        await store.write(old, batch([1]), 0)
    await store.begin_run(request())
    with pytest.raises(RunTakenOver):
        await store.write(old, batch([1]), 0)
    assert (await store.progress("run")).done == 0


# -- writing and reading -----------------------------------------------------------------------------------------------


async def test_a_batch_may_be_written_twice(store: Store) -> None:
    hold = await store.begin_run(request())
    once = batch([0, 1], [b"0", b"1"], failures=[failure(2)])
    await store.write(hold, once, 0)
    await store.write(hold, once, 0)
    assert await all_results(store) == [(0, 0), (1, 1)]
    assert await store.errors("run") == [failure(2)]


async def in_the_way(store: Store, hold: RunHold, batch: Batch, kind: str) -> None:
    """Put a row where the batch has one, that is none of its own."""
    rows = {
        "result": (schema.result_chunk, result_rows("run", batch.results, hold.next_chunk)),
        "row": (schema.row_chunk, row_rows(hold, batch)),
        "failure": (schema.failure, rows_of(hold, batch)),
    }
    async with store.writing() as connection:
        await connection.execute(insert(rows[kind][0]), rows[kind][1])


@pytest.mark.parametrize("kind", ["result", "row", "failure"])
@pytest.mark.parametrize("written_before", [False, True])
async def test_a_batch_that_the_database_refuses_does_not_pass_for_stored(
    store: Store, kind: str, written_before: bool
) -> None:
    hold = await store.begin_run(request())
    if written_before:
        await store.write(hold, batch([0], [b"0"]), 7)
    refused = msgspec.structs.replace(batch([0, 1], [b"0", b"1"], failures=[failure(2)]), rows=b"12345678")
    await in_the_way(store, hold, refused, kind)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        await store.write(hold, refused, hold.next_chunk)
    assert (await store.progress("run")).done == int(written_before)


async def test_a_batch_that_is_written_twice_tells_of_a_cancel_in_between(store: Store) -> None:
    hold = await store.begin_run(request())
    once = batch([0], [b"0"])
    assert not await store.write(hold, once, 0)
    await store.request_cancel("run")
    assert await store.write(hold, once, 0)


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    for call in (store.progress, store.request_of, store.request_cancel):
        with pytest.raises(RunNotFound, match="no run 'x'"):
            await call("x")
    with pytest.raises(RunNotFound):
        await all_results(store, "x")
    assert await store.errors("x") == []


async def test_runs_come_newest_first(store: Store) -> None:
    for number in range(5):
        await store.begin_run(request(str(number), started_at=NOW + timedelta(seconds=number)))
    assert [run.run_id for run in await store.runs(limit=3)] == ["4", "3", "2"]


@pytest.mark.promise("errors-are-all-there")
async def test_failures_come_in_pages_by_index(store: Store) -> None:
    hold = await store.begin_run(request())
    failures = [failure(index) for index in range(2500)]
    await store.write(hold, batch([], failures=failures[::-1]), 0)
    assert await store.errors("run", limit=10_000) == failures
    assert await store.errors("run", offset=1000, limit=3) == failures[1000:1003]


async def test_results_come_by_index_from_chunks_that_overlap(store: Store) -> None:
    hold = await store.begin_run(request())
    for number, chunk in enumerate([[5, 6, 9], [0, 7, 8], [1, 2], [3], [4, 10]]):
        results = [ResultChunk(chunk, [b"%d" % index for index in chunk])]
        await store.write(hold, batch([], results=results), number)
    assert await all_results(store) == [(index, index) for index in range(11)]


async def test_many_results_take_few_queries(store: Store) -> None:
    hold = await store.begin_run(request())
    chunks = [ResultChunk([index], [b"%d" % index]) for index in range(2000)]
    await store.write(hold, batch([], results=chunks), 0)
    queries: list[str] = []
    event.listen(store._engine.sync_engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    assert await all_results(store) == [(index, index) for index in range(2000)]
    assert 0 < sum(query.startswith("SELECT") for query in queries) < 15


async def test_a_reader_does_not_hold_up_the_writer(store: Store, url: str) -> None:
    hold = await store.begin_run(request())
    await store.write(hold, batch([0, 1], [b"0", b"1"]), 0)
    reader = await open_store(url)
    reading = reader.results("run")
    assert await anext(reading) == (0, 0)
    await store.write(hold, batch([0, 1, 2], results=[ResultChunk([2], [b"2"])]), 1)
    assert (await reader.progress("run")).done == 3
    await reading.aclose()
    await reader.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE asyncworker_run SET finished_map = x'ff'",
        "UPDATE asyncworker_run SET done = 7",
        "UPDATE asyncworker_run SET checksum = 1",
    ],
)
async def test_a_checkpoint_that_cannot_be_is_reported(store: Store, tmp_path: Path, damage: str) -> None:
    hold = await store.begin_run(request())
    await store.write(hold, batch([1, 2]), 0)
    with sqlite3.connect(tmp_path / "state" / "store.sqlite") as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(CheckpointCorrupt, match="run run"):
        await store.begin_run(request())


async def test_a_chunk_that_cannot_be_is_reported(store: Store, tmp_path: Path) -> None:
    hold = await store.begin_run(request(keyed=True))
    keys = [KeyChunk(bytes(16), [0], [])]
    await store.write(hold, batch([], results=[ResultChunk([0], [b"0"], bytes(16))], keys=keys), 0)
    with sqlite3.connect(tmp_path / "state" / "store.sqlite") as connection:
        connection.execute("UPDATE asyncworker_result_chunk SET body = x'00'")
        connection.execute("UPDATE asyncworker_key_chunk SET body = x'00'")
    connection.close()
    with pytest.raises(CheckpointCorrupt, match="ResultChunk 0"):
        await all_results(store)
    with pytest.raises(CheckpointCorrupt, match="KeyChunk 0"):
        await store.begin_run(request(keyed=True))


# -- figures of a run --------------------------------------------------------------------------------------------------


def test_progress_estimates_from_this_attempt_alone() -> None:
    progress = Progress(
        run_id="r", task="t", state="running", total=100, done=50, carried=40, started_at=NOW,
        attempt_at=NOW, updated_at=NOW + timedelta(seconds=5),
    )  # fmt: skip
    assert (progress.settled, progress.fraction, progress.rate, progress.remaining_s) == (50, 0.5, 2.0, 25.0)


@given(st.sets(st.integers(0, 5000)))
def test_a_bitmap_is_a_set(indexes: set[int]) -> None:
    bitmap = Bitmap()
    for index in indexes:
        bitmap.add(index)
    stored = Bitmap(bytes(bitmap))
    assert {index for index in range(5100) if index in stored} == indexes
    assert len(stored) == len(indexes)
    assert len(bytes(bitmap)) == (max(indexes) // 8 + 1 if indexes else 0)
