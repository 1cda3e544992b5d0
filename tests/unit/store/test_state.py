"""State of tasks in the store: batched, fenced, swept, and proved when it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from asyncworker.errors import CheckpointCorrupt, StateTakenOver, StoreError
from asyncworker.store import Store, TaskState, TaskStates, open_store, schema
from tests.unit.store import test_store

url = test_store.url
store = test_store.store

MakeStates = Callable[..., TaskStates]


@pytest.fixture
async def make(store: Store) -> AsyncIterator[MakeStates]:
    made: list[TaskStates] = []

    def make(of: Store = store, **options: Any) -> TaskStates:
        made.append(TaskStates(of, **{"every_s": 0.01, "keep_s": 1000.0, "patience_s": 30.0, **options}))
        made[-1]._sweeper.cancel()  # it would sweep at any time; the test of it does so itself
        return made[-1]

    yield make
    for states in made:
        await states.close()


def put(states: TaskStates, state: TaskState, **values: bytes) -> None:
    state.values.update(values)
    states.change(state)


async def test_what_was_flushed_is_there_for_the_next_execution(store: Store, make: MakeStates) -> None:
    states = make()
    state = await states.open("task")
    assert state.values == {}
    put(states, state, page=b"7", name=b'"x"')
    await states.flush(state)
    again = await make().open("task")
    assert again.values == {"page": b"7", "name": b'"x"'}
    assert (await make().open("another")).values == {}


async def test_what_was_not_flushed_is_written_soon(store: Store, make: MakeStates) -> None:
    states = make()
    state = await states.open("task")
    put(states, state, page=b"7")
    while state.written != state.version:
        await asyncio.sleep(0.01)
    assert (await make().open("task")).values == {"page": b"7"}


async def test_closing_writes_what_is_left(store: Store, make: MakeStates) -> None:
    states = make(every_s=3600.0)
    state = await states.open("task")
    put(states, state, page=b"7")
    await states.close()
    assert (await make().open("task")).values == {"page": b"7"}
    with pytest.raises(StoreError, match="closed"):
        await states.open("task")


async def test_only_the_states_under_a_prefix_are_deleted(store: Store, make: MakeStates) -> None:
    states = make()
    names = ["Run%_\udcff#1", "Run%_\udcff#2", "run%_\udcff#1", "RunX_\udcff#1", "Run%_\udcff", "another Run%_\udcff#1"]
    for name in names:
        state = await states.open(name)
        put(states, state, page=b"7")
        await states.flush(state)
    await states.delete("Run%_\udcff#")
    left = [name for name in names if (await make().open(name)).values]
    assert left == names[2:]


async def test_many_changes_of_many_tasks_take_few_transactions(store: Store, make: MakeStates) -> None:
    states = make(every_s=3600.0)
    opened = await asyncio.gather(*[states.open(str(number)) for number in range(400)])
    for page in range(50):
        for state in opened:
            put(states, state, page=b"%d" % page)
    await asyncio.gather(*map(states.flush, opened))
    assert states.transactions <= 4  # opened: one that was alone, and the others; written once
    assert all(
        state.values == {"page": b"49"} for state in await asyncio.gather(*map(make().open, map(str, range(400))))
    )


@pytest.mark.promise("overtaken-execution-sets-nothing")
async def test_an_execution_that_was_overtaken_writes_nothing_more(store: Store, make: MakeStates) -> None:
    slow, fast = make(), make()
    old = await slow.open("task")
    put(slow, old, page=b"1")
    await slow.flush(old)
    new = await fast.open("task")
    assert new.values == {"page": b"1"}
    put(slow, old, page=b"old")
    with pytest.raises(StateTakenOver, match="state of task task: another execution"):
        await slow.flush(old)
    with pytest.raises(StateTakenOver):
        old.check_held()
    put(fast, new, page=b"2")
    await fast.flush(new)
    assert (await make().open("task")).values == {"page": b"2"}


async def test_an_execution_whose_state_was_deleted_does_not_write_into_the_next_one(
    store: Store, make: MakeStates
) -> None:
    states = make()
    old = await states.open("task")
    async with store.writing() as connection:
        await connection.execute(delete(schema.task_state))
    await make().open("task")
    put(states, old, page=b"1")
    with pytest.raises(StateTakenOver):
        await states.flush(old)
    assert (await make().open("task")).values == {}


async def test_two_that_open_one_state_at_once_hold_it_one_after_the_other(
    store: Store, url: str, make: MakeStates
) -> None:
    other = await open_store(url)
    several = [make(each) for each in (store, other) * 4]
    opened = await asyncio.gather(*[states.open("task") for states in several])
    fences = sorted(state.fence for state in opened)
    assert fences == list(range(fences[0], fences[0] + 8))
    for states in several:
        await states.close()
    await other.close()


async def test_a_row_that_cannot_be_is_reported_and_hurts_no_other(store: Store, make: MakeStates) -> None:
    states = make()
    state, other = await states.open("task"), await states.open("other")
    for each in (state, other):
        put(states, each, page=b"1")
        await states.flush(each)
    async with store.writing() as connection:
        table = schema.task_state
        await connection.execute(update(table).where(table.c.task_id == "task").values(body=b"\x81"))
    again = make()
    bad, good = await asyncio.gather(again.open("task"), again.open("other"), return_exceptions=True)
    assert isinstance(bad, CheckpointCorrupt)
    assert "state of task task: its row cannot be what was written" in str(bad)
    assert isinstance(good, TaskState)
    assert good.values == {"page": b"1"}


@pytest.mark.promise("old-state-is-deleted")
async def test_old_state_is_swept_and_what_is_held_is_not(store: Store, make: MakeStates) -> None:
    states = make(keep_s=3600.0)
    for task_id in ("ended", "young"):
        await make().open(task_id)
    held = await states.open("held")
    table = schema.task_state
    async with store.writing() as connection:
        old = datetime.now(UTC) - timedelta(hours=2)
        await connection.execute(update(table).where(table.c.task_id != "young").values(updated_at=old))
    assert await states.sweep() == 1
    async with store.reading() as connection:
        left = list(await connection.scalars(select(table.c.task_id).order_by(table.c.task_id)))
    assert left == ["held", "young"]
    assert not held.lost


async def test_a_store_that_is_away_for_a_while_is_waited_for(
    store: Store, make: MakeStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = make()
    state = await states.open("task")
    real, failures = store.writing, 2

    def writing() -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("the disk is full")
        return real()

    monkeypatch.setattr(store, "writing", writing)
    put(states, state, page=b"1")
    await states.flush(state)
    assert failures == 0
    assert (await make().open("task")).values == {"page": b"1"}


async def test_a_store_that_stays_away_is_told_and_what_was_set_is_not_forgotten(
    store: Store, make: MakeStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = make(patience_s=0.0, every_s=3600.0)
    state = await states.open("task")
    put(states, state, page=b"1")
    with monkeypatch.context() as away:
        away.setattr(store, "writing", lambda: (_ for _ in ()).throw(StoreError("the disk is full")))
        with pytest.raises(StoreError, match="the disk is full"):
            await states.flush(state)
        with pytest.raises(StoreError, match="the disk is full"):
            await states.open("other")
    await states.flush(state)
    assert (await make().open("task")).values == {"page": b"1"}
