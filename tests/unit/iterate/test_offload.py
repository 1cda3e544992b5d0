"""Long literal sources: what travels is short, and what comes back is what was given."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import PayloadError, SourceError
from asyncworker.iterate import Source, execute_run, make_options, offload_source, source_from_wire, source_of
from asyncworker.iterate import source_of_rows as rows_source
from asyncworker.iterate.ranges import part_of, ranges_of
from asyncworker.store import Payloads, Store


@pytest.fixture
def payloads(tmp_path: Path) -> Payloads:
    return Payloads(str(tmp_path / "payloads"), over_bytes=1000)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


async def offloaded(wire: dict[str, Any], payloads: Payloads) -> dict[str, Any]:
    return await asyncio.to_thread(offload_source, wire, payloads, encode)


async def travelled(source: Source, payloads: Payloads) -> Source:
    wire = await offloaded(source.to_wire(), payloads)
    again = source_from_wire(json.loads(json.dumps(wire)), payloads=payloads)
    await again.load()
    return again


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 5432])
async def test_a_long_list_comes_back(payloads: Payloads, count: int) -> None:
    paths = [f"/ö/line\nfeed/{number}.xml" for number in range(count)]
    source = source_of({"path": paths})
    wire = await offloaded(source.to_wire(), payloads)
    assert len(encode(wire)) < 1500
    assert ("offloaded" in wire["columns"][0]) == (count > 1)
    again = await travelled(source, payloads)
    assert again.total == count
    assert [row["path"] for row in again.open()] == paths  # type: ignore[union-attr]
    assert [row["path"] for row in again.open()] == paths  # type: ignore[union-attr]


async def test_dicts_rows_products_and_zips_come_back(payloads: Payloads) -> None:
    numbers = list(range(700))
    for source in (
        source_of({"pair": {f"key-{number}": number for number in numbers}}),
        rows_source([{"x": number, "name": str(number)} for number in numbers]),
        source_of({"x": [1, 2], "y": numbers}),
        source_of({"x": numbers, "y": numbers[::-1]}, mode="zip"),
        source_of({"x": range(700), "y": numbers}, mode="zip"),
    ):
        again = await travelled(source, payloads)
        assert any("offloaded" in column for column in again.to_wire()["columns"])
        assert list(again.open()) == list(source.open())  # type: ignore[call-overload]
        assert again.total == source.total
        assert not again.one_shot


@pytest.mark.parametrize("count", [1000, 2500, 5000])
async def test_a_part_of_it_comes_back(payloads: Payloads, count: int) -> None:
    source = source_of({"number": list(range(count)), "half": [1, 2]})
    wire = await offloaded(source.to_wire(), payloads)
    again = source_from_wire(wire, payloads=payloads)
    rows = list(source.open())  # type: ignore[call-overload]
    for start, stop in (*ranges_of(len(rows), 7), (0, 0), (1999, 2000), (0, len(rows))):
        part = part_of(again, start, stop)
        await part.load()
        assert list(part.open()) == rows[start:stop]  # type: ignore[call-overload]
        assert part.total == stop - start


async def test_the_identity_is_that_of_the_values(payloads: Payloads, tmp_path: Path) -> None:
    values = list(range(1000))
    elsewhere = Payloads(str(tmp_path / "elsewhere"), over_bytes=10)
    first = (await travelled(source_of({"x": values}), payloads)).fingerprint()
    assert (await travelled(source_of({"x": values}), elsewhere)).fingerprint() == first
    assert (await travelled(source_of({"x": values[::-1]}), payloads)).fingerprint() != first


async def test_what_cannot_be_encoded_is_left_to_the_message(payloads: Payloads) -> None:
    wire = source_of({"x": [object()] * 1000}).to_wire()
    assert await offloaded(wire, payloads) == wire


async def test_a_worker_without_a_payload_store_says_what_to_set(payloads: Payloads) -> None:
    wire = await offloaded(source_of({"x": list(range(1000))}).to_wire(), payloads)
    with pytest.raises(SourceError, match="set ASYNCWORKER_PAYLOAD_URL to the same place"):
        source_from_wire(wire)


async def test_a_run_whose_source_cannot_be_read_fails_and_can_be_resumed(
    store: Store, payloads: Payloads, tmp_path: Path
) -> None:
    wire = await offloaded(source_of({"x": list(range(1000))}).to_wire(), payloads)

    async def call(row: dict[str, Any]) -> int:
        return int(row["x"])

    async def execute() -> Any:
        source = source_from_wire(wire, payloads=payloads)
        fingerprint = source.fingerprint()
        return await execute_run(call, source, make_options(), store=store, run_id="run", fingerprint=fingerprint)

    away = await asyncio.to_thread((tmp_path / "payloads").rename, tmp_path / "away")
    with pytest.raises(PayloadError, match="cannot read payload sources/"):
        await execute()
    progress = await store.progress("run")
    assert (progress.state, progress.complete) == ("failed", False)
    assert "cannot read payload" in progress.error
    await asyncio.to_thread(away.rename, tmp_path / "payloads")
    assert (await execute()).progress.done == 1000


async def test_a_reader_holds_few_values_decoded(payloads: Payloads) -> None:
    source = await travelled(source_of({"x": [f"/a/long/path/{number:060}" for number in range(100_000)]}), payloads)
    tracemalloc.start()
    try:
        for _ in source.open():  # type: ignore[union-attr]
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_500_000  # all of them take over ten megabytes
