"""A fan-out in partitions on several workers: each item counts once, whoever is frozen or dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from asyncworker.errors import RunNotFound, RunTakenOver
from asyncworker.iterate import (
    RunOutcome,
    SplitRun,
    execute_partition,
    execute_split,
    make_options,
    source_of,
)
from asyncworker.store import Store
from tests.interleavings.exploring import explore, explore_at_random
from tests.interleavings.world import Holder, World

LEASE_S = 3.0
ITEMS = 4


class SplitInTwo:
    """A run in two partitions: its message is delivered to two workers, and a third one takes what is sent to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.told: list[tuple[Holder, RunOutcome]] = []
        self.ran: Counter[tuple[int, int]] = Counter()
        self.revived: list[str] = []
        self.attempts = 0
        self.queue: list[int] = []
        for number in range(2):
            world.add("ab"[number], lambda holder, number=number: self.deliver(holder, redelivered=number > 0))
        world.add("c", self.take_partitions)

    def seen_by(self, holder: Holder) -> SplitRun:
        self.attempts += 1
        attempt = self.attempts

        async def call(row: dict[str, Any]) -> Any:
            number = row["number"]
            self.ran[attempt, number] += 1
            if self.world.owners[f"run/{number * 2 // ITEMS}"] is not holder:
                self.revived.append(f"{holder.name} begins item {number}")
            self.world.say(f"{holder.name} runs item {number}")
            await holder.sleep(1.0)
            return number

        source = source_of({"number": range(ITEMS)})
        return SplitRun(
            call=call,
            source=source,
            options=make_options(concurrency=2, checkpoint_every_s=0.5, partitions=2),
            store=holder.store,
            run_id="run",
            task="task",
            fingerprint=source.fingerprint(b"fixed"),
            lease_s=LEASE_S,
            clock=holder,
        )

    async def deliver(self, holder: Holder, *, redelivered: bool) -> None:
        async def send(numbers: Sequence[int]) -> None:
            await holder.point("send partitions")
            self.queue += numbers

        try:
            outcome = await execute_split(self.seen_by(holder), send, message="one", redelivered=redelivered)
        except RunTakenOver:
            self.world.say(f"{holder.name} has lost the run")
            await self.deliver(holder, redelivered=True)
            return
        self.world.say(f"{holder.name} tells the outcome{', as it was stored' if outcome.recalled else ''}")
        self.told.append((holder, outcome))

    async def take_partitions(self, holder: Holder) -> None:
        while not self.told:
            if not self.queue:
                await holder.sleep(0.7)
                continue
            number = self.queue.pop(0)
            self.world.say(f"{holder.name} takes partition {number}")
            try:
                await execute_partition(self.seen_by(holder), number)
            except (RunTakenOver, RunNotFound) as exc:
                self.world.say(f"{holder.name}: {exc}")

    async def check(self) -> None:
        """All who live tell one and the same outcome, in which each item counts once."""
        living = [outcome for holder, outcome in self.told if not holder.dead]
        assert living
        assert sum(not outcome.recalled for _, outcome in self.told) <= 1
        for outcome in living:
            progress = outcome.progress
            assert (progress.state, progress.done, progress.failed) == ("done", ITEMS, 0)
            assert progress.complete
        assert not self.revived
        assert all(times == 1 for times in self.ran.values()), self.ran
        store = self.world.store
        assert [pair async for pair in store.results("run")] == [(n, n) for n in range(ITEMS)]
        progress = await store.progress("run")
        assert (progress.state, progress.done) == ("done", ITEMS)


async def split_in_two(world: World) -> Any:
    return SplitInTwo(world).check


async def test_a_run_in_partitions_ends_once_and_whole(store: Store, every: int) -> None:
    assert await explore(store, split_in_two, deviations=1, every=max(1, every // 20)) > 1


async def test_a_run_in_partitions_whose_workers_are_disturbed_at_random(
    store: Store, seed: int, schedules: int
) -> None:
    await explore_at_random(store, split_in_two, seed=seed, schedules=schedules)
