"""Workers of a split run, in one loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.iterate import (
    RunOutcome,
    SplitRun,
    current_item,
    execute_partition,
    execute_split,
    make_options,
    source_of,
)
from asyncworker.store import Store


class Cluster:
    """Workers in one loop: what is sent is begun at once, until they are told to lose messages or to hang."""

    def __init__(self, store: Store, count: int = 300, clock: Clock = SYSTEM_CLOCK, **options: Any) -> None:
        self.store = store
        self.clock = clock
        self.ran: Counter[int] = Counter()
        self.sent: list[int] = []
        self.loses_messages = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.source = source_of({"x": range(count)})
        self.options = make_options(**{"concurrency": 5, "checkpoint_every_s": 0.005, "partitions": 4, **options})

    async def call(self, row: dict[str, Any]) -> Any:
        await self.gate.wait()
        await asyncio.sleep(0)
        number = row["x"]
        assert current_item().index == number
        self.ran[number] += 1
        if number in self.failing:
            raise ValueError(number)
        return [number]

    failing: frozenset[int] = frozenset()
    lease_s = 3.0

    def run_of(self, **changes: Any) -> SplitRun:
        given: dict[str, Any] = {"call": self.call, "lease_s": self.lease_s, **changes}
        return SplitRun(
            source=self.source,
            options=self.options,
            store=self.store,
            run_id="run",
            task="task",
            fingerprint=self.source.fingerprint(b"fixed"),
            clock=self.clock,
            **given,
        )

    async def send(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.sent.append(number)
            if not self.loses_messages:
                self.tasks.append(asyncio.create_task(execute_partition(self.run_of(), number)))

    async def execute(self, **options: Any) -> RunOutcome:
        try:
            return await execute_split(self.run_of(), self.send, **options)
        finally:
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def run(self, **options: Any) -> RunOutcome:
        """Run it as a worker would: undivided, where it is not cut."""
        if self.options.partitions > 1:
            return await self.execute(**options)
        return await self.run_of().execute_whole(**options)

    async def results(self) -> list[Any]:
        return [pair async for pair in self.store.results("run")]
