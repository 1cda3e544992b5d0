"""A source that lists something else when it is read again: no item is dropped in silence, none reported unhandled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncworker.errors import ItemErrors, RunChanged, SourceError
from asyncworker.iterate import RunOutcome, TaskSource, source_from_wire, source_of
from asyncworker.iterate.row_digests import row_digest
from asyncworker.store import Store
from tests.unit.iterate.running import execute, results_of

BREAK = object()


class Inbox:
    """A task source whose listing is another one each time, and what ran of it."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.options = {"concurrency": 1, **options}
        self.listing: list[Any] = []
        self.failing: set[Any] = set()
        self.ran: list[Any] = []

    async def send(self, *listing: Any, failing: str = "", **options: Any) -> RunOutcome:
        """Run what is listed, as the same run each time; `BREAK` in it makes the source raise."""
        self.listing, self.failing, self.ran = list(listing), set(failing), []
        source = source_from_wire(source_of({"x": TaskSource("listing")}).to_wire(), lambda *_: self._list())
        return await execute(self._call, source, self.store, resume=True, **self.options | options)

    async def _list(self) -> AsyncIterator[Any]:
        for value in self.listing:
            if value is BREAK:
                raise OSError("the listing broke off")
            yield value

    async def _call(self, row: dict[str, Any]) -> str:
        self.ran.append(row["x"])
        if row["x"] in self.failing:
            raise ValueError(row["x"])
        return f"did {row['x']}"

    async def broken_off(self, *listing: Any, failing: str = "") -> None:
        """The first attempt: it handles what is listed and does not come to an end."""
        with pytest.raises(SourceError, match="broke off"):
            await self.send(*listing, BREAK, failing=failing)


@pytest.mark.parametrize(
    ("again", "place"),
    [
        ("bcdefgh", 0),
        ("bacdefgh", 0),
        ("acdefgh", 1),
        ("abXcdefgh", 2),
        ("abXdefgh", 2),
        ("dcba", 0),
        ("aabcdefgh", 1),
    ],
)
@pytest.mark.promise("changed-row-stops-the-run")
async def test_another_row_in_the_place_of_one_that_was_read_is_refused_by_its_index(
    store: Store, again: str, place: int
) -> None:
    inbox = Inbox(store)
    await inbox.broken_off(*"abcd", failing="c")
    with pytest.raises(RunChanged, match=rf"row {place} is now {{'x': '{again[place]}'}}.*options\(key=") as caught:
        await inbox.send(*again)
    # Nothing of what comes after it has run, and nothing is reported that was not done.
    assert set(inbox.ran) <= set(again[:place])
    progress = await store.progress("run")
    assert (progress.state, progress.complete, progress.done) == ("failed", False, 3)
    assert str(caught.value) in progress.error
    # It stays refused, and goes on where the old rows are back.
    with pytest.raises(RunChanged):
        await inbox.send(*again)
    outcome = await inbox.send(*"abcdef")
    assert inbox.ran == ["c", "e", "f"]
    assert (outcome.progress.state, outcome.progress.done) == ("done", 6)


@pytest.mark.parametrize("again", ["", "a", "ab"])
@pytest.mark.promise("changed-row-stops-the-run")
async def test_a_source_that_ends_before_an_unfinished_row_is_refused(store: Store, again: str) -> None:
    inbox = Inbox(store)
    await inbox.broken_off(*"abcd", failing="c")
    with pytest.raises(RunChanged, match=rf"ended after {len(again)} rows, an earlier attempt read 4, and row 2"):
        await inbox.send(*again)


@pytest.mark.parametrize("again", ["", "abc"])
async def test_a_source_without_its_last_rows_is_complete_where_these_were_done(store: Store, again: str) -> None:
    inbox = Inbox(store)
    await inbox.broken_off(*"abcd")
    outcome = await inbox.send(*again)
    assert inbox.ran == []
    progress = outcome.progress
    assert (progress.state, progress.done, progress.total, progress.resumed) == ("done", 4, 4, 4)
    assert [value for _, value in await results_of(store)] == ["did a", "did b", "did c", "did d"]


async def test_rows_at_the_end_are_new_items(store: Store) -> None:
    inbox = Inbox(store)
    await inbox.send(*"ab")
    outcome = await inbox.send(*"abcd")
    assert inbox.ran == ["c", "d"]
    assert outcome.progress.total == 4


async def test_a_source_that_breaks_off_again_drops_nothing(store: Store) -> None:
    inbox = Inbox(store)
    await inbox.broken_off(*"abcd", failing="b")
    await inbox.broken_off(*"ab")
    assert inbox.ran == ["b"]
    await inbox.send(*"abcdef")
    assert inbox.ran == ["e", "f"]


async def test_failed_items_alone_are_run_again_by_index(store: Store) -> None:
    inbox = Inbox(store)
    await inbox.send(*"abcd", failing="bd")
    outcome = await inbox.send(*"abcdef", failing="d", failed_only=True)
    assert inbox.ran == ["b", "d"]
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (3, 1, 4)
    # What was handled has left the inbox: there is nothing to know the failed one by.
    with pytest.raises(RunChanged, match="row 0 is now"):
        await inbox.send("d", failed_only=True)
    assert inbox.ran == []


@pytest.mark.promise("retry-failed-runs-only-what-failed")
async def test_failed_items_alone_are_run_again_by_key(store: Store) -> None:
    inbox = Inbox(store, key="x")
    await inbox.send(*"abcd", failing="bd")
    outcome = await inbox.send("new", "d", "b", "newer", failing="d", failed_only=True)
    assert inbox.ran == ["d", "b"]
    progress = outcome.progress
    assert (progress.done, progress.failed, progress.total, progress.state) == (3, 1, 4, "failed")
    assert [(each.index, each.key) for each in await store.errors("run")] == [(0, "d")]
    assert sorted(await results_of(store)) == [(1, "did b"), (2, "did a"), (3, "did c")]
    # Interrupted half-way, it still knows which ones these are.
    with pytest.raises(SourceError, match="broke off"):
        await inbox.send("new", BREAK, failed_only=True)
    outcome = await inbox.send("new", "d", failed_only=True)
    assert inbox.ran == ["d"]
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (4, 0, 4)


@pytest.mark.promise("keyed-items-stay-done")
async def test_what_was_done_counts_though_its_key_is_listed_no_more(store: Store) -> None:
    inbox = Inbox(store, key="x")
    await inbox.broken_off(*"abcd", failing="b")
    outcome = await inbox.send("new", "d")
    assert inbox.ran == ["new"]
    progress = outcome.progress
    # Of b nobody knows that it was handled.
    assert (progress.state, progress.done, progress.failed, progress.total) == ("failed", 4, 1, 5)
    assert await results_of(store) == [(0, "did new"), (1, "did d"), (2, "did a"), (4, "did c")]
    (failure,) = await store.errors("run")
    assert (failure.index, failure.key, failure.message) == (3, "b", "b")
    with pytest.raises(ValueError, match="b"):
        outcome.raise_for_failures()
    # Listed again, it is run again.
    outcome = await inbox.send("b", "c")
    assert inbox.ran == ["b"]
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (5, 0, 5)
    assert await store.errors("run") == []


async def test_an_empty_listing_keeps_all_of_it(store: Store) -> None:
    inbox = Inbox(store, key="x")
    await inbox.broken_off(*"abcdef", failing="be")
    outcome = await inbox.send()
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (4, 2, 6)
    with pytest.raises(ItemErrors, match="2 of 6"):
        outcome.raise_for_failures()
    assert [each.key for each in await store.errors("run")] == ["b", "e"]


async def test_one_key_twice_is_a_failed_item_and_no_loss(store: Store) -> None:
    inbox = Inbox(store, key="x")
    await inbox.broken_off("a", "b", "a")
    outcome = await inbox.send("b", "c", "b")
    assert inbox.ran == ["c"]
    (failure,) = await store.errors("run")
    assert (failure.index, failure.key) == (2, "b")
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (3, 1, 4)


async def test_a_changed_source_can_be_started_afresh(store: Store) -> None:
    inbox = Inbox(store, on_change="restart")
    await inbox.broken_off(*"abc")
    outcome = await inbox.send(*"bcd")
    assert inbox.ran == ["b", "c", "d"]
    assert (outcome.progress.attempt, outcome.progress.done) == (1, 3)
    assert [value for _, value in await results_of(store)] == ["did b", "did c", "did d"]


async def test_a_changed_source_can_be_continued_by_index(store: Store) -> None:
    inbox = Inbox(store, on_change="resume")
    await inbox.broken_off(*"abc")
    await inbox.send(*"bcde")
    assert inbox.ran == ["e"]


class Plain:
    """Has no representation of its own."""

    def __init__(self, value: int) -> None:
        self.value = value


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"path": Path("a") / "b"},
        lambda: {"values": {"c", "a", "b"}},
        lambda: {"item": Plain(1)},
        lambda: {"item": object()},
        lambda: {"number": 1 << 80},
        lambda: {"name": "\udcff"},
        lambda: {"call": [Plain(2), {"b": 1, 2: Plain(3)}]},
    ],
)
def test_equal_rows_have_equal_digests_whatever_is_in_them(make: Any) -> None:
    kept = make()
    assert row_digest(make()) == row_digest(kept)
    assert row_digest({**make(), "more": 1}) != row_digest(kept)


def test_different_rows_have_different_digests() -> None:
    rows: list[dict[str, Any]] = [{"x": 1}, {"x": "1"}, {"y": 1}, {"x": [1]}, {"x": Plain(1)}, {"x": Plain(2)}]
    assert len({row_digest(row) for row in rows}) == len(rows)
