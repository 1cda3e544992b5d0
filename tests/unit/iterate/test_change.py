"""A run that is sent again with another source or other fixed arguments: refused, begun afresh, or gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from asyncworker.errors import RunChanged, SourceError
from asyncworker.iterate import execute_run, make_options, source_of
from asyncworker.store import Store


class Runs:
    """Sends one run again and again."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.options = options
        self.executed: list[Any] = []

    async def send(self, values: list[Any], fixed: str = "fixed", *, breaks_at: Any = None, **options: Any) -> Any:
        """Run to the end, or to where the source breaks off."""
        self.executed = []

        def source() -> Any:
            for value in values:
                if value == breaks_at:
                    raise OSError("gone")
                yield value

        async def call(row: dict[str, Any]) -> str:
            self.executed.append(row["x"])
            return f"{fixed} {row['x']}"

        # What is read once has no values in its fingerprint: take that of the list.
        fingerprint = source_of({"x": values}).fingerprint(fixed.encode())
        chosen = make_options(**self.options | options)
        request = f"{fixed} {values}".encode()
        return await execute_run(
            call, source_of({"x": source()}), chosen, store=self.store, run_id="run", fingerprint=fingerprint,
            request=request,
        )  # fmt: skip

    async def results(self) -> list[tuple[int, Any]]:
        return [pair async for pair in self.store.results("run")]


async def half_done(runs: Runs, values: list[Any], breaks_at: Any) -> None:
    with pytest.raises(SourceError):
        await runs.send(values, breaks_at=breaks_at)


@pytest.mark.parametrize("change", ["source", "fixed"])
async def test_by_index(store: Store, change: str) -> None:
    runs = Runs(store)
    await half_done(runs, [1, 2, 3, 4], breaks_at=3)
    values, fixed = ([1, 2, 3, 5], "fixed") if change == "source" else ([1, 2, 3, 4], "other")
    with pytest.raises(RunChanged, match="the source was" if change == "source" else "the fixed arguments"):
        await runs.send(values, fixed)
    assert runs.executed == []
    assert (await store.progress("run")).done == 2  # as it was

    await runs.send(values, fixed, on_change="resume")
    assert runs.executed == values[2:]
    assert await runs.results() == [
        (0, "fixed 1"), (1, "fixed 2"), (2, f"{fixed} 3"), (3, f"{fixed} {values[3]}"),
    ]  # fmt: skip
    # A resume of that sends what was sent last.
    assert await store.request_of("run") == f"{fixed} {values}".encode()


@pytest.mark.parametrize("change", ["source", "fixed"])
async def test_by_index_afresh(store: Store, change: str) -> None:
    runs = Runs(store, on_change="restart")
    await half_done(runs, [1, 2, 3, 4], breaks_at=3)
    values, fixed = ([1, 2, 3, 5], "fixed") if change == "source" else ([1, 2, 3, 4], "other")
    outcome = await runs.send(values, fixed)
    assert runs.executed == values
    assert await runs.results() == [(index, f"{fixed} {value}") for index, value in enumerate(values)]
    assert (outcome.progress.attempt, outcome.progress.resumed) == (1, 0)


@pytest.mark.parametrize("on_change", ["error", "restart", "resume"])
async def test_by_key_another_source_is_no_change(store: Store, on_change: str) -> None:
    runs = Runs(store, key="x", on_change=on_change)
    await half_done(runs, ["a", "b", "c", "d"], breaks_at="c")
    await runs.send(["new", "b", "a", "d"])
    assert runs.executed == ["new", "d"]
    assert await runs.results() == [(0, "fixed new"), (1, "fixed b"), (2, "fixed a"), (3, "fixed d")]


async def test_by_key_other_arguments_are(store: Store) -> None:
    runs = Runs(store, key="x")
    await half_done(runs, ["a", "b", "c"], breaks_at="c")
    with pytest.raises(RunChanged, match="the fixed arguments"):
        await runs.send(["c", "b", "a"], "other")
    await runs.send(["c", "b", "a"], "other", on_change="resume")
    assert runs.executed == ["c"]
    assert await runs.results() == [(0, "other c"), (1, "fixed b"), (2, "fixed a")]


async def test_by_key_afresh(store: Store) -> None:
    runs = Runs(store, key="x", on_change="restart")
    await half_done(runs, ["a", "b", "c"], breaks_at="c")
    await runs.send(["c", "b", "a"], "other")
    assert runs.executed == ["c", "b", "a"]
    assert await runs.results() == [(0, "other c"), (1, "other b"), (2, "other a")]


async def test_items_known_by_index_cannot_be_gone_on_with_by_key(store: Store) -> None:
    await half_done(Runs(store), ["a", "b", "c"], breaks_at="c")
    with pytest.raises(RunChanged, match="its items are known by index, and now by key"):
        await Runs(store, key="x").send(["a", "b", "c"], on_change="resume")
    runs = Runs(store, key="x", on_change="restart")
    await runs.send(["a", "b", "c"])
    assert runs.executed == ["a", "b", "c"]


async def test_a_complete_run_that_is_sent_again_may_be_anything(store: Store) -> None:
    runs = Runs(store)
    await runs.send([1, 2])
    await runs.send([3, 4, 5], "other")
    assert await runs.results() == [(0, "other 3"), (1, "other 4"), (2, "other 5")]
