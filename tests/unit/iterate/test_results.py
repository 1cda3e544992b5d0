"""Results read back: in either order, large ones from beside the database, all of them in little memory."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from asyncworker.errors import PayloadError, RunError, RunNotFound, SettingsError, StoreError
from asyncworker.iterate import Order, SplitRun, execute_run, execute_split, make_options, pages_of, source_of
from asyncworker.store import Payloads, Store

decode = msgspec.json.decode


async def read(store: Store, order: Order, run_id: str = "run") -> list[tuple[int, Any]]:
    return [pair async for page in pages_of(store, run_id, order, decode) for pair in page]


async def execute(store: Store, call: Any, count: int = 100, **options: Any) -> Any:
    source = source_of({"x": range(count)})
    chosen = make_options(**{"checkpoint_every_s": 0.005, **options})
    return await execute_run(call, source, chosen, store=store, run_id="run", fingerprint=source.fingerprint())


async def test_in_completion_order_while_it_runs(store: Store) -> None:
    gates = [asyncio.Event() for _ in range(10)]

    async def call(row: dict[str, Any]) -> int:
        await gates[row["x"]].wait()
        return int(row["x"])

    reading = pages_of(store, "run", "completion", decode)
    first = asyncio.ensure_future(anext(reading))  # the run has not begun
    running = asyncio.create_task(execute(store, call, 10))
    for index in (7, 3, 0):
        gates[index].set()
        assert await first == [(index, index)]
        assert not running.done()
        first = asyncio.ensure_future(anext(reading))
    for gate in gates:
        gate.set()
    rest = await first + [pair async for page in reading for pair in page]
    assert sorted(rest) == [(index, index) for index in (1, 2, 4, 5, 6, 8, 9)]
    assert (await running).progress.done == 10
    assert await read(store, "index") == [(index, index) for index in range(10)]


async def test_what_came_before_is_read_too_and_each_once(store: Store) -> None:
    async def call(row: dict[str, Any]) -> int:
        await asyncio.sleep(0.001 * (row["x"] % 5))
        return int(row["x"])

    running = asyncio.create_task(execute(store, call, 1000, concurrency=20))
    while not await store.runs() or not (await store.progress("run")).done:
        await asyncio.sleep(0.001)
    several = await asyncio.gather(*[read(store, "completion") for _ in range(3)])
    await running
    for found in several:
        assert sorted(found) == [(index, index) for index in range(1000)]


async def test_of_a_run_that_is_split(store: Store) -> None:
    async def call(row: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return int(row["x"])

    async def send(numbers: Any) -> None:
        pass  # nobody else takes them: the holder runs all

    source = source_of({"x": range(100)})
    split = SplitRun(
        call=call, source=source, options=make_options(partitions=3), store=store, run_id="run", task="t",
        fingerprint="f.g", lease_s=30,
    )  # fmt: skip
    reading = asyncio.create_task(read(store, "completion"))
    await execute_split(split, send)
    assert sorted(await reading) == await read(store, "index") == [(index, index) for index in range(100)]


async def test_a_run_that_starts_afresh_is_not_mixed_with_what_was_read(store: Store) -> None:
    release = asyncio.Event()

    async def call(row: dict[str, Any]) -> int:
        if row["x"] > 50:
            await release.wait()
        return int(row["x"])

    running = asyncio.create_task(execute(store, call))
    reading = pages_of(store, "run", "completion", decode)
    await anext(reading)
    running.cancel()
    await asyncio.wait([running])
    source = source_of({"x": range(99)})
    again = execute_run(
        call, source, make_options(), store=store, run_id="run", fingerprint="other.other", on_change="restart"
    )
    restarted = asyncio.create_task(again)
    with pytest.raises(RunError, match="was started afresh while its results were read"):
        async for _ in reading:
            pass
    release.set()
    await restarted


async def test_what_cannot_be_read_says_so(store: Store) -> None:
    with pytest.raises(RunNotFound):
        await read(store, "index")
    with pytest.raises(SettingsError, match="order is 'random': expected 'index' or 'completion'"):
        await read(store, "random")  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["index", "completion"])
async def test_large_results_lie_beside_the_database(store: Store, tmp_path: Path, order: Order) -> None:
    store.payloads = Payloads(str(tmp_path / "payloads"), over_bytes=1000)

    async def call(row: dict[str, Any]) -> str:
        return "x" * (5000 if row["x"] % 10 == 3 else row["x"])

    bodies: list[int] = []
    event.listen(
        store._engine.sync_engine,
        "before_cursor_execute",
        lambda *args: bodies.extend(
            len(value)
            for row in (args[3] if isinstance(args[3], list) else [args[3]])
            for value in row
            if isinstance(value, bytes | memoryview)
        ),
    )
    await execute(store, call)
    assert max(bodies) < 12_000  # a hundred values of up to a hundred bytes, and ten that are elsewhere
    expected = [(index, "x" * (5000 if index % 10 == 3 else index)) for index in range(100)]
    assert sorted(await read(store, order)) == expected
    (folder,) = await asyncio.to_thread(lambda: list((tmp_path / "payloads" / "results").iterdir()))
    (file,) = await asyncio.to_thread(lambda: list(folder.iterdir()))  # all ten are alike
    await asyncio.to_thread(file.write_bytes, b"y" * 5002)
    with pytest.raises(PayloadError, match="is not what was written"):
        await read(store, order)
    store.payloads = None
    with pytest.raises(PayloadError, match="set ASYNCWORKER_PAYLOAD_URL to the same place"):
        await read(store, order)


async def test_a_payload_store_that_is_away_is_waited_for(store: Store, tmp_path: Path) -> None:
    (tmp_path / "payloads").touch()  # a file where the folder should be
    store.payloads = Payloads(str(tmp_path / "payloads"), over_bytes=10)

    async def call(row: dict[str, Any]) -> str:
        return "x" * 100

    running = asyncio.create_task(execute(store, call, 10))
    while not await store.runs():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert not running.done()
    await asyncio.to_thread((tmp_path / "payloads").unlink)
    assert (await running).progress.done == 10
    assert await read(store, "index") == [(index, "x" * 100) for index in range(10)]
    (tmp_path / "other").touch()
    store.payloads, store.patience_s = Payloads(str(tmp_path / "other"), over_bytes=10), 0.0
    with pytest.raises(StoreError, match="cannot write payload"):
        await execute(store, call, 10)


@pytest.mark.parametrize("order", ["index", "completion"])
@pytest.mark.promise("results-in-bounded-memory")
async def test_a_hundred_thousand_are_read_in_the_memory_of_ten_thousand(store: Store, order: Order) -> None:
    async def call(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": f"/in/orders/{row['x']:06}.xml", "size": row["x"]}

    peaks = []
    for count in (10_000, 100_000):
        source = source_of({"x": range(count)})
        await execute_run(call, source, make_options(), store=store, run_id=str(count), fingerprint="f.g")
        found = 0
        tracemalloc.start()
        try:
            async for page in pages_of(store, str(count), order, decode):
                found += len(page)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert found == count
    # Ten times the results; all of them would take over fifty megabytes.
    assert peaks[1] < peaks[0] + 6_000_000
