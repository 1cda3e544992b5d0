"""One fan-out that is delivered to several workers: each item counts once, and no holder comes back to life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select

from asyncworker.errors import RunTakenOver
from asyncworker.iterate import RunOutcome, execute_run, make_options, source_of
from asyncworker.iterate.outcome import FAILURES_KEPT
from asyncworker.store import Bitmap, Store, schema
from tests.interleavings.exploring import explore, explore_at_random
from tests.interleavings.world import Holder, World

LEASE_S = 3.0
ITEMS = 5


class OneRun:
    """A fan-out whose message is delivered to each holder; one that goes back to the queue comes again.

    Attributes:
        told: Who has told an outcome.
        ran: How often each holder ran each item, in each of its attempts.
        revived: What was begun by a holder that had been overtaken.
    """

    def __init__(self, world: World, deliveries: int, *, watched: bool = False) -> None:
        self.world = world
        self.watched = watched
        self.told: list[tuple[Holder, RunOutcome]] = []
        self.ran: Counter[tuple[str, int, int]] = Counter()
        self.revived: list[str] = []
        self.attempts: Counter[str] = Counter()
        for number in range(deliveries):
            world.add("abc"[number], lambda holder, number=number: self.start(holder, redelivered=number > 0))

    async def start(self, holder: Holder, *, redelivered: bool) -> None:
        if self.watched:
            holder.world.spawn(holder.watch(LEASE_S))
            await holder.sleep(LEASE_S / 2 if redelivered else 0)
        await self.deliver(holder, redelivered=redelivered)

    async def deliver(self, holder: Holder, *, redelivered: bool) -> None:
        self.attempts[holder.name] += 1
        attempt = self.attempts[holder.name]

        async def call(row: dict[str, Any]) -> Any:
            number = row["number"]
            self.ran[holder.name, attempt, number] += 1
            if self.world.owners["run"] is not holder:
                self.revived.append(f"{holder.name} begins item {number}")
            self.world.say(f"{holder.name} runs item {number}")
            await holder.sleep(1.0)
            if number == 3:
                raise ValueError(number)
            return number

        source = source_of({"number": range(ITEMS)})
        try:
            outcome = await execute_run(
                call,
                source,
                make_options(concurrency=2, checkpoint_every_s=0.5),
                store=holder.store,
                run_id="run",
                task="task",
                fingerprint=source.fingerprint(b"fixed"),
                message="one",
                redelivered=redelivered,
                lease_s=LEASE_S,
                clock=holder,
            )
        except RunTakenOver:
            self.world.say(f"{holder.name} has lost the run")
            await self.deliver(holder, redelivered=True)
            return
        self.world.say(f"{holder.name} tells the outcome{', as it was stored' if outcome.recalled else ''}")
        self.told.append((holder, outcome))

    async def check(self) -> None:
        """All who live tell one and the same outcome, in which each item counts once."""
        living = [outcome for holder, outcome in self.told if not holder.dead]
        assert living
        assert sum(not outcome.recalled for _, outcome in self.told) <= 1
        for outcome in living:
            progress = outcome.progress
            assert (progress.state, progress.done, progress.failed) == ("failed", ITEMS - 1, 1)
            assert [failure.index for failure in outcome.failures] == [3]
            assert progress.complete
        assert not self.revived
        assert all(times == 1 for times in self.ran.values()), self.ran
        store = self.world.store
        assert [pair async for pair in store.results("run")] == [(n, n) for n in range(ITEMS) if n != 3]
        assert [failure.index for failure in await store.errors("run", limit=FAILURES_KEPT)] == [3]
        async with store.reading() as connection:
            row = (await connection.execute(select(schema.run))).one()
        finished = Bitmap(row.finished_map)
        assert [n for n in range(ITEMS) if n in finished] == [n for n in range(ITEMS) if n != 3]


def one_run(
    deliveries: int = 2, *, watched: bool = False
) -> Callable[[World], Awaitable[Callable[[], Awaitable[None]]]]:
    async def scenario(world: World) -> Any:
        return OneRun(world, deliveries, watched=watched).check

    return scenario


async def test_a_fan_out_that_is_delivered_twice_runs_once(store: Store, every: int) -> None:
    assert await explore(store, one_run(), deviations=2, every=every) > 1


async def test_of_three_deliveries_of_a_fan_out_one_runs(store: Store, seed: int, schedules: int) -> None:
    await explore_at_random(store, one_run(3), seed=seed, schedules=schedules)


async def test_workers_that_watch_before_the_message_comes_do_not_take_it_from_who_lives(
    store: Store, seed: int, schedules: int
) -> None:
    await explore_at_random(store, one_run(3, watched=True), seed=seed, schedules=schedules)
