"""Split runs whose workers are killed at random points, and that are gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from asyncworker.errors import RunTakenOver
from asyncworker.iterate.ranges import ranges_of
from asyncworker.iterate.suspects import KILLED_TWICE
from asyncworker.store import Batch, Bitmap, Partitions, Progress, RunHold, Store, open_store, schema
from tests.unit.iterate.clocks import IdleClock
from tests.unit.iterate.cluster import Cluster
from tests.unit.iterate.killing import FLUSH_S
from tests.unit.iterate.running import STEP_S


class DyingStore(Store):
    """What a process sees of the store: once it is dead, nothing that it does arrives."""

    def __init__(self, real: Store, clock: IdleClock) -> None:
        super().__init__(real._engine)
        self.clock = clock
        self.dead = False

    def _check(self) -> None:
        if self.dead:
            raise RunTakenOver("this process is dead")

    async def begin_run(self, *args: Any, **kwargs: Any) -> RunHold:
        self._check()
        with self.clock.held():
            return await super().begin_run(*args, **kwargs)

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        self._check()
        with self.clock.held():
            return await super().write(hold, batch, first_chunk)

    async def progress(self, run_id: str, *, merge: bool = True) -> Progress:
        self._check()
        with self.clock.held():
            return await super().progress(run_id, merge=merge)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        self._check()
        with self.clock.held():
            async with super().writing() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        with self.clock.held():
            async with super().reading() as connection:
                yield connection


class Dying(Cluster):
    """All workers of the run die together, at their n-th item."""

    def __init__(self, store: Store, clock: IdleClock, dies_after: int | None, **options: Any) -> None:
        self.seen = DyingStore(store, clock)
        super().__init__(self.seen, clock=clock, checkpoint_every_s=FLUSH_S, **options)
        self.left = dies_after

    async def call(self, row: dict[str, Any]) -> Any:
        if self.left is not None:
            self.seen.dead = self.seen.dead or self.left <= 0
            self.left -= 1
        if self.seen.dead:
            await asyncio.Event().wait()
        await self.clock.sleep(row["x"] % 3 * STEP_S)
        return await super().call(row)


async def finished_in(store: Store, count: int, partitions: int) -> set[int]:
    async with store.reading() as connection:
        rows = (await connection.execute(select(schema.run).where(schema.run.c.part_of == "run"))).all()
    starts = [start for start, _ in ranges_of(count, partitions)]
    return {
        starts[row.part_number] + place
        for row in rows
        for place in range(len(row.finished_map) * 8)
        if place in Bitmap(row.finished_map)
    }


@settings(max_examples=10)
@given(
    count=st.integers(2, 120),
    split=st.integers(2, 5),
    kills=st.lists(st.integers(0, 60), max_size=3),
    failing=st.sets(st.integers(0, 119), max_size=3),
)
@pytest.mark.promise("partition-is-taken-over")
def test_a_split_run_killed_and_resumed_equals_an_undisturbed_one(
    count: int, split: int, kills: list[int], failing: set[int]
) -> None:
    async def scenario(folder: str) -> None:
        store = await open_store(f"sqlite+aiosqlite:///{folder}/store.sqlite")
        clock = IdleClock()
        try:
            async with clock.running():
                await killed_and_resumed(store, clock)
        finally:
            await store.close()

    async def killed_and_resumed(store: Store, clock: IdleClock) -> None:
        held: set[int] = set()
        for dies_after in [*kills, None]:
            cluster = Dying(store, clock, dies_after, count=count, partitions=split)
            cluster.failing = frozenset(failing)
            ended = None
            with contextlib.suppress(RunTakenOver):
                ended = await cluster.execute()
            assert not held & set(cluster.ran)
            assert not cluster.ran or max(cluster.ran.values()) == 1
            if ended is not None:
                break
            held = await finished_in(store, count, split)
            for part in await Partitions(store).look("run"):
                # As if the dead had been silent for long enough.
                await Partitions(store).release(part)
        if any(failure.message == KILLED_TWICE for failure in await store.errors("run")):
            # As it seemed to the run; it is innocent, and whoever knows that has it run again.
            assert len(kills) > 1
            again = Dying(store, clock, None, count=count, partitions=split)
            again.failing = frozenset(failing)
            ended = await again.execute(resume=True, failed_only=True)
        failed = sorted(number for number in failing if number < count)
        assert await cluster.results() == [(index, [index]) for index in range(count) if index not in failing]
        assert [failure.index for failure in await store.errors("run")] == failed
        assert ended is not None
        progress = ended.progress
        assert (progress.done, progress.failed, progress.total) == (count - len(failed), len(failed), count)
        assert (progress.complete, progress.state) == (True, "failed" if failed else "done")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))
