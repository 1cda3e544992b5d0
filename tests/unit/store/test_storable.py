"""Whatever goes into a row is made storable: lone surrogates, NUL, ids of any length; and no member fails its batch."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import SourceError
from asyncworker.iterate import source_of
from asyncworker.store import DeadLetter, Deliveries, ItemFailure, Leases, Store, TaskStates
from asyncworker.store.storable import LONGEST_ID_BYTES, fitted_id, from_storable, to_storable
from tests.unit.iterate.running import execute
from tests.unit.store import test_store

url = test_store.url
store = test_store.store

#: Text with half a surrogate pair, NUL, and our own escape character.
NASTY = ["plain", "a\udc80b", "a\0b", "a\x1ab", "\x1adc80", "a\x1a0000b", "\ud83d", "", "\udc80" * 300, "é" * 5000]

any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_text_is_read_as_it_was_written(text: str) -> None:
    stored = to_storable(text)
    assert "\0" not in stored
    assert from_storable(stored.encode().decode()) == text


@given(any_text, any_text)
def test_what_differs_stays_different(one: str, other: str) -> None:
    assert (to_storable(one) == to_storable(other)) == (one == other)


@given(st.lists(any_text.map(lambda text: (text + "x") * 700), min_size=2, max_size=2, unique=True))
def test_ids_of_any_length_stay_different_and_fit(ids: list[str]) -> None:
    one, other = map(fitted_id, ids)
    assert one != other
    assert fitted_id(one) == one
    assert len(to_storable(one).encode()) <= LONGEST_ID_BYTES


@pytest.mark.promise("any-text-is-stored")
async def test_runs_failures_and_texts_come_back(store: Store) -> None:
    for number, text in enumerate(filter(None, NASTY)):
        hold = await store.begin_run(test_store.request(run_id=text, task=text, fingerprint=text))
        failure = ItemFailure(
            index=number, key=text, type=text, message=text, attempt=1, traceback=text, at=datetime.now(UTC)
        )
        await store.write(hold, test_store.batch([], failures=[failure], error=text), 0)
        [found] = await store.errors(text)
        assert (found.key, found.type, found.message, found.traceback) == (text, text, text, text)
        assert (await store.progress(text)).error == text


async def test_a_source_whose_error_has_a_lone_surrogate_ends_its_run(store: Store) -> None:
    """A file name that is not UTF-8; PostgreSQL takes no NUL either."""

    async def rows() -> object:
        for number in range(5):
            yield number
        raise OSError("no such file: /in/\udcff\0.xml")

    async def call(row: dict[str, int]) -> int:
        return row["x"]

    with pytest.raises(SourceError, match=re.escape("/in/\udcff\0.xml")):
        await execute(call, source_of({"x": rows()}), store)
    progress = await store.progress("run")
    assert (progress.state, progress.done) == ("failed", 5)
    assert "\udcff\0" in progress.error


async def test_no_state_fails_those_that_are_opened_with_it(store: Store) -> None:
    states = TaskStates(store, keep_s=1000, patience_s=1)
    try:
        opened = await asyncio.gather(*map(states.open, NASTY))
        for state in opened:
            state.values.update(dict.fromkeys(NASTY, b"1"))
            states.change(state)
        await asyncio.gather(*map(states.flush, opened))
        again = await asyncio.gather(*map(states.open, NASTY))
        assert [set(state.values) for state in again] == [set(NASTY)] * len(NASTY)
    finally:
        await states.close()


async def test_leases_deliveries_and_dead_letters_of_any_id(store: Store) -> None:
    leases, deliveries = Leases(store, "host\udc80"), Deliveries(store)
    for text in NASTY:
        assert await leases.take(text, None)
        assert len(await deliveries.begin(text, "worker", 1)) == 1
    letters = [
        DeadLetter(
            task_id=text,
            task=text,
            queue=text,
            starts=0,
            dead_at=datetime.now(UTC),
            history=[],
            arguments=b"",
            reason=text,
            message=text.encode(errors="replace"),
        )
        for text in NASTY
    ]
    await deliveries.bury_messages(letters)
    await deliveries.bury_messages(letters)
    assert {letter.reason for letter in await deliveries.dead(100)} == set(NASTY)
    for text in NASTY:
        assert await leases.look(text) is not None
        assert (await deliveries.dead_one(text)).reason == text


@pytest.mark.promise("any-text-is-stored")
async def test_a_list_of_file_names_that_are_not_utf8_runs_by_key(store: Store) -> None:
    """Keys, failures and results have them, and each item is one of its own."""

    async def call(row: dict[str, str]) -> int:
        if row["x"].startswith("b"):
            raise ValueError(f"cannot read {row['x']}")
        return len(row["x"])

    names = ["a\udc80", "a\udc81", "b\udc80", "c\0"]
    await execute(call, source_of({"x": names}), store, key="x")
    assert [(failure.key, failure.message) for failure in await store.errors("run")] == [
        ("b\udc80", "cannot read b\udc80")
    ]
    progress = await store.progress("run")
    assert (progress.done, progress.failed, progress.complete) == (3, 1, True)
