"""Run what a test wants run, and what dies in the middle of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from asyncworker.errors import RunTakenOver
from asyncworker.iterate import RunOutcome, SkipItem, Source, execute_run, make_options
from asyncworker.store import Batch, RunHold, Store
from tests.unit.iterate.clocks import IdleClock

#: How long an item of a `Process` takes for each of up to two sleeps.
STEP_S = 0.02


async def execute(call: Any, source: Source, store: Store, **options: Any) -> RunOutcome:
    """Run a source as one run, under one name; with a short flush window, unless the options say otherwise."""
    passed = {"message", "redelivered", "resume", "force", "on_change", "drain", "lease_s", "clock", "failed_only"}
    # The holder of a run may be dead, in most tests. A busy machine answers within that.
    given: dict[str, Any] = {"on_change": "error", "lease_s": 0.25}
    given |= {name: options.pop(name) for name in list(options) if name in passed}
    chosen = make_options(**{"checkpoint_every_s": 0.005, **options})
    fingerprint = source.fingerprint(b"fixed")
    return await execute_run(
        call, source, chosen, store=store, run_id="run", task="task", fingerprint=fingerprint, **given
    )


async def results_of(store: Store) -> list[tuple[int, Any]]:
    """All results of that run."""
    return [pair async for pair in store.results("run")]


class Process:
    """A process that dies at its n-th call: nothing that it does afterwards counts, and its writes do not arrive.

    Attributes:
        executed: What was executed to its end, and when.
        died_at: When it died; ``None``: it lives.
    """

    RETRIES = 2

    def __init__(self, store: Store, clock: IdleClock, dies_after: int | None) -> None:
        self.left = dies_after
        self.clock = clock
        self.died_at: float | None = None
        self.executed: dict[int, float] = {}
        self.at_once = self.most_at_once = 0
        self.store = Store(store._engine)
        self.store.write = self.write  # type: ignore[method-assign]
        self._real = store
        self._tries: Counter[int] = Counter()

    async def run(self, source: Source, **options: Any) -> RunOutcome:
        """Run a source as one run; raises `RunTakenOver` where it dies."""
        return await execute(self.call, source, self.store, retries=self.RETRIES, clock=self.clock, **options)

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        if self.died_at is not None:
            raise RunTakenOver("this process is dead")
        with self.clock.held():
            return await self._real.write(hold, batch, first_chunk)

    async def call(self, row: dict[str, Any]) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.work(row["x"])
        finally:
            self.at_once -= 1

    async def work(self, value: int) -> Any:
        for _ in range(value % 3):
            await self.clock.sleep(STEP_S)
        if self.left == 0 and self.died_at is None:
            self.died_at = self.clock.monotonic()
        if self.died_at is not None:
            await asyncio.Event().wait()
        if self.left is not None:
            self.left -= 1
        self._tries[value] += 1
        if value % 7 == 3 and self._tries[value] == 1:
            raise OSError(value)
        failing = value % 13 == 5 and value % 11 != 7
        if failing and self._tries[value] <= self.RETRIES:
            raise ValueError(value)
        assert value not in self.executed
        self.executed[value] = self.clock.monotonic()
        if failing:
            raise ValueError(value)
        if value % 11 == 7:
            raise SkipItem
        return [value]


def undisturbed(values: list[int]) -> tuple[list[tuple[int, Any]], int, list[int]]:
    """What `Process.call` comes to: the results, how many are skipped, the indexes that fail."""
    skipped = {value for value in values if value % 11 == 7}
    failing = {value for value in values if value % 13 == 5} - skipped
    results = [(index, [value]) for index, value in enumerate(values) if value not in skipped | failing]
    return results, len(skipped), [index for index, value in enumerate(values) if value in failing]
