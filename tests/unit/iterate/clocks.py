"""Clocks that do not wait."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class InstantClock:
    """Every sleep takes one pass of the loop, and moves time on by what was asked for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.seconds)

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        until = self.seconds + delay_s
        await asyncio.sleep(0)
        self.seconds = max(self.seconds, until)


class ManualClock:
    """Time stands still until `advance`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.seconds)

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


async def passes(count: int = 20) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)
