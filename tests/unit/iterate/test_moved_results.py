"""Results of runs whose items have moved, and results that cannot be read: each is given once, under its index."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncworker.errors import PayloadError, SettingsError, SourceError
from asyncworker.iterate import Order, pages_of, source_of
from asyncworker.store import Payloads, Store
from tests.unit.iterate.running import execute, results_of

decode = msgspec.json.decode


async def read(store: Store, order: Order, **options: Any) -> list[tuple[int, Any]]:
    return [pair async for page in pages_of(store, "run", order, decode, **options) for pair in page]


async def send(store: Store, listing: str, *, breaks: bool = False, gate: asyncio.Event | None = None) -> Any:
    async def source() -> Any:
        for value in listing:
            yield value
        if breaks:
            raise OSError("broke off")

    async def call(row: dict[str, Any]) -> str:
        if gate is not None:
            await gate.wait()
        return f"did {row['x']}"

    return await execute(call, source_of({"x": source()}), store, key="x", resume=True)


async def test_in_completion_order_a_moved_item_has_its_index_of_now(store: Store) -> None:
    with pytest.raises(SourceError):
        await send(store, "abcdef", breaks=True)
    await send(store, "gfedb")
    now = [(0, "did g"), (1, "did f"), (2, "did e"), (3, "did d"), (4, "did b"), (5, "did a"), (6, "did c")]
    assert await results_of(store) == now
    assert sorted(await read(store, "completion")) == now


async def test_of_a_run_that_came_to_no_end_each_index_is_given_once(store: Store) -> None:
    with pytest.raises(SourceError):
        await send(store, "abcdef", breaks=True)
    with pytest.raises(SourceError):
        await send(store, "gf", breaks=True)
    found = await results_of(store)
    assert found[:2] == [(0, "did g"), (1, "did f")]
    assert sorted(value for _, value in found) == [f"did {value}" for value in "abcdefg"]
    assert [index for index, _ in found] == list(range(7))
    assert sorted(await read(store, "completion")) == found


async def test_while_it_is_continued_what_was_done_shows_once_it_is_met(store: Store) -> None:
    with pytest.raises(SourceError):
        await send(store, "abc", breaks=True)
    gate = asyncio.Event()
    running = asyncio.create_task(send(store, "cgb", gate=gate))
    while (await store.progress("run")).attempt < 2:
        await asyncio.sleep(0.001)
    pages = pages_of(store, "run", "completion", decode)
    found: list[tuple[int, Any]] = []
    while len(found) < 3:
        found += await anext(pages)
    assert sorted(found) == [(0, "did c"), (2, "did b"), (3, "did a")]
    assert not running.done()
    gate.set()
    found += [pair async for page in pages for pair in page]
    await running
    assert sorted(found) == [(0, "did c"), (1, "did g"), (2, "did b"), (3, "did a")]


@pytest.mark.parametrize("order", ["index", "completion"])
@pytest.mark.promise("unreadable-result-takes-no-other")
async def test_one_result_that_cannot_be_read_takes_no_other_along(store: Store, tmp_path: Path, order: Order) -> None:
    store.payloads = Payloads(str(tmp_path / "payloads"), over_bytes=100)

    async def call(row: dict[str, Any]) -> str:
        return str(row["x"]) * 1000

    await execute(call, source_of({"x": range(5)}), store)
    files = [path for path in (tmp_path / "payloads").rglob("*") if path.is_file() and b"2222" in path.read_bytes()]
    assert len(files) == 1
    files[0].unlink()
    found = []
    with pytest.raises(PayloadError, match="the result of item 2 cannot be read"):
        async for page in pages_of(store, "run", order, decode):
            found += page
    assert sorted(index for index, _ in found) == [0, 1, 3, 4]
    pairs = dict(await read(store, order, unreadable="return"))
    assert isinstance(pairs.pop(2), PayloadError)
    assert pairs == {index: str(index) * 1000 for index in (0, 1, 3, 4)}
    with pytest.raises(SettingsError, match="expected 'raise' or 'return'"):
        await read(store, order, unreadable="ignore")
