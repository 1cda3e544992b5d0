"""Clocks that do not wait."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class _SetClock:
    """Shows the time that it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.seconds)


class InstantClock(_SetClock):
    """Every sleep takes one pass of the loop, and moves time on by what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        until = self.seconds + delay_s
        await asyncio.sleep(0)
        self.seconds = max(self.seconds, until)


class ManualClock(_SetClock):
    """Time stands still until `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, delay_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.seconds + delay_s, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time on, and let what was woken run."""
        self.seconds += seconds
        for until, future in self._sleepers:
            if until <= self.seconds and not future.done():
                future.set_result(None)
        self._sleepers = [each for each in self._sleepers if not each[1].done()]
        await passes()


class IdleClock(_SetClock):
    """Time moves on, to when the next sleeper is due, once the loop has nothing else to do; see `running`."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._holds = 0

    async def sleep(self, delay_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + delay_s, next(self._numbers), future))
        await future

    @contextmanager
    def held(self) -> Iterator[None]:
        """Time stands still: something is under way that the loop does not see, and that takes no time."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Time moves."""
        driver = asyncio.create_task(self._move_for_ever())
        try:
            yield
        finally:
            driver.cancel()

    async def _move_for_ever(self) -> None:
        while True:
            await passes()
            if self._sleepers and not self._holds:
                self._wake_next()
            else:
                # Looked at now and then: of holds that follow each other at once, no gap would ever be told.
                await asyncio.sleep(0.001)

    def _wake_next(self) -> None:
        self.seconds = max(self.seconds, self._sleepers[0][0])
        while self._sleepers and self._sleepers[0][0] <= self.seconds:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


async def passes(count: int = 20) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)
