"""An item that kills its process costs three deaths, and fails; the rest goes on, at full concurrency."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncworker.errors import RunTakenOver
from asyncworker.iterate import RunOutcome, source_of
from asyncworker.iterate.suspects import KILLED_TWICE
from asyncworker.store import Batch, Partitions, RunHold, Store, open_store
from tests.unit.iterate.clocks import IdleClock
from tests.unit.iterate.running import execute, results_of
from tests.unit.iterate.test_killing_partitions import Dying

COUNT = 400


class Mortal:
    """A process that dies at once of certain items: nothing that it does afterwards counts."""

    def __init__(self, store: Store, poison: frozenset[int]) -> None:
        self._real, self._poison = store, poison
        self.store = Store(store._engine)
        self.store.write = self.write  # type: ignore[method-assign]
        self.dead = False
        self.ran: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        if self.dead:
            raise RunTakenOver("this process is dead")
        return await self._real.write(hold, batch, first_chunk)

    async def call(self, row: dict[str, Any]) -> int:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.dead = self.dead or row["x"] in self._poison
            if self.dead:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            self.ran[row["x"]] += 1
            return int(row["x"])
        finally:
            self.at_once -= 1


async def survived(store: Store, poison: frozenset[int], **options: Any) -> tuple[RunOutcome, list[Mortal]]:
    """Let one process after the other run it, until one lives to its end."""
    dead: list[Mortal] = []
    while True:
        process = Mortal(store, poison)
        try:
            outcome = await execute(
                process.call,
                source_of({"x": range(COUNT)}),
                process.store,
                redelivered=bool(dead),
                **{"concurrency": 20, **options},
            )
        except RunTakenOver:
            dead.append(process)
            assert len(dead) <= 3 * len(poison), "more deaths than there had to be"
        else:
            return outcome, [*dead, process]


@pytest.mark.parametrize("key", [None, "x"])
@pytest.mark.parametrize("poison", [{0}, {237}, {399}, {5, 6}, {5, 300}])
async def test_it_fails_after_three_deaths_and_others_go_on(store: Store, poison: set[int], key: str | None) -> None:
    outcome, processes = await survived(store, frozenset(poison), key=key)
    assert len(processes) <= 3 * len(poison) + 1
    assert [(failure.index, failure.message) for failure in outcome.failures] == [
        (index, KILLED_TWICE) for index in sorted(poison)
    ]
    progress = outcome.progress
    assert (progress.done, progress.failed, progress.complete) == (COUNT - len(poison), len(poison), True)
    assert [index for index, _ in await results_of(store)] == [n for n in range(COUNT) if n not in poison]

    # It is left alone when the run is resumed, and tried again where that is asked for.
    innocent = Mortal(store, frozenset())
    options: dict[str, Any] = {"resume": True, "concurrency": 20, "key": key}
    resumed = await execute(innocent.call, source_of({"x": range(COUNT)}), innocent.store, **options)
    assert (resumed.progress.failed, innocent.ran) == (len(poison), Counter())
    again = await execute(innocent.call, source_of({"x": range(COUNT)}), innocent.store, failed_only=True, **options)
    assert (again.progress.failed, innocent.ran) == (0, Counter(poison))


@pytest.mark.parametrize(("count", "concurrency"), [(239, 20), (2000, 20), (2000, 2)])
async def test_an_item_that_ran_alone_when_its_process_was_killed_is_innocent(
    store: Store, count: int, concurrency: int
) -> None:
    for redelivered in (False, True):
        process = Mortal(store, frozenset({237}))
        with pytest.raises(RunTakenOver):
            await execute(
                process.call,
                source_of({"x": range(count)}),
                process.store,
                concurrency=concurrency,
                redelivered=redelivered,
            )
    innocent = Mortal(store, frozenset())
    outcome = await execute(
        innocent.call, source_of({"x": range(count)}), innocent.store, concurrency=concurrency, redelivered=True
    )
    assert (outcome.progress.done, outcome.progress.failed, innocent.ran[237]) == (count, 0, 1)
    # It comes after the others that may have killed the process, which a next kill from outside meets first.
    order = list(innocent.ran)
    assert order.index(237) > order.index(238)
    assert order.index(237) < order.index(count - 1) or count == 239


@pytest.mark.promise("after-a-death-suspects-run-alone")
async def test_only_what_may_have_been_in_flight_runs_alone(store: Store) -> None:
    first = Mortal(store, frozenset({237}))
    with pytest.raises(RunTakenOver):
        await execute(first.call, source_of({"x": range(COUNT)}), first.store, concurrency=20)
    alone: list[int] = []
    together: list[int] = []
    running: set[int] = set()

    async def call(row: dict[str, Any]) -> None:
        running.add(row["x"])
        await asyncio.sleep(0.002)
        (alone if running == {row["x"]} else together).append(row["x"])
        running.discard(row["x"])

    outcome = await execute(call, source_of({"x": range(2000)}), store, concurrency=20, on_change="resume")
    assert outcome.progress.failed == 0
    assert 237 in alone
    assert set(together) & set(range(238)) == set()
    assert len(together) > 1000


@settings(max_examples=15)
@given(poison=st.sets(st.integers(0, 299), max_size=3), partitions=st.integers(2, 4))
def test_partitions_lose_only_what_kills_them(poison: set[int], partitions: int) -> None:
    class Poisoned(Dying):
        async def call(self, row: dict[str, Any]) -> Any:
            self.seen.dead = self.seen.dead or row["x"] in poison
            return await super().call(row)

    async def scenario(folder: str) -> None:
        store = await open_store(f"sqlite+aiosqlite:///{folder}/store.sqlite")
        clock = IdleClock()
        try:
            async with clock.running():
                for _ in range(3 * len(poison) + 1):
                    cluster = Poisoned(store, clock, None, count=300, partitions=partitions)
                    try:
                        outcome = await cluster.execute()
                        break
                    except RunTakenOver:
                        for part in await Partitions(store).look("run"):
                            await Partitions(store).release(part)
                else:
                    raise AssertionError("more deaths than there had to be")
            assert [failure.index for failure in await store.errors("run")] == sorted(poison)
            assert outcome.progress.done == 300 - len(poison)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))
