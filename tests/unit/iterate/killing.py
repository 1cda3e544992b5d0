"""The law of runs that are killed and gone on with: the end is that of an undisturbed run, for any database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from asyncworker.errors import RunTakenOver
from asyncworker.iterate import Source, TaskSource, source_from_wire, source_of, source_of_rows
from asyncworker.iterate.keys import digest_of
from asyncworker.iterate.suspects import KILLED_TWICE
from asyncworker.store import Bitmap, Store, schema
from asyncworker.store.chunks import keys_from_row
from tests.unit.iterate.clocks import IdleClock
from tests.unit.iterate.running import Process, results_of, undisturbed

#: The flush window of the runs that are killed.
FLUSH_S = 0.1


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


async def recorded(store: Store, values: list[int]) -> tuple[set[int], set[int]]:
    """The values that the checkpoint holds as finished; and, where they have keys, those that it holds as failed."""
    async with store.reading() as connection:
        row = (await connection.execute(select(schema.run))).one()
        rows = await connection.execute(select(schema.key_chunk).order_by(schema.key_chunk.c.chunk))
        chunks = [keys_from_row(each) for each in rows]
    finished = Bitmap(row.finished_map)
    if not row.keyed:
        return {value for index, value in enumerate(values) if index in finished}, set()
    failed = {
        chunk.keys[16 * at : 16 * at + 16]: index in chunk.failed
        for chunk in chunks
        for at, index in enumerate(chunk.indexes)
    }
    known = {value: failed[digest_of(value)] for value in range(1000) if digest_of(value) in failed}
    return {value for value in known if not known[value]}, {value for value in known if known[value]}


def safe(process: Process) -> set[int]:
    """What a process that died had finished longer ago than the flush window; what failed is tried again."""
    assert process.died_at is not None
    before = process.died_at - FLUSH_S - 1e-6
    failing = {value for value in process.executed if value % 13 == 5 and value % 11 != 7}
    return {value for value, at in process.executed.items() if at < before} - failing


async def killed_and_resumed(
    store: Store, values: list[int], kills: list[int], concurrency: int, kind: str, keyed: bool, data: st.DataObject
) -> None:
    """Run, die, and go on, as often as there are kills; then hold what came of it against an undisturbed run."""
    clock = IdleClock()
    now = values
    held: set[int] = set()
    failed: set[int] = set()
    options: dict[str, Any] = {
        "concurrency": concurrency,
        "key": "x" if keyed else None,
        "backoff_s": FLUSH_S,
        "checkpoint_every_s": FLUSH_S,
    }
    async with clock.running():
        for dies_after in [*kills, None]:
            process = Process(store, clock, dies_after)
            try:
                outcome = await process.run(KINDS[kind](now), **options)
                ended = True
            except RunTakenOver:
                ended = False
            assert process.most_at_once <= concurrency
            # What the checkpoint holds is not run again.
            assert not held & set(process.executed)
            if ended:
                break
            held, failed = await recorded(store, now)
            # Nor is what was done longer ago than the flush window, for the checkpoint holds it.
            assert safe(process) <= held
            if keyed:
                # Re-ordered, with some gone and some new: what is known by its key does not mind, what is gone stays.
                now = data.draw(SOURCES)
                # One that was given up stays listed, so that it can be run again below.
                given_up = [failure for failure in await store.errors("run") if failure.message == KILLED_TWICE]
                now = [*now, *(value for value in (int(each.key) for each in given_up) if value not in now)]
        if any(failure.message == KILLED_TWICE for failure in await store.errors("run")):
            # As it seemed to the run; it is innocent, and whoever knows that has it run again.
            assert len(kills) > 1
            process = Process(store, clock, None)
            outcome = await process.run(KINDS[kind](now), resume=True, failed_only=True, **options)
    # After those that are listed, those that were settled before and are listed no more.
    gone = (held | failed) - set(now) if keyed else set()
    results, skipped, failing = undisturbed([*now, *gone])
    found = await results_of(store)
    assert [pair for pair in found if pair[0] < len(now)] == [pair for pair in results if pair[0] < len(now)]
    assert sorted(value for _, value in found) == sorted(value for _, value in results)
    assert len({index for index, _ in found}) == len(found)
    failures = await store.errors("run")
    assert sorted(failure.message for failure in failures) == sorted(str([*now, *gone][index]) for index in failing)
    indexes = [failure.index for failure in failures]
    assert [index for index in indexes if index < len(now)] == [index for index in failing if index < len(now)]
    progress = outcome.progress
    assert (progress.done, progress.skipped, progress.failed) == (len(results), skipped, len(failing))
    assert (progress.total, progress.complete) == (len(now) + len(gone), True)
    assert progress.settled == len(now) + len(gone)
    assert {*indexes, *(index for index, _ in found)} <= set(range(len(now) + len(gone)))
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
